"""`rolemesh gateway key`: limits on what a gateway's account spends for others, given out as API keys."""

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, Network, open_network, parse_amount, parse_duration
from testnet.cli.output import CommandError, ExitCode, Output, format_role, format_table

if TYPE_CHECKING:
    from roles.gateway.keys import KeyState

NONE = "-"
Data = Annotated[
    Path | None,
    Parameter(name="--data", help="Data directory of the gateway's client; that of the network's gateway else."),
]
Label = Annotated[str, Parameter(name="LABEL", help="What the key is called in lists and errors.")]

app = App(
    name="key",
    help="API keys: limits on what the gateway spends for whoever holds one. They sign nothing and own nothing.",
    help_epilogue="Examples:\n\n  rolemesh gateway key add web --limit 20 --expires 30d\n\n"
    "  rolemesh gateway key add ci --per-window 0.5 --window 1d --max-fee 0.01 --model digits\n\n"
    "  rolemesh gateway key ls\n\n  rolemesh gateway key revoke web",
)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh gateway key add web --limit 20 --expires 30d\n\n"
    "  rolemesh gateway key add ci --per-window 0.5 --window 1d --model digits --json"
)
def add(
    label: Label,
    /,
    *,
    limit: str = "",
    per_window: str = "",
    window: str = "1d",
    max_fee: str = "",
    expires: str = "",
    model: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    data: Data = None,
    network: Network = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once: it is kept as a hash. A running gateway takes it at once.

    Parameters
    ----------
    limit
        ROLE that it may spend in all.
    per_window
        ROLE that it may spend in each window; with --limit, whichever ends first.
    window
        How long a window is; days are those of UTC.
    max_fee
        ROLE that one request may cost.
    expires
        After so long it no longer counts: 12h, 30d.
    model
        Name or CID of a model it is for; may be repeated. All, unless given.
    """
    from roles.gateway.keys import ID_BYTES, SECRET_BYTES, KeyTerms, make_key

    output, now_ms = Output(json), _get_now_ms()
    terms = KeyTerms(
        label,
        limit=parse_amount(limit) if limit else 0,
        window_limit=parse_amount(per_window) if per_window else 0,
        window_ms=round(1_000 * parse_duration(window)),
        fee_max=parse_amount(max_fee) if max_fee else 0,
        expires_ms=now_ms + round(1_000 * parse_duration(expires)) if expires else 0,
        models=tuple(model),
    )
    directory = find_directory(data, network)
    key = make_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
    with _open_book(directory) as book:
        try:
            book.add(key, terms, now_ms)
        except ValueError as error:
            hint = "give --limit, or --per-window; `rolemesh gateway key add --help` shows the rest"
            raise CommandError("bad_terms", str(error), hint, ExitCode.USAGE) from error
        state = book.find(key.id, now_ms)
    assert state is not None
    output.say(key.text)
    output.note(f"shown this once; send it as `Authorization: Bearer {key.text[:8]}…`")
    output.give({"key": key.text, "directory": str(directory), **describe(state, now_ms)})


@app.command(help_epilogue="Examples:\n\n  rolemesh gateway key ls\n\n  rolemesh gateway key ls --data ./wallet --json")
def ls(*, data: Data = None, network: Network = None, json: Json = False) -> None:
    """List keys with what they may spend, have spent and hold for requests under way."""
    output, now_ms = Output(json), _get_now_ms()
    directory = find_directory(data, network)
    with _open_book(directory) as book:
        rows = [describe(state, now_ms) for state in book.list_all(now_ms)]
    head = ("LABEL", "ID", "STATE", "SPENT", "HELD", "LIMIT", "WINDOW", "REQUESTS", "MODELS")
    output.say(format_table(head, [_format_row(row) for row in rows]) if rows else "no keys")
    output.give({"directory": str(directory), "keys": rows})


@app.command(help_epilogue="Examples:\n\n  rolemesh gateway key revoke web --data ./wallet")
def revoke(
    wanted: Annotated[str, Parameter(name="KEY", help="Label or id.")],
    /,
    *,
    data: Data = None,
    network: Network = None,
    json: Json = False,
) -> None:
    """Take a key back: the gateway refuses it from now on. What is under way with it goes on."""
    output, now_ms = Output(json), _get_now_ms()
    with _open_book(find_directory(data, network)) as book:
        state = book.revoke(wanted, now_ms)
    output.say(f"revoked {state.terms.label}, which has spent {format_role(state.spent)}")
    output.give(describe(state, now_ms))


def find_directory(data: Path | None, network: Path | None) -> Path:
    """The data directory that is meant: where a gateway runs, or is to run. Raises CommandError."""
    from testnet.gateway_program import read_directory

    if data is not None:
        if (data / "node.json").is_file():
            return data
        hint = "make one with `rolemesh node init --role client`, or leave --data out"
        raise CommandError("no_node", f"no node in {data}", hint, ExitCode.CONFIG)
    path, _ = open_network(network)
    directory = read_directory(path.parent)
    if directory is None:
        hint = "start it with `rolemesh testnet up --gateway …`, or name its client's directory with --data"
        raise CommandError("no_gateway", f"the network in {path.parent} runs no gateway", hint, ExitCode.CONFIG)
    return directory


def describe(state: "KeyState", now_ms: int) -> dict[str, Any]:
    """A key for programs. Amounts in grains."""
    from roles.gateway.keys import is_usable

    terms = state.terms
    gone = "revoked" if state.revoked_ms else "expired"
    return {
        "label": terms.label,
        "id": state.id,
        "state": "good" if is_usable(state, now_ms) else gone,
        "limit_grains": terms.limit,
        "spent_grains": state.spent,
        "held_grains": state.held,
        "window_limit_grains": terms.window_limit,
        "window_ms": terms.window_ms,
        "window_spent_grains": state.window_spent,
        "max_fee_grains": terms.fee_max,
        "expires_ms": terms.expires_ms,
        "models": list(terms.models),
        "requests": state.requests,
        "made_ms": state.made_ms,
    }


def _format_row(row: dict[str, Any]) -> tuple[str, ...]:
    window = NONE
    if row["window_limit_grains"]:
        spent, limit = (format_role(row[name]) for name in ("window_spent_grains", "window_limit_grains"))
        window = f"{spent} of {limit} in {row['window_ms'] / 1_000:g} s"
    limit = format_role(row["limit_grains"]) if row["limit_grains"] else NONE
    spent, held = format_role(row["spent_grains"]), format_role(row["held_grains"])
    models = ", ".join(row["models"]) or "all"
    return (row["label"], row["id"], row["state"], spent, held, limit, window, str(row["requests"]), models)


def _open_book(directory: Path) -> Any:
    from contextlib import closing

    from roles.gateway.key_book import KeyBook

    return closing(KeyBook(directory))


def _get_now_ms() -> int:
    return time.time_ns() // 1_000_000
