"""A fault plan is checked when made, and its text says all of it."""

from pathlib import Path

import pytest
from hypothesis import find, given, settings

from p2p.delay_line import CLEAR, Conditions, Silence
from protocol.errors import LocalError
from testnet.faults import Crash, FaultPlan, LinkFault, Partition, Pause
from testnet.genesis import DEFAULT_ROLES, name_nodes
from testnet.kernel import START_MS
from testnet.sim import simulate
from testnet.strategies import fault_plans

ROOT = Path(__file__).parents[2]


@given(fault_plans())
def test_a_plan_survives_its_own_text(plan):
    assert FaultPlan.from_text(plan.to_text()) == plan
    assert plan.quiet_ms <= 10_000


@given(fault_plans())
def test_no_drawn_link_fault_does_nothing(plan):
    assert all(link.conditions != CLEAR for link in plan.links)


def test_a_partition_separates_its_groups_and_the_rest_while_it_lasts():
    plan = FaultPlan(partitions=(Partition(100, 200, (("a", "b"), ("c",))),))

    assert plan.separates("a", "c", at_ms=100)
    assert plan.separates("a", "d", at_ms=199)
    assert not plan.separates("a", "b", at_ms=150)
    assert not plan.separates("d", "e", at_ms=150)
    assert not plan.separates("a", "c", at_ms=200)


def test_a_one_way_partition_cuts_what_its_first_group_sends_and_nothing_else():
    plan = FaultPlan(partitions=(Partition(0, 10, (("a",), ("b",)), one_way=True, refuse=True),))

    silences = {(s, t): plan.get_conditions(s, t, 5).silence for s in "abc" for t in "abc" if s != t}

    assert {way for way, silence in silences.items() if silence is Silence.REFUSE} == {("a", "b"), ("a", "c")}
    assert set(silences.values()) == {Silence.REFUSE, Silence.NONE}


def test_faults_of_one_way_add_up_while_they_last():
    slow = LinkFault(0, 100, ("a",), ("b",), delay_ms=30, bytes_per_s=9_000)
    worse = LinkFault(50, 0, both_ways=True, sources=("b",), delay_ms=5, jitter_ms=2, bytes_per_s=500, silence="stall")
    plan = FaultPlan(links=(slow, worse))

    assert plan.get_conditions("a", "b", 10) == Conditions(30, 0, 9_000)
    assert plan.get_conditions("a", "b", 60) == Conditions(35, 2, 500, 0, Silence.STALL)
    assert plan.get_conditions("b", "a", 10) == CLEAR
    assert plan.get_conditions("b", "c", 10_000_000) == Conditions(5, 2, 500, 0, Silence.STALL)
    assert plan.get_conditions("a", "c", 60) == CLEAR


def test_every_fault_has_an_id_and_says_what_it_is():
    plan = FaultPlan(
        partitions=(Partition(9, 20, (("a",),), one_way=True),),
        pauses=(Pause("b", 3, 5),),
        links=(LinkFault(1, 0, delay_ms=7), LinkFault(2, 4, silence="blackhole")),
    )

    assert [named.id for named in plan.list_faults()] == ["link-0", "link-1", "pause-0", "partition-0"]
    assert [named.describe() for named in plan.list_faults()] == [
        {"fault": "link-0", "kind": "delay", "delay_ms": 7},
        {"fault": "link-1", "kind": "blackhole", "silence": "blackhole"},
        {"fault": "pause-0", "kind": "pause", "nodes": ("b",)},
        {"fault": "partition-0", "kind": "partition", "groups": (("a",),), "one_way": True},
    ]
    assert plan.list_nodes() == ("a", "b")


def test_a_simulated_run_logs_where_each_fault_begins_and_ends():
    plan = FaultPlan(partitions=(Partition(100, 900, (("client-0",),)),), crashes=(Crash("oracle-0", 500, 0),))
    network = simulate(3, faults=plan)

    network.run_until(2_000)

    told = [
        (event["name"], event["fault"], event["time_ms"] - START_MS) for event in network.events if "fault" in event
    ]
    assert told == [
        ("fault.started", "partition-0", 100),
        ("fault.started", "crash-0", 500),
        ("fault.ended", "partition-0", 900),
    ]


@pytest.mark.full
def test_plans_shrink_to_the_one_fault_that_matters():
    is_swallowed = lambda plan: any(link.silence == "blackhole" for link in plan.links)  # noqa: E731

    smallest = find(fault_plans(("a", "b")), is_swallowed, settings=settings(database=None))

    assert smallest == FaultPlan(latency_ms=0, jitter_ms=0, links=(LinkFault(0, 1, silence="blackhole"),))


def test_the_plan_in_the_examples_is_one_for_the_default_network():
    plan = FaultPlan.from_text((ROOT / "docs/examples/faults.json").read_text())

    assert set(plan.list_nodes()) <= set(name_nodes(DEFAULT_ROLES))
    assert {type(named.fault) for named in plan.list_faults()} == {Partition, LinkFault, Pause, Crash}
    blocks = (ROOT / "docs/faults.md").read_text().split("```json\n")[1:]
    assert [FaultPlan.from_text(block.partition("```")[0]).loss_bp for block in blocks] == [50]


def test_quiet_begins_when_the_last_planned_thing_has_happened():
    assert FaultPlan().quiet_ms == 0
    assert FaultPlan(crashes=(Crash("a", 500, 700),), partitions=(Partition(1, 600, ()),)).quiet_ms == 700


@pytest.mark.parametrize(
    "make",
    [
        lambda: FaultPlan(loss_bp=10_001),
        lambda: FaultPlan(latency_ms=-1),
        lambda: FaultPlan(jitter_ms=True),
        lambda: FaultPlan(partitions=(Partition(5, 5, ()),)),
        lambda: FaultPlan(crashes=(Crash("a", 10, 5),)),
        lambda: FaultPlan.from_text("[]"),
        lambda: FaultPlan.from_text("{"),
        lambda: FaultPlan.from_text('{"loss": 5}'),
        lambda: FaultPlan.from_text('{"loss_bp": "5"}'),
        lambda: FaultPlan.from_text('{"crashes": [["a", 1.5]]}'),
        lambda: FaultPlan.from_text('{"partitions": [[1, 2]]}'),
        lambda: FaultPlan.from_text('{"partitions": 7}'),
        lambda: FaultPlan.from_text('{"partitions": [[1, 2, "ab"]]}'),
        lambda: FaultPlan.from_text('{"partitions": [[1, 2, [["a"], ["a"]]]]}'),
        lambda: FaultPlan.from_text('{"pauses": [["a", 1, 2, 3]]}'),
        lambda: FaultPlan.from_text('{"pauses": [{"node": "a", "start": 1}]}'),
        lambda: FaultPlan.from_text('{"links": [{"start_ms": 1, "end_ms": 2, "delay_ms": true}]}'),
        lambda: FaultPlan.from_text('{"links": [{"start_ms": 1, "end_ms": 2, "silence": "quiet"}]}'),
        lambda: FaultPlan(links=(LinkFault(0, 5, delay_ms=60_001),)),
        lambda: FaultPlan(pauses=(Pause("a", 5, 5),) * 2),
        lambda: FaultPlan(pauses=(Pause("a", 0, 5),) * 257),
        lambda: FaultPlan.from_text(" " * 100_000),
    ],
)
def test_an_impossible_plan_is_refused_with_a_reason(make):
    with pytest.raises(LocalError):
        make()
