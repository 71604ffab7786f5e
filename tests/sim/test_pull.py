"""What must arrive is found and fetched by asking, whatever gossip loses: a fifth, a half, or all of it.

A kind whose gossip is lost whole is lost where a node takes gossip in: every node's check of that topic says ignore.
"""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.types import NodeState, Verdict
from roles import submitter
from roles.core import NodeCore
from testnet.faults import Crash, FaultPlan, Partition
from testnet.genesis import DEFAULT_ROLES, name_nodes
from testnet.sim import Network, simulate
from tests.sim.test_network import assert_nothing_acknowledged_is_lost, count_paid, settle

# An oracle would always have a report on its way to the ledger: without one, in the end nothing may be pending.
# One verifier more than a request needs: without one of them the network still has work.
ROLES = {role: count for role, count in DEFAULT_ROLES.items() if role != "oracle"} | {"verifier": 3}
NODES = tuple(name_nodes(ROLES))
REQUESTS = 8
PAUSE_MS = 700
LEVEL_MS = 4_000  # two turns of the slowest pull, for the last block to reach everybody
ATTESTED_MS = 10_000  # of a request's thirty seconds, from when its worker is asked
NEVER = 1_000_000
SEEDS = [1, pytest.param(2, marks=pytest.mark.full)]
LATER = ("storage-0", "inference-2")  # each as slow as the one that `make test` has


