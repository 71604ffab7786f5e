"""Gossip may lose a third of everything, twice over and out of order: what must arrive does, by asking for it.

30 % loss on every link, 20 % duplicates, jitter, and a partition of six seconds that heals; or ways that are late,
narrow, stalled or swallow what they are given. Transactions are repeated, then handed to a validator; workers chase
attestations, clients pull them, followers poll for blocks.
"""

import random

import pytest

from protocol.types import NodeState
from testnet.faults import FaultPlan, LinkFault, Partition, Pause
from testnet.genesis import DEFAULT_ROLES, name_nodes
from testnet.sim import simulate
from tests.sim.test_network import assert_nothing_acknowledged_is_lost, count_paid, settle

NODES = tuple(name_nodes(DEFAULT_ROLES))
REQUESTS, FEW = 20, 10
PAUSE_MS = 500
CHUNK = 10


def make_plan(seed: int) -> FaultPlan:
    """The faults of one seed; which nodes are cut off is drawn from it."""
    rng = random.Random(seed)
    group = tuple(sorted(rng.sample(NODES, rng.randrange(1, 4))))
    return FaultPlan(3_000, 2_000, latency_ms=10, jitter_ms=60, partitions=(Partition(3_000, 9_000, (group,)),))


WORKERS = ("inference-0", "inference-1", "inference-2")
VERIFIERS = ("verifier-0", "verifier-1")
# What a way may do for five of the seconds in which requests are made, on top of a tenth of all gossip lost.
BAD_WAYS = {
    "late and shuffled": (LinkFault(3_000, 8_000, delay_ms=150, jitter_ms=300),),
    "losing segments": (LinkFault(3_000, 8_000, loss_bp=1_500),),
    "narrow": (LinkFault(3_000, 8_000, both_ways=True, bytes_per_s=20_000, targets=("validator-0",)),),
    "stalled": (LinkFault(3_000, 8_000, WORKERS, VERIFIERS, silence="stall"),),
    "swallowing": (LinkFault(3_000, 8_000, VERIFIERS, (*WORKERS, "client-0"), silence="blackhole"),),
}


def run_lossy(seed: int, plan: FaultPlan, requests: int = REQUESTS) -> None:
    network = simulate(seed, faults=plan)
    supply = network.supply()
    assert network.run_until(lambda: all(node.core.state is NodeState.SERVING for node in network.nodes.values()))
    asked = []
    for row in range(requests):
        network.run_for(PAUSE_MS)
        asked.append(network.request("digits", input=row))

    assert network.run_until(lambda: all(each.is_done for each in asked))
    assert [each.label for each in asked] == [each.expected for each in asked]
    settle(network)

    # Every claim has its attestations and is paid, every transaction is in a block, every node has every block.
    assert count_paid(network.ledger) >= requests
    assert network.supply() == supply
    assert_nothing_acknowledged_is_lost(network, asked)
    assert network.run_until(lambda: not any(node.core.pending_transactions for node in network.nodes.values()))


@pytest.mark.parametrize("seed", [35, *(pytest.param(seed, marks=pytest.mark.full) for seed in (101, 116, 130))])
def test_what_must_arrive_does_though_gossip_loses_a_third(seed):
    run_lossy(seed, make_plan(seed))


@pytest.mark.parametrize("way", BAD_WAYS)
def test_what_must_arrive_does_over_ways_that_are(way):
    run_lossy(7, FaultPlan(loss_bp=1_000, links=BAD_WAYS[way]), FEW)


@pytest.mark.parametrize(
    "cut",
    [
        Partition(4_000, 7_000, (("validator-0",),), one_way=True),
        Partition(4_000, 7_000, (VERIFIERS,), one_way=True, refuse=True),
        Partition(4_000, 5_000, (("client-0",), WORKERS), refuse=True),
    ],
)
def test_what_must_arrive_does_after_partitions_of_every_kind(cut):
    run_lossy(8, FaultPlan(loss_bp=1_000, partitions=(cut,)), FEW)


@pytest.mark.parametrize("node", ["validator-0", "inference-1", pytest.param("verifier-0", marks=pytest.mark.full)])
def test_what_must_arrive_does_though_a_node_stands_still(node):
    run_lossy(9, FaultPlan(loss_bp=1_000, pauses=(Pause(node, 4_000, 7_000),)), FEW)


@pytest.mark.full
@pytest.mark.parametrize("first", range(100, 200, CHUNK))
def test_what_must_arrive_does_for_many_seeds(first):
    for seed in range(first, first + CHUNK):
        run_lossy(seed, make_plan(seed))
