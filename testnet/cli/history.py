"""`rolemesh ledger history`: an account's transactions, newest first, from the blocks a node has stored."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from testnet.cli.arguments import Json, open_network
from testnet.cli.output import CommandError, ExitCode, Output, format_role, format_table, format_time

if TYPE_CHECKING:
    from protocol.ledger.transactions import Transaction
    from roles.chain import StoredBlock

EPILOGUE = (
    "Examples:\n\n  rolemesh ledger history client-0\n\n  rolemesh ledger history rm1... --limit 100 --json\n\n"
    "  rolemesh ledger history worker-1 --dir .rolemesh/dev-42\n\n"
    "Payouts, rewards and refunds come out of transactions of others and are not listed; balances hold them."
)


def history(
    who: str,
    /,
    *,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    limit: Annotated[int, Parameter(name="--limit", help="At most so many, the newest.")] = 20,
    json: Json = False,
) -> None:
    """Show what an account has put on the ledger, and what was sent to it.

    Parameters
    ----------
    who
        An account (rm1...) or a node of the network by name.
    directory
        Directory of a network or node; the newest network under ./.rolemesh unless given.
    """
    from protocol.errors import MalformedMessage
    from protocol.keys import format_account, parse_account
    from roles.chain import open_stored
    from testnet.recompute import find_chains

    output = Output(json)
    if limit < 1:
        raise CommandError("bad_limit", f"not a limit: {limit}", "give --limit 1 or more", ExitCode.USAGE)
    names: dict[str, str] = {}
    if directory is None or (directory / "testnet.json").exists():
        path, network = open_network(directory)
        directory, names = path.parent, {node.name: node.account for node in network.nodes}
    try:
        account = parse_account(names.get(who, who))
    except MalformedMessage as error:
        hint = f"name an account (rm1...), or a node: {', '.join(names) or 'none is known here'}"
        raise CommandError("unknown_account", f"no account {who!r}: {error}", hint, ExitCode.USAGE) from error
    best: tuple[int, deque[dict[str, Any]]] = (0, deque())
    for chain in find_chains(directory).values():
        with open_stored(chain) as (blocks, _):
            best = max(best, _collect(_read(blocks, account), limit), key=lambda pair: pair[0])
    height, told = best
    if not height:
        hint = "the first block comes with the first transaction; name a network's or node's directory with --dir"
        raise CommandError("no_ledger", f"no block is stored in {directory}", hint, ExitCode.CONFIG)
    newest = list(reversed(told))
    cells = [
        (str(row["height"]), format_time(row["time_ms"]), str(row["nonce"]), row["kind"], row["what"]) for row in newest
    ]
    output.say(format_table(("HEIGHT", "TIME (UTC)", "NONCE", "KIND", "WHAT"), cells))
    output.say(f"{len(newest)} transactions of {format_account(account)} up to height {height}")
    output.give({"account": format_account(account), "height": height, "transactions": newest})


def _collect(blocks: "Iterable[tuple[int, list[dict[str, Any]]]]", limit: int) -> tuple[int, deque[dict[str, Any]]]:
    """The height of the last block, and the newest transactions."""
    last, found = 0, deque[dict[str, Any]](maxlen=limit)
    for height, rows in blocks:
        last = height
        found.extend(rows)
    return last, found


def _read(blocks: "Iterable[StoredBlock]", account: bytes) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Of each block its height, and the account's transactions in it."""
    from protocol.codec import decode
    from protocol.ledger.apply import decode_transactions
    from protocol.ledger.block import Block

    for stored in blocks:
        block = decode(Block, stored.block)
        told = (_describe(transaction, account) for transaction in decode_transactions(block))
        fields = {"height": stored.height, "time_ms": block.header.time_ms}
        yield stored.height, [{**fields, **row} for row in told if row is not None]


def _describe(transaction: "Transaction", account: bytes) -> dict[str, Any] | None:
    """The transaction as the account sees it; None when it is none of its business."""
    from protocol.codec import decode
    from protocol.keys import format_account
    from protocol.ledger.transactions import Transfer, compute_transaction_id, get_transaction_body

    cls = get_transaction_body(transaction.kind)
    body: Any = decode(cls, transaction.body)
    is_own = transaction.account == account
    if not is_own and not (isinstance(body, Transfer) and body.to == account):
        return None
    amount = getattr(body, "amount", None)
    what = "" if amount is None else format_role(amount)
    if isinstance(body, Transfer):
        other = body.to if is_own else transaction.account
        what += f" {'to' if is_own else 'from'} {format_account(other)}"
    return {
        "id": compute_transaction_id(transaction),
        "nonce": transaction.nonce,
        "kind": cls.__name__,
        "is_own": is_own,
        "what": what,
        "amount_grains": amount,
        "fee_grains_max": transaction.fee if is_own else 0,
    }
