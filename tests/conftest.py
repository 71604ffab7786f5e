"""How the suite searches: the same examples every time in `make test`, new and more of them at night."""

import gc
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import HealthCheck, settings

from roles.interpreter import COLLECT_EVERY
from testnet.pytest_plugin import pytest_runtest_makereport as pytest_runtest_makereport

# Processes share two cores with the tests that start networks: a slow example says nothing about the code.
settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("ROLEMESH_PROFILE", "ci" if os.environ.get("CI") else "default"))

# Reading 4,000 tests makes many objects that stay, and running them few that are in cycles: looking for garbage as
# often as Python begins with takes a fifth of the time of tests that make many small objects.
gc.set_threshold(*COLLECT_EVERY)

# What takes longest begins first (a file stays with one worker), or the end of a run waits for one of them alone.
LONGEST = (
    "tests/testnet/test_network.py",
    "tests/sim/test_agreement_seeds.py",
    "tests/testnet/test_nothing_lost.py",
    "tests/testnet/test_validators.py",
    "tests/roles/engine/test_pool.py",
    "tests/testnet/test_model_registry.py",
    "tests/sim/test_network.py",
    "tests/testnet/test_faults.py",
    "tests/p2p/attacks/test_stream_attacks.py",
    "tests/sim/test_agreement.py",
    "tests/sim/test_validators.py",
    "tests/sim/test_restart.py",
    "tests/protocol/ledger/test_state_machine.py",
    "tests/protocol/ledger/test_against_naive_ledger.py",
    "tests/sim/test_pull.py",
    "tests/testnet/bench/test_attack.py",
    "tests/testnet/bench/test_cheat.py",
    "tests/sim/test_modes.py",
    "tests/sim/test_lossy.py",
    "tests/p2p/attacks/test_gossip_attacks.py",
    "tests/testnet/test_wallet.py",
    "tests/roles/engine/test_zoo.py",
    "tests/roles/test_node_process.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Looking for examples goes through every object of a module: only where there are any."""
    found = yield
    if file_path.suffix != ".py" or ">>>" in file_path.read_text(encoding="utf-8"):
        return found
    return [each for each in found if not isinstance(each, DoctestModule)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {config.rootpath / Path(name): place for place, name in enumerate(LONGEST)}
    if gone := [str(path) for path in places if not path.exists()]:
        raise pytest.UsageError(f"tests/conftest.py names files that are gone: {', '.join(gone)}")
    gc.freeze()
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
