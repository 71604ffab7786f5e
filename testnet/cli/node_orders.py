"""Transactions handed to running nodes by a run that must not wait for them."""

import secrets
from pathlib import Path
from typing import Any

from testnet.cli.output import CommandError


def submit(directory: Path, body: Any) -> str:
    """Have the node of a directory put it on the ledger; the order's token, empty while the node cannot be asked."""
    from protocol.codec import encode
    from protocol.ledger.transactions import get_transaction_kind
    from testnet.cli.wallet import ask_running

    token, kind = secrets.token_hex(16), get_transaction_kind(type(body))
    request = {"command": "ledger.submit", "token": token, "kind": kind, "body": encode(body).hex()}
    try:
        ask_running(directory, request)
    except CommandError as error:
        if error.code == "not_running":  # killed perhaps, and back later
            return ""
        raise
    return token


def find_height(directory: Path, token: str, what: str) -> int | None:
    """Of the block an order has come into; None until then. Raises CommandError when the ledger refuses it."""
    from testnet.cli.wallet import ask_running

    try:
        state = ask_running(directory, {"command": "ledger.order", "token": token})
    except CommandError as error:
        if error.code == "not_running":
            return None
        raise
    if state.get("code"):
        raise CommandError(state["code"], f"{what} was refused: {state['reason']}", "this is a bug")
    height: int | None = state.get("height")
    return height
