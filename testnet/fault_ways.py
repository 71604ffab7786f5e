"""From faults that are on to orders for the nodes they concern: who has to do what to which of its ways.

Whoever sends spoils a way: a fault on the way from a source to a target is an order for the source.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from p2p.delay_line import CLEAR
from protocol.errors import LocalError
from roles.link_orders import Order
from testnet.fault_kinds import LinkFault, Named, Partition, combine
from testnet.faults import CRASHES_MAX, Crash, FaultPlan

OUTSIDER = ""  # no node has this name: whoever is not in the network file, such as the client of `rolemesh infer`
MINUTE_MS = 60_000


@dataclass(frozen=True)
class Place:
    """A node as others see it: its id `12D3Koo…` and its IP address."""

    name: str
    node: str
    address: str


def compute_orders(name: str, on: Iterable[Named], places: Sequence[Place]) -> tuple[Order, ...]:
    """What the node called `name` has to do while these faults are on."""
    orders = []
    for named in on:
        if not isinstance(named.fault, Partition | LinkFault):
            continue
        ways = {place: combine([named.fault], name, place.name) for place in places if place.name != name}
        outside = combine([named.fault], name, OUTSIDER)
        # Of a fault that strangers feel too, those who do not are named; otherwise those who do.
        chosen = [place for place, conditions in ways.items() if (conditions == CLEAR) == (outside != CLEAR)]
        conditions = max((outside, *ways.values()), key=lambda each: each != CLEAR)
        if conditions == CLEAR:
            continue
        orders.append(
            Order(
                named.id,
                named.fault.kind,
                tuple(place.node for place in chosen),
                tuple(place.address for place in chosen),
                is_all_but=outside != CLEAR,
                delay_ms=conditions.delay_ms,
                jitter_ms=conditions.jitter_ms,
                bytes_per_s=conditions.bytes_per_s,
                loss_bp=conditions.loss_bp,
                silence=int(conditions.silence),
            )
        )
    return tuple(orders)


def list_real_faults(plan: FaultPlan) -> tuple[Named, ...]:
    """Every fault real processes can have: those of the plan, and what it says of all links for the whole run."""
    usual = FaultPlan()
    everywhere = LinkFault(
        0,
        0,
        delay_ms=plan.latency_ms if plan.latency_ms != usual.latency_ms else 0,
        jitter_ms=plan.jitter_ms if plan.jitter_ms != usual.jitter_ms else 0,
        loss_bp=plan.loss_bp,
    )
    always = () if everywhere.conditions == CLEAR else (Named("links", everywhere),)
    return (*always, *plan.list_faults())


def draw_churn(seed: int, nodes: Sequence[str], per_minute: float, duration_ms: int, down_ms: int) -> FaultPlan:
    """Nodes die and come back, `per_minute` kills at random times; none is killed while it is down.

    >>> draw_churn(7, ["a", "b"], per_minute=60, duration_ms=2_000, down_ms=500).crashes[0].node in ("a", "b")
    True
    """
    dice, at_ms, back_ms = Random(f"churn/{seed}"), 0.0, dict.fromkeys(nodes, 0)
    crashes = []
    while (at_ms := at_ms + dice.expovariate(per_minute / MINUTE_MS)) < duration_ms:
        up = [node for node in nodes if back_ms[node] <= at_ms]
        if up:
            node = dice.choice(up)
            back_ms[node] = int(at_ms) + down_ms
            crashes.append(Crash(node, int(at_ms), back_ms[node]))
    if len(crashes) > CRASHES_MAX:
        raise LocalError(f"that makes {len(crashes)} kills, a plan holds at most {CRASHES_MAX}")
    return FaultPlan(crashes=tuple(crashes))
