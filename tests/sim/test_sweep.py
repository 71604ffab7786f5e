"""Many seeds, each with faults drawn from it: for `make test-full`, and by range for `make nightly`.

    ROLEMESH_SEEDS=1000:9000 make nightly ARGS=tests/sim/test_sweep.py

runs that range, so a night that was broken off goes on where it stopped. `make nightly` takes the range for all of it:
the Makefile says how.
"""

import os
import random

import pytest

from testnet.faults import Crash, FaultPlan, Partition
from testnet.genesis import DEFAULT_ROLES, name_nodes
from testnet.sim import simulate
from tests.sim.test_network import SETTLED_MS, assert_nothing_acknowledged_is_lost

NODES = tuple(name_nodes(DEFAULT_ROLES))
REQUESTS = 25
CHUNK = 20


def draw_plan(rng: random.Random) -> FaultPlan:
    partitions = [
        Partition(
            start_ms, start_ms + rng.randrange(100, 6_000), (tuple(sorted(rng.sample(NODES, rng.randrange(1, 5)))),)
        )
        for start_ms in (rng.randrange(8_000) for _ in range(rng.randrange(3)))
    ]
    crashes = [
        Crash(name, at_ms, at_ms + rng.randrange(300, 4_000))
        for name, at_ms in ((name, rng.randrange(8_000)) for name in rng.sample(NODES, rng.randrange(4)))
    ]
    return FaultPlan(
        loss_bp=rng.choice([0, 0, 500, 1_500]),
        duplicate_bp=rng.choice([0, 500]),
        latency_ms=rng.choice([1, 20, 80]),
        jitter_ms=rng.choice([2, 50]),
        partitions=tuple(partitions),
        crashes=tuple(crashes),
    )


def sweep(seed: int) -> None:
    """One network whose client asks for 25 digits while things go wrong, the first worker lying."""
    rng = random.Random(seed)
    plan = draw_plan(rng)
    network = simulate(seed, liars=1, faults=plan)
    bonds, supply = network.bonds, network.supply()
    asked = []
    for row in range(REQUESTS):
        network.run_for(rng.randrange(800))
        asked.append(network.request("digits", input=row))
    assert network.run_until(lambda: all(each.is_done for each in asked))
    network.run_for(SETTLED_MS)

    assert network.supply() == supply
    assert_nothing_acknowledged_is_lost(network, asked)
    assert {name for name, bond in network.bonds.items() if bond < bonds[name]} <= {"inference-0"}
    lies, proven = (len(network.get_events(name)) for name in ("lie.told", "wrong.proven"))
    # The evidence is the client's: when it is killed, an unpaid lie may go unpunished. A liar killed before its lie was
    # on disk has told it to nobody.
    killed = {crash.node for crash in plan.crashes}
    assert proven == lies or (proven < lies and killed & {"client-0", "inference-0"})


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, 3 * CHUNK, CHUNK))
def test_seeds_with_faults_of_every_kind(first):
    for seed in range(first, first + CHUNK):
        sweep(seed)


def get_range() -> range:
    first, _, last = os.environ.get("ROLEMESH_SEEDS", "100:2100").partition(":")
    return range(int(first), int(last), CHUNK)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", get_range())
def test_a_range_of_seeds_with_faults_of_every_kind(first):
    for seed in range(first, first + CHUNK):
        sweep(seed)
