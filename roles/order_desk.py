"""Takes orders for the ledger from the control socket and says what has become of them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from protocol.codec import decode
from protocol.errors import InvalidTransaction, RemoteError
from protocol.keys import format_account
from protocol.ledger.state import State
from protocol.ledger.transactions import get_transaction_body
from roles import core_effects as ce
from roles.orders import Orders

TOKEN_LETTERS_MAX = 64


class Books(Protocol):
    """What the desk reads of a node's core."""

    orders: Orders

    @property
    def ledger(self) -> State: ...

    @property
    def is_synced(self) -> bool: ...


class OrderDesk:
    """`put` hands the core an event for its next turn."""

    def __init__(self, core: Books, account: bytes, put: Callable[[ce.CoreEvent], object]) -> None:
        self._core = core
        self._account = account
        self._put = put

    def answer(self, command: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError."""
        token = request.get("token")
        if not isinstance(token, str) or not 0 < len(token) <= TOKEN_LETTERS_MAX or not token.isalnum():
            raise ValueError(f"an order has a token of up to {TOKEN_LETTERS_MAX} letters and digits")
        if command == "ledger.submit":
            self._put(ce.Order(token, _read_body(request)))
        state = self._core.orders.get(token)
        ledger = self._core.ledger
        return {
            "token": token,
            "account": format_account(self._account),
            "is_known": state is not None,
            "is_synced": self._core.is_synced,
            "ledger_height": ledger.height,
            **(asdict(state) if state is not None else {}),
        }


def _read_body(request: Mapping[str, Any]) -> Any:
    try:
        return decode(get_transaction_body(int(request["kind"])), bytes.fromhex(request["body"]))
    except (KeyError, TypeError, ValueError, OverflowError, RemoteError, InvalidTransaction) as error:
        raise ValueError(f"the order holds no transaction: {type(error).__name__}: {error}") from error
