"""Gossip may lose a third of everything, twice over and out of order: what must arrive does, by asking for it.

30 % loss on every link, 20 % duplicates, reordering, and a partition of six seconds that heals. Transactions
are repeated, then handed to a validator; workers chase attestations, clients pull them, followers poll for blocks.
"""

import random

import pytest

from protocol.types import NodeState
from testnet.faults import FaultPlan, Partition
from testnet.genesis import DEFAULT_ROLES, name_nodes
from testnet.sim import simulate
from tests.sim.test_network import SETTLED_MS, assert_nothing_acknowledged_is_lost, count_paid

NODES = tuple(name_nodes(DEFAULT_ROLES))
REQUESTS = 20
PAUSE_MS = 500
LEVEL_MS = 5_000  # for the last block to reach everybody
CHUNK = 10


def make_plan(seed: int) -> FaultPlan:
    """The faults of one seed; which nodes are cut off is drawn from it."""
    rng = random.Random(seed)
    group = tuple(sorted(rng.sample(NODES, rng.randrange(1, 4))))
    return FaultPlan(3_000, 2_000, latency_ms=10, jitter_ms=60, partitions=(Partition(3_000, 9_000, (group,)),))


def run_lossy(seed: int) -> None:
    network = simulate(seed, faults=make_plan(seed))
    supply = network.supply()
    assert network.run_until(lambda: all(node.core.state is NodeState.SERVING for node in network.nodes.values()))
    asked = []
    for row in range(REQUESTS):
        network.run_for(PAUSE_MS)
        asked.append(network.request("digits", input=row))

    assert network.run_until(lambda: all(each.is_done for each in asked))
    assert [each.label for each in asked] == [each.expected for each in asked]
    network.run_for(SETTLED_MS)
    height = network.ledger.height
    assert network.run_until(
        lambda: all(node.core.ledger.height >= height for node in network.nodes.values()), LEVEL_MS
    )

    # Every claim has its attestations and is paid, every transaction is in a block, every node has every block.
    assert count_paid(network.ledger) >= REQUESTS
    assert network.supply() == supply
    assert_nothing_acknowledged_is_lost(network, asked)
    assert network.run_until(lambda: not any(node.core.pending_transactions for node in network.nodes.values()))


@pytest.mark.parametrize("seed", [35, 101, 116, 130])
def test_what_must_arrive_does_though_gossip_loses_a_third(seed):
    run_lossy(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(100, 200, CHUNK))
def test_what_must_arrive_does_for_many_seeds(first):
    for seed in range(first, first + CHUNK):
        run_lossy(seed)
