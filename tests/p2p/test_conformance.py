"""The conformance suite, run against every network there is."""

import importlib
from collections.abc import Iterator

import pytest

from tests.p2p.conformance import Harness, NetConformance

HARNESSES = ["tests.p2p.libp2p_harness:Libp2pHarness", "tests.p2p.sim_harness:SimHarness"]


@pytest.fixture(params=HARNESSES, ids=["libp2p", "sim"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    module, name = request.param.split(":")
    try:
        made = getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        pytest.skip(f"{module} is not there")
    yield made
    made.close()


class TestEveryNetwork(NetConformance):
    """Each case once per network."""
