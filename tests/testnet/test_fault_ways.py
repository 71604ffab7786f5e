"""From a plan to what each node is told, without a process."""

from itertools import pairwise

import pytest
from hypothesis import given, settings

from p2p.delay_line import CLEAR, Silence
from protocol.errors import LocalError
from protocol.keys import PrivateKey, format_node
from roles.link_orders import LinkOrders
from testnet.fault_kinds import Named, combine
from testnet.fault_report import format_fault, measure_fault
from testnet.fault_ways import OUTSIDER, Place, compute_orders, draw_churn, list_real_faults
from testnet.faults import FaultPlan, LinkFault, Partition
from testnet.strategies import fault_plans

NAMES = ("validator-0", "inference-0", "inference-1", "client-0")
KEYS = {name: PrivateKey.from_seed(bytes([index]) * 32).public for index, name in enumerate((*NAMES, OUTSIDER))}
PLACES = [Place(name, format_node(KEYS[name]), f"127.0.1.{index}") for index, name in enumerate(NAMES)]


@given(fault_plans(NAMES))
@settings(max_examples=60)
def test_what_nodes_are_told_is_what_the_plan_says_of_every_way(plan: FaultPlan) -> None:
    addresses = {place.name: place.address for place in PLACES} | {OUTSIDER: "127.0.0.1"}
    for source in NAMES:
        rules = [order.to_rule() for order in compute_orders(source, plan.list_faults(), PLACES)]
        for target in {*NAMES, OUTSIDER} - {source}:
            wanted = combine((named.fault for named in plan.list_faults()), source, target)
            for node in (None, KEYS[target]):
                met = CLEAR
                for rule in rules:
                    if rule.covers(addresses[target], node):
                        met |= rule.conditions
                assert met == wanted, (source, target, node)


def test_what_a_plan_says_of_all_links_is_a_fault_of_the_whole_run() -> None:
    assert list_real_faults(FaultPlan()) == ()
    (named,) = list_real_faults(FaultPlan(latency_ms=20, jitter_ms=3, loss_bp=100, duplicate_bp=9))
    assert named == Named("links", LinkFault(0, 0, delay_ms=20, loss_bp=100))


def test_churn_kills_nobody_who_is_down_and_follows_from_its_seed() -> None:
    plan = draw_churn(3, ["a", "b"], per_minute=60, duration_ms=60_000, down_ms=1_500)

    assert plan == draw_churn(3, ["a", "b"], per_minute=60, duration_ms=60_000, down_ms=1_500)
    assert 20 < len(plan.crashes) < 60
    for node in "ab":
        mine = [crash for crash in plan.crashes if crash.node == node]
        assert all(before.back_ms <= after.at_ms for before, after in pairwise(mine))
    with pytest.raises(LocalError):
        draw_churn(3, ["a"], per_minute=600, duration_ms=600_000, down_ms=1)


def test_a_node_tells_of_each_order_once_and_changes_nothing_for_a_bad_one() -> None:
    told: list[tuple[str, str]] = []
    put: list[int] = []
    orders = LinkOrders(lambda rules, seed: put.append(len(rules)), lambda name, of: told.append((name, of["fault"])))
    stall = {"id": "a", "kind": "stall", "nodes": [PLACES[0].node], "silence": 1}

    orders.put({"orders": [stall]})
    orders.put({"orders": [stall, {"id": "b", "kind": "delay", "delay_ms": 5, "is_all_but": True}]})
    for bad in (
        None,
        [5],
        [{}],
        [{"id": "a", "kind": "x", "what": 1}],
        [{"id": "a", "kind": "x", "nodes": ["x"]}],
        [{"id": "a", "kind": "x", "silence": 9}],
        [{"id": "a", "kind": "x", "delay_ms": -1}],
        [{"id": "a", "kind": 7}],
        [{"id": "", "kind": "x"}],
        [stall] * 513,
    ):
        with pytest.raises(ValueError, match=r".+"):
            orders.put({"orders": bad})
    assert [order["id"] for order in orders.get()["orders"]] == ["a", "b"]
    orders.put({"orders": []})

    assert told == [("fault.started", "a"), ("fault.started", "b"), ("fault.ended", "a"), ("fault.ended", "b")]
    assert put == [1, 2, 0]


def test_a_report_says_how_long_traffic_stood_still() -> None:
    fault = {"fault": "f1.stall-0", "kind": "stall", "time_ms": 1_000, "ended_ms": 3_000}

    assert format_fault(measure_fault(fault, [900, 1_500, 3_400])) == (
        "f1.stall-0 (stall, 2.0 s): 1 attested meanwhile, longest pause 1.9 s, the next 0.4 s after its end"
    )
    assert measure_fault(fault, [900])["recovery_ms"] is None
    assert measure_fault({**fault, "ended_ms": 0}, [1_200])["pause_ms"] == 200


def test_silence_is_a_number_that_both_sides_know() -> None:
    (order,) = compute_orders("client-0", [Named("x", Partition(0, 0, (("client-0",),), refuse=True))], PLACES)

    assert (order.silence, order.is_all_but, order.nodes) == (Silence.REFUSE, True, ())
