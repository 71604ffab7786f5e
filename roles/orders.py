"""What whoever runs the node wants on the ledger, and what has become of it.

An order is a transaction body under a token of the asker's choosing: asking twice under one token is asking once. The
node's one sequencer (`submitter`) numbers orders together with its own transactions, so that nothing races.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from protocol.errors import InvalidTransaction
from roles.role import Submitted

ORDERS_MAX = 4_096


@dataclass(frozen=True)
class OrderState:
    """`height` is that of the block that holds it; `code` is a refusal's, with its `reason` and the `numbers` in it."""

    height: int | None = None
    code: str = ""
    reason: str = ""
    numbers: dict[str, int] | None = None

    @property
    def is_over(self) -> bool:
        return self.height is not None or bool(self.code)


class Orders:
    """Bounded; what is over longest is forgotten first."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, OrderState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, token: str) -> OrderState | None:
        return self._states.get(token)

    def open(self, token: str) -> bool:
        """Whether this is a new order, for which there is room."""
        if token in self._states:
            return False
        if len(self._states) >= ORDERS_MAX:
            over = next((key for key, state in self._states.items() if state.is_over), None)
            if over is None:
                return False
            del self._states[over]
        self._states[token] = OrderState()
        return True

    def refuse(self, token: str, error: InvalidTransaction) -> None:
        """The ledger as this node knows it says no."""
        numbers = {name: value for name, value in vars(error).items() if type(value) is int}
        self._states[token] = OrderState(code=type(error).__name__, reason=str(error), numbers=numbers)

    def note(self, event: Any) -> None:
        """An order has ended. A validator's refusal begins with the name of its error."""
        if not isinstance(event, Submitted) or event.token not in self._states:
            return
        if event.height is not None:
            self._states[event.token] = OrderState(event.height)
            return
        name, separator, reason = event.error.partition(": ")
        is_named = bool(separator) and name.isidentifier()
        self._states[event.token] = OrderState(code=name if is_named else "Refused", reason=reason or event.error)
