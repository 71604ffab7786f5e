"""Feeds through crashes, partitions and loss: never two reports for one round, no word taken back, and in time."""

from dataclasses import replace

import pytest

from protocol.ledger.feeds import AccuseObserver, get_observers
from protocol.ledger.transactions import ReportOracle, read_transaction
from roles import core_effects as ce
from testnet.faults import Crash, FaultPlan, LinkFault, Partition
from testnet.genesis import FEED_NAME, FEED_PATH
from testnet.sim import Network, simulate
from testnet.sim_inputs import FEED_URL
from tests.support.feeds import TERMS

ROLES = {"validator": 4, "oracle": 4}
HEARTBEAT_MS = 5_000


def list_bodies(network: Network) -> list[object]:
    """What every decided block has put on the ledger, in order."""
    blocks = max((node.disk.blocks for node in network.nodes.values()), key=len)
    bodies = [read_transaction(data).content for _, item in sorted(blocks.items()) for data in item.block.transactions]
    return [body for body in bodies if isinstance(body, ReportOracle | AccuseObserver)]


def list_reports(network: Network) -> list[tuple[int, int]]:
    """The positions that were reported, in the order of the blocks."""
    firsts = [body.observations[0] for body in list_bodies(network) if isinstance(body, ReportOracle)]
    return [(first.round, first.sequence) for first in firsts]


def list_latencies(network: Network) -> list[int]:
    """From the begin of each round that was reported to the time of the block that holds it, in ms."""
    found: dict[int, int] = {}
    blocks = max((node.disk.blocks for node in network.nodes.values()), key=len)
    for _, item in sorted(blocks.items()):
        for data in item.block.transactions:
            body = read_transaction(data).content
            if isinstance(body, ReportOracle):
                first = body.observations[0]
                found[first.round] = item.block.header.time_ms - first.round * HEARTBEAT_MS
    return sorted(found.values())


def check(network: Network) -> None:
    positions = list_reports(network)
    assert positions == sorted(set(positions))  # in order, and none twice
    assert not [body for body in list_bodies(network) if isinstance(body, AccuseObserver)]
    assert not network.get_events("oracle.equivocated")
    assert network.find_violations() == []


def make_faults(seed: int) -> FaultPlan:
    """Every oracle dies once, one for good for a while; the network falls into two, and much is lost all along."""
    crashes = tuple(
        Crash(f"oracle-{number}", 4_000 + 6_000 * number + seed % 5 * 700, 9_000 + 6_000 * number + seed % 3 * 4_000)
        for number in range(4)
    )
    halves = (("oracle-0", "validator-0"), ("oracle-1",))
    return FaultPlan(
        loss_bp=1_000 + seed % 4 * 500,
        duplicate_bp=500,
        crashes=crashes,
        partitions=(Partition(12_000, 20_000, halves), Partition(26_000, 31_000, (("oracle-3",),), one_way=True)),
        links=(LinkFault(0, 0, ("oracle-2",), (), delay_ms=150, jitter_ms=100),),
    )


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full), pytest.param(3, marks=pytest.mark.full)])
def test_through_crashes_and_partitions_there_are_never_two_reports_for_one_round(seed) -> None:
    network = simulate(seed, roles=ROLES, faults=make_faults(seed))
    network.run_until(45_000)
    check(network)
    assert len(list_reports(network)) >= 5


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 140))
def test_so_it_is_from_many_seeds(seed) -> None:
    network = simulate(seed, roles=ROLES, faults=make_faults(seed))
    network.run_until(45_000)
    check(network)


def test_reports_reach_the_ledger_within_a_heartbeat() -> None:
    network = simulate(5, roles={"validator": 1, "oracle": 4})
    network.run_until(60_000)
    check(network)
    latencies = list_latencies(network)
    assert len(latencies) >= 11
    assert latencies[-1] <= HEARTBEAT_MS


def test_one_liar_of_four_moves_no_value_out_of_what_the_others_saw() -> None:
    liar = {"oracle-0": {"class": "testnet.liars:LyingOracle"}}
    network = simulate(6, roles={"validator": 1, "oracle": 4}, options=liar)
    network.run_until(40_000)
    check(network)
    account = network.nodes["oracle-0"].keys.account.public
    assert network.get_events("lie.told")
    reports = [body for body in list_bodies(network) if isinstance(body, ReportOracle)]
    assert len(reports) >= 6
    own = network.nodes["oracle-0"].keys.node.public
    for body in reports:
        honest = [item.value for item in body.observations if item.observer != own]
        median = sorted(item.value for item in body.observations)[(len(body.observations) - 1) // 2]
        assert min(honest) <= median <= max(honest)
    assert network.ledger.work[account].outliers
    assert network.ledger.feeds[FEED_NAME].reports == len(reports)


def test_who_signs_two_readings_for_one_round_loses_stake() -> None:
    liar = {"oracle-0": {"class": "testnet.liars:EquivocatingOracle"}}
    network = simulate(7, roles={"validator": 1, "oracle": 4}, options=liar)
    bond = network.bonds["oracle-0"]
    assert network.run_until(lambda: network.bonds["oracle-0"] < bond, limit_ms=20_000)
    network.run_for(15_000)
    assert sum(isinstance(body, AccuseObserver) for body in list_bodies(network)) == 1
    assert network.find_violations() == []


def test_a_feed_that_is_registered_is_joined_and_reported_between_heartbeats_when_it_moves() -> None:
    """Through the death of an observer, whose signed readings stay its only ones."""
    feeds = {FEED_NAME: {"url": FEED_URL, "path": FEED_PATH}, "moving": {}}
    plan = FaultPlan(crashes=(Crash("oracle-1", 14_000, 17_000), Crash("oracle-2", 23_500, 24_500)))
    network = simulate(
        8, roles={"validator": 1, "oracle": 4, "client": 1}, options={"oracle": {"feeds": feeds}}, faults=plan
    )
    network.run_until(2_000)
    terms = replace(TERMS, name="moving", address=FEED_URL, path=FEED_PATH, heartbeat_ms=HEARTBEAT_MS, deviation_bp=50)
    network.nodes["client-0"].handle(ce.Order("register", replace(terms, age_ms_max=10_000)))
    network.run_until(60_000)

    reports = [body for body in list_bodies(network) if isinstance(body, ReportOracle)]
    positions = [
        (first.round, first.sequence) for first in (body.observations[0] for body in reports) if first.feed == "moving"
    ]
    assert positions == sorted(set(positions))
    assert len({number for number, _ in positions}) >= 9
    assert sum(sequence > 0 for _, sequence in positions) >= 5
    assert not network.get_events("oracle.equivocated")
    assert len(get_observers(network.ledger, network.ledger.feed_terms["moving"], 10**12)) == 4
    assert network.find_violations() == []
