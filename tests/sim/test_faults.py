"""A fault plan is checked when made, and its text says all of it."""

import pytest
from hypothesis import given

from protocol.errors import LocalError
from testnet.faults import Crash, FaultPlan, Partition
from testnet.strategies import fault_plans


@given(fault_plans())
def test_a_plan_survives_its_own_text(plan):
    assert FaultPlan.from_text(plan.to_text()) == plan


def test_a_partition_separates_its_groups_and_the_rest_while_it_lasts():
    plan = FaultPlan(partitions=(Partition(100, 200, (("a", "b"), ("c",))),))

    assert plan.separates("a", "c", at_ms=100)
    assert plan.separates("a", "d", at_ms=199)
    assert not plan.separates("a", "b", at_ms=150)
    assert not plan.separates("d", "e", at_ms=150)
    assert not plan.separates("a", "c", at_ms=200)


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
        lambda: FaultPlan.from_text(" " * 100_000),
    ],
)
def test_an_impossible_plan_is_refused_with_a_reason(make):
    with pytest.raises(LocalError):
        make()