def lose_all_gossip(monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    """Not one message of this topic reaches any node by gossip."""
    check = NodeCore.check

    def check_or_lose(self: NodeCore, name: str, data: bytes, forwarder: bytes, now_ms: int) -> Verdict:
        is_lost = name.split("/")[3] == topic
        return Verdict.IGNORE if is_lost else check(self, name, data, forwarder, now_ms)

    monkeypatch.setattr(NodeCore, "check", check_or_lose)


def start(seed: int, faults: FaultPlan | None = None) -> Network:
    network = simulate(seed, ROLES, faults=faults)
    nodes = network.nodes.values()
    assert network.run_until(lambda: all(node.is_up and node.core.state is NodeState.SERVING for node in nodes))
    return network


def run_requests(network: Network, within_ms: int) -> None:
    """Ask one after the other; each is attested in time, and in the end all is settled and everybody level."""
    supply = network.supply()
    asked = []
    for row in range(REQUESTS):
        network.run_for(PAUSE_MS)
        asked.append(network.request("digits", input=row))
    assert network.run_until(lambda: all(each.is_done for each in asked), within_ms)
    assert [each.label for each in asked] == [each.expected for each in asked]
    settle(network)
    assert_complete(network)
    assert count_paid(network.ledger) >= REQUESTS
    assert network.supply() == supply
    assert_nothing_acknowledged_is_lost(network, asked)


def assert_complete(network: Network) -> None:
    """Every transaction has landed, every claim is settled, every node is where the ledger was."""
    height = network.ledger.height
    cores = [node.core for node in network.nodes.values()]
    assert network.run_until(lambda: all(core.ledger.height >= height for core in cores), LEVEL_MS)
    assert network.run_until(lambda: not any(core.pending_transactions for core in cores), LEVEL_MS)


def count_pulled(network: Network, node: str = "") -> int:
    """Messages that nodes, or one of them, had by asking and not by gossip."""
    return sum(event["messages"] for event in network.get_events("gossip.pulled") if node in ("", event["node"]))


@pytest.mark.parametrize("seed", SEEDS)
def test_with_all_gossip_of_claims_lost_verifiers_find_them_and_attest(monkeypatch, seed):
    lose_all_gossip(monkeypatch, "claims")
    network = start(seed)

    run_requests(network, ATTESTED_MS)

    claims = {event["claim_id"] for event in network.get_events("claim.made")}
    attested = [event["claim_id"] for event in network.get_events("attestation.made")]
    assert claims
    assert all(attested.count(claim) == 2 for claim in claims)
    assert count_pulled(network) >= 2 * REQUESTS


@pytest.mark.parametrize("seed", SEEDS)
def test_with_all_gossip_of_attestations_lost_workers_find_them_and_are_paid(monkeypatch, seed):
    lose_all_gossip(monkeypatch, "proofs")
    # The worker's own question to the verifiers it knows were drawn would find them too.
    monkeypatch.setattr("roles.claimant.ASK_MS", NEVER)
    monkeypatch.setattr("roles.claimant.ASK_MS_MAX", NEVER)
    network = start(seed)

    run_requests(network, ATTESTED_MS)

    assert count_pulled(network) >= 2 * REQUESTS


@pytest.mark.parametrize("seed", SEEDS)
def test_with_all_gossip_of_transactions_lost_validators_find_them_and_build(monkeypatch, seed):
    lose_all_gossip(monkeypatch, "txs")
    monkeypatch.setattr(submitter, "GOSSIP_TRIES", NEVER)  # nor does the sender go to a validator itself
    network = start(seed)

    run_requests(network, 2 * ATTESTED_MS)

    decided = sum(event["transactions"] for event in network.get_events("block.decided"))
    assert count_pulled(network, "validator-0") >= decided > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_with_all_gossip_of_heads_lost_every_node_follows_within_two_turns(monkeypatch, seed):
    lose_all_gossip(monkeypatch, "heads")
    network = start(seed)

    run_requests(network, 2 * ATTESTED_MS)

    assert network.ledger.height > 0


def draw_plan(seed: int) -> FaultPlan:
    """A fifth to a half of gossip lost, duplicates, reordering, and one or two partitions that heal."""
    rng = random.Random(seed)
    cuts = []
    for _ in range(rng.randrange(1, 3)):
        start_ms = rng.randrange(2_000, 10_000)
        group = tuple(sorted(rng.sample(NODES, rng.randrange(1, 5))))
        cuts.append(Partition(start_ms, start_ms + rng.randrange(500, 6_000), (group,)))
    return FaultPlan(
        loss_bp=rng.randrange(2_000, 5_001),
        duplicate_bp=rng.choice([0, 1_000]),
        latency_ms=rng.choice([2, 20]),
        jitter_ms=rng.choice([3, 60]),
        partitions=tuple(cuts),
    )


def run_plan(seed: int) -> None:
    network = start(seed, draw_plan(seed))
    run_requests(network, 30_000)


@given(seed=st.integers(0, 2**32))
@example(seed=1)
@settings(max_examples=settings.default.max_examples // 50, deadline=None)
def test_whatever_seed_loses_up_to_half_of_all_gossip_everything_arrives(seed):
    run_plan(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, 60, 10))
def test_up_to_half_lost_and_partitions_for_many_seeds(first):
    for seed in range(first, first + 10):
        run_plan(seed)


@pytest.mark.parametrize("name", ["verifier-0", *(pytest.param(each, marks=pytest.mark.full) for each in LATER)])
def test_a_node_that_was_down_for_long_catches_up_within_seconds_of_its_return(name):
    network = start(5, FaultPlan(loss_bp=3_000, crashes=(Crash(name, 20_000),)))
    network.run_until(21_000)
    for row in range(45):
        network.request("digits", input=row)
        network.run_for(4_000)
    height, kept = network.ledger.height, network.nodes[name].disk.state
    assert height - (kept.height if kept is not None else 0) > 20

    network.start(name)

    core = network.nodes[name].core
    assert network.run_until(lambda: core.ledger.height >= height and core.state is NodeState.SERVING, LEVEL_MS)


def test_an_idle_network_pulls_and_writes_nothing():
    network = start(3)
    network.run_for(30_000)
    height, pulled = network.ledger.height, count_pulled(network)

    network.run_for(120_000)

    assert network.ledger.height == height
    assert count_pulled(network) == pulled
