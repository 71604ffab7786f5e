"""For pytest: a failed test that simulated a network ends with the token that replays it.

Use it in a `conftest.py`: `from testnet.pytest_plugin import pytest_runtest_makereport`. Under Hypothesis the last
network is that of the shrunk example, so its token holds the shrunk plan.
"""

import sys
from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, Any, Any]:
    report = yield
    sim = sys.modules.get("testnet.sim")
    if report.when == "call" and report.failed and sim is not None:
        network = sim.get_latest()
        if network is not None:
            report.sections.append(("replay this network with", f"rolemesh sim --replay {network.token}"))
    return report
