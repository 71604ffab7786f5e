"""What a node of a test network is told to do to its own links, over the control socket.

An order names one fault of a plan and how this node's ways to some peers are while it is on. Every request holds all
orders there are, so that one that was missed, or a node that was down, is set right by the next.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from p2p.delay_line import RULES_MAX, Conditions, Rule, Silence
from protocol.errors import MalformedMessage
from protocol.keys import parse_node

NAMED_MAX = 512
ID_MAX = 128
STARTED, ENDED = "fault.started", "fault.ended"  # names in the event log, as in every other place


@dataclass(frozen=True)
class Order:
    """A fault on some of our ways, as JSON can hold it. `nodes` are `12D3Koo…`; with `is_all_but`, those not meant."""

    id: str
    kind: str
    nodes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    is_all_but: bool = False
    delay_ms: int = 0
    jitter_ms: int = 0
    bytes_per_s: int = 0
    loss_bp: int = 0
    silence: int = 0

    def to_rule(self) -> Rule:
        """Raises ValueError or MalformedMessage for what is none."""
        conditions = Conditions(self.delay_ms, self.jitter_ms, self.bytes_per_s, self.loss_bp, Silence(self.silence))
        nodes = frozenset(parse_node(node) for node in self.nodes)
        return Rule(self.id, conditions, nodes, frozenset(self.addresses), self.is_all_but)


class LinkOrders:
    """The orders a node carries out: `put_rules` spoils its links, with a seed, and `tell` writes to its event log."""

    def __init__(
        self, put_rules: Callable[[list[Rule], int], None], tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._put_rules = put_rules
        self._tell = tell
        self._orders: dict[str, Order] = {}

    def put(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out these orders and no others. Raises ValueError, and changes nothing, for what makes no sense."""
        try:
            orders = {order.id: order for order in map(_read_order, _read_list(request.get("orders")))}
            rules = [order.to_rule() for order in orders.values()]
            seed = _whole("seed", request.get("seed", 0))
        except (TypeError, MalformedMessage) as error:
            raise ValueError(f"not a list of faults: {error}") from error
        self._put_rules(rules, seed)
        for name, now, before in ((ENDED, self._orders, orders), (STARTED, orders, self._orders)):
            for order in now.values():
                if before.get(order.id) != order:
                    self._tell(name, _describe(order))
        self._orders = orders
        return self.get()

    def get(self) -> dict[str, Any]:
        return {"orders": [asdict(order) for order in self._orders.values()]}


def _describe(order: Order) -> dict[str, Any]:
    told = {key: value for key, value in asdict(order).items() if value and key not in ("id", "addresses")}
    return {"fault": order.id, **told}


def _read_list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > RULES_MAX:
        raise TypeError(f"orders are a list of at most {RULES_MAX}")
    return value


def _read_order(value: object) -> Order:
    if not isinstance(value, dict):
        raise TypeError("an order is an object")
    values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}
    order = Order(**values)
    texts: list[Any] = [order.id, order.kind, *order.nodes, *order.addresses]
    for text in texts:
        if not isinstance(text, str) or len(text) > ID_MAX:
            raise TypeError(f"ids, kinds, nodes and addresses are texts of at most {ID_MAX}")
    if not order.id or len(order.nodes) > NAMED_MAX or len(order.addresses) > NAMED_MAX:
        raise TypeError(f"an order has an id, and names at most {NAMED_MAX} nodes")
    for name in ("delay_ms", "jitter_ms", "bytes_per_s", "loss_bp", "silence"):
        _whole(name, getattr(order, name))
    return order


def _whole(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{name} is a whole number, not {value!r:.40}")
    return value
