"""What users import from the simulator stays where it is."""

import inspect

from testnet import strategies
from testnet.faults import Crash, FaultPlan, Partition
from testnet.sim import Network, simulate
from testnet.sim_replay import replay, run_token


def test_a_network_is_made_and_asked_by_these_names():
    assert list(inspect.signature(simulate).parameters) == ["seed", "roles", "liars", "faults", "options"]
    assert list(inspect.signature(Network.request).parameters)[1:3] == ["model", "input"]
    for name in ("request", "run_until", "supply", "one_state_root"):
        assert callable(getattr(Network, name))
    assert isinstance(simulate(seed=1).events, list)
    assert callable(replay)
    assert callable(run_token)


def test_a_fault_plan_is_one_frozen_dataclass_of_these_fields():
    plan = FaultPlan(
        loss_bp=1,
        duplicate_bp=2,
        latency_ms=3,
        jitter_ms=4,
        partitions=(Partition(start_ms=1, end_ms=2, groups=(("a",),)),),
        crashes=(Crash(node="a", at_ms=1, back_ms=2),),
    )

    assert FaultPlan.from_text(plan.to_text()) == plan
    assert hash(plan) == hash(FaultPlan.from_text(plan.to_text()))


def test_the_strategies_go_by_these_names():
    for name in ("messages", "transactions", "blocks", "schedules", "fault_plans", "seeds"):
        assert callable(getattr(strategies, name))
