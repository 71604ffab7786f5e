"""`rolemesh oracle`: feeds of outside data, their history as candles with a proof, and registering one."""

import json as json_library
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, parse_duration
from testnet.cli.ledger import Where, read_state
from testnet.cli.output import CommandError, ExitCode, Output, format_decimal, format_role, format_table
from testnet.cli.prove import PROOF_SUFFIX, read_trusted
from testnet.cli.trusting import Genesis
from testnet.cli.wallet import From, NoWait, Timeout, find_payer, order_final

if TYPE_CHECKING:
    from protocol.ledger.feed_records import Candle, FeedState, FeedTerms
    from protocol.ledger.state import State
    from protocol.queries import CandleQuery

FILE_BYTES_MAX = 4 * 1024 * 1024

app = App(
    name="oracle",
    help="Feeds of outside data: what is measured, what was reported, and its history as candles with a proof.",
    help_epilogue="Examples:\n\n  rolemesh oracle feeds\n\n  rolemesh oracle candles GOOG --duration 1m --count 20\n\n"
    "  rolemesh oracle register btc-usd --address https://example.org/ticker.json --path data.price",
)
Feed = Annotated[str, Parameter(name="FEED", help="Name of a feed on the ledger.")]
Duration = Annotated[str, Parameter(name="--duration", help="Of one candle: 5s, 1m, 1h; whole rounds of the feed.")]
Count = Annotated[int, Parameter(name="--count", help="How many, up to the newest that has ended.")]


@app.command(
    help_epilogue="Examples:\n\n  rolemesh oracle feeds\n\n  rolemesh oracle feeds --dir .rolemesh/dev-42 --json"
)
def feeds(*, directory: Where = None, json: Json = False) -> None:
    """List the feeds on the ledger with their last values."""
    output = Output(json)
    state, _ = read_state(directory)
    rows = [_describe(state, name) for name in sorted(state.feed_terms)]
    cells = [
        (row["feed"], row["shown"], str(row["round"]), str(row["reports"]), str(row["observing"]), row["source"])
        for row in rows
    ]
    output.say(format_table(("FEED", "VALUE", "ROUND", "REPORTS", "OBSERVERS", "SOURCE"), cells))
    output.say(f"at height {state.height}, as that node has it")
    output.give({"height": state.height, "feeds": rows})


@app.command(help_epilogue="Examples:\n\n  rolemesh oracle show GOOG\n\n  rolemesh oracle show btc-usd --json")
def show(feed: Feed, /, *, directory: Where = None, json: Json = False) -> None:
    """Show the terms of a feed, its last report, and who observes it how well."""
    from protocol.candles import compute_feed_key
    from protocol.keys import format_account
    from protocol.ledger.records import NO_WORK

    output = Output(json)
    state, names = read_state(directory)
    terms = _get_terms(state, feed)
    row = _describe(state, feed)
    for name in ("feed", "shown", "round", "sequence", "reports", "observers", "age_ms", "is_stale", "held"):
        output.say(f"{name:>14}  {row[name]}")
    for name, value in _describe_terms(terms).items():
        output.say(f"{name:>14}  {value}")
    known = {account: name for name, account in names.items()}
    observers = []
    for key, observer in sorted(state.observers.items()):
        if key.startswith(compute_feed_key(feed)):
            account = format_account(observer.account)
            work = state.work.get(observer.account, NO_WORK)
            fields = {"account": account, "name": known.get(account, ""), "missed": observer.missed}
            counts = {"observed": work.observed, "outliers": work.outliers, "lost_grains": work.lost}
            observers.append({**fields, **counts, "has_left": bool(observer.left_ms)})
    cells = [
        (str(item["name"] or item["account"]), str(item["observed"]), str(item["outliers"]), str(item["missed"]))
        for item in observers
    ]
    output.say(format_table(("OBSERVER", "OBSERVED", "OUTLIERS", "MISSED IN A ROW"), cells))
    output.give({"height": state.height, **row, "terms": _describe_terms(terms), "observed_by": observers})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh oracle candles GOOG --duration 1m --count 20\n\n"
    "  rolemesh oracle candles GOOG --duration 5s --out goog.proof\n\n"
    "  rolemesh oracle candles GOOG --duration 5s --proof goog.proof --genesis testnet.json"
)
def candles(
    feed: Feed,
    /,
    *,
    duration: Duration,
    count: Count = 20,
    newest_first: Annotated[bool, Parameter(name="--newest-first", negative="")] = False,
    out: Annotated[Path | None, Parameter(name="--out", help="Write a proof of them to this file.")] = None,
    proof: Annotated[Path | None, Parameter(name="--proof", help="Read them out of such a file instead.")] = None,
    genesis: Genesis = None,
    directory: Where = None,
    json: Json = False,
) -> None:
    """Show a feed's history: open, high, low, close, and how many observations stand behind it.

    With --proof the file is checked against the genesis and nothing else is believed. `rolemesh verify` checks it too.
    Periods without a report are left out.

    Parameters
    ----------
    newest_first
        The newest candle first.
    """
    from protocol.queries import CandleQuery

    output = Output(json)
    query = CandleQuery(feed, round(parse_duration(duration) * 1_000), count, int(newest_first))
    if proof is not None:
        terms, height, found = _read_proof(proof, genesis, query)
    else:
        terms, height, found = _read_stored(directory, query, out, output)
    rows = [_describe_candle(candle, query) for candle in found]
    cells = [
        (row["from"], *(format_decimal(row[key], terms.decimals) for key in _PRICES), str(row["volume"]))
        for row in rows
    ]
    output.say(format_table(("FROM (UTC)", "OPEN", "HIGH", "LOW", "CLOSE", "VOLUME"), cells))
    output.say(f"{len(rows)} of {count} candles of {query.duration_ms} ms saw a report, at height {height}")
    fields = {"feed": feed, "duration_ms": query.duration_ms, "decimals": terms.decimals, "height": height}
    output.give({**fields, "candles": rows, "proof": out or proof})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh oracle register btc-usd --address https://example.org/t --path price\n\n"
    "  rolemesh oracle register rain --source replay --path mm --decimals 1 --heartbeat 1m --from ./wallet --json"
)
def register(
    name: Annotated[str, Parameter(name="NAME")],
    /,
    *,
    source: str = "http-json",
    address: str = "",
    path: str = "",
    decimals: int = 6,
    heartbeat: str = "5s",
    deviation: int = 50,
    outlier: int = 1_000,
    jump: int = 2_000,
    observers_min: int = 1,
    age_max: str = "15s",
    observer: tuple[str, ...] = (),
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Put a feed on the ledger, for a deposit that comes back when it is retired.

    An oracle observes it once its `node.json` names it under options.oracle.feeds: with {} to follow the address given
    here, or with a source of its own.

    Parameters
    ----------
    source
        http-json, replay (a file at each observer) or command (a program at each observer).
    address
        Where an http-json feed is read.
    path
        The way to the number in the document: a.b.0.c; or the column of a CSV file.
    decimals
        Values are kept as whole numbers of 10^-DECIMALS.
    heartbeat
        How often there is a report.
    deviation
        Basis points by which a value must have moved to be reported between heartbeats; 0 for never.
    outlier
        Basis points from the median at which an observation counts against its observer; 0 for never.
    jump
        Basis points from the last value at which a value is held until the next round confirms it; 0 for never.
    observers_min
        How many observations a report needs at least.
    age_max
        How old an observation may be when it is reported, and a value when it is used.
    observer
        Account that may observe the feed; given several times for several. Any oracle, unless given.
    """
    from protocol.errors import MalformedMessage
    from protocol.keys import parse_account
    from protocol.ledger.feeds import RegisterFeed

    output = Output(json)
    try:
        allowed = tuple(parse_account(text) for text in observer)
    except MalformedMessage as error:
        hint = "copy the whole account: it has a checksum"
        raise CommandError("bad_account", f"--observer is no account: {error}", hint, ExitCode.USAGE) from error
    body = RegisterFeed(
        name=name,
        source=source,
        address=address,
        path=path,
        decimals=decimals,
        heartbeat_ms=round(1_000 * parse_duration(heartbeat)),
        deviation_bp=deviation,
        outlier_bp=outlier,
        jump_bp=jump,
        observers_min=observers_min,
        age_ms_max=round(1_000 * parse_duration(age_max)),
        allowed=allowed,
    )
    directory = find_payer(payer)
    state, _ = read_state(directory)
    told = order_final(directory, body, timeout, no_wait)
    deposit = state.params.model_deposit
    output.say(f"feed {name}: {_say_when(told)}; {format_role(deposit)} of deposit")
    output.give({**told, "feed": name, "deposit_grains": deposit})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh oracle retire btc-usd\n\n"
    "  rolemesh oracle retire rain --from ./wallet --json"
)
def retire(
    feed: Feed, /, *, payer: From = "", no_wait: NoWait = False, timeout: Timeout = "30s", json: Json = False
) -> None:
    """End a feed of your own. Its history goes, and its deposit comes back, when its observers have answered for it."""
    from protocol.ledger.feeds import RetireFeed

    output = Output(json)
    told = order_final(find_payer(payer), RetireFeed(feed), timeout, no_wait)
    output.say(f"feed {feed} retires: {_say_when(told)}")
    output.give({**told, "feed": feed})


_PRICES = ("open", "high", "low", "close")


def _read_stored(
    directory: Path | None, query: "CandleQuery", out: Path | None, output: Output
) -> "tuple[FeedTerms, int, tuple[Candle, ...]]":
    from protocol.candles import NoHistory
    from protocol.codec import encode
    from protocol.proofs.feed_proof import read_state_candles
    from testnet.cli.arguments import open_network
    from testnet.prove import prove_candles, read_ledger

    if out is None:
        state, _ = read_state(directory)
    else:
        if directory is None or (directory / "testnet.json").exists():
            directory = open_network(directory)[0].parent
        output.note(f"recomputing the ledger in {directory} from genesis")
        ledger = read_ledger(directory)
        data = encode(prove_candles(ledger, query))
        try:
            out.write_bytes(data)
        except OSError as error:
            hint = "name a file that can be written with --out"
            raise CommandError("cannot_write", f"{out}: {error.strerror}", hint) from error
        output.note(f"{out}: {len(data)} bytes")
        state = ledger.result.state
    terms = _get_terms(state, query.feed)
    try:
        return terms, state.height, read_state_candles(state, query)
    except NoHistory as error:
        raise CommandError("no_history", str(error), "ask for another --duration or --count") from error


def _read_proof(path: Path, genesis: Path | None, query: "CandleQuery") -> "tuple[FeedTerms, int, tuple[Candle, ...]]":
    from protocol.candles import NoHistory
    from protocol.errors import ProtocolError
    from protocol.proofs.feed_proof import read_shown_candles, read_shown_feed
    from protocol.proofs.ledger_file import decode_ledger_file, verify_ledger_file

    if genesis is None:
        hint = "add --genesis with a genesis.json or testnet.json of whose origin you are sure"
        raise CommandError("no_genesis", "a proof shows something only to who holds the genesis", hint, ExitCode.USAGE)
    try:
        with path.open("rb") as file:
            shown = verify_ledger_file(decode_ledger_file(file.read(FILE_BYTES_MAX + 1)), read_trusted(genesis))
        terms, _ = read_shown_feed(shown.entries, query.feed)
        return terms, shown.state_height, read_shown_candles(shown.entries, query, shown.time_ms)
    except OSError as error:
        hint = f"name a {PROOF_SUFFIX} file that `rolemesh oracle candles --out` has written"
        raise CommandError("cannot_read", f"{path}: {error.strerror}", hint, ExitCode.USAGE) from error
    except NoHistory as error:
        raise CommandError("no_history", str(error), "ask for what the file was written for") from error
    except ProtocolError as error:
        hint = "do not trust this file for this question; ask for it again"
        raise CommandError("verification_failed", f"{path}: {error}", hint, ExitCode.VERIFICATION_FAILED) from error


def _get_terms(state: "State", feed: str) -> "FeedTerms":
    terms = state.feed_terms.get(feed)
    if terms is None:
        hint = f"there are {', '.join(sorted(state.feed_terms)) or 'none'}"
        raise CommandError("unknown_feed", f"the ledger has no feed {feed!r}", hint, ExitCode.USAGE)
    return terms


def _describe(state: "State", name: str) -> dict[str, Any]:
    from protocol.ledger.feeds import FeedSource, get_observers, is_stale

    terms: FeedTerms = state.feed_terms[name]
    feed: FeedState = state.feeds[name]
    # Nobody reads a workflow's feed: behind its value stand the verifiers that have attested it.
    is_read = terms.source != FeedSource.WORKFLOW
    observing = len(get_observers(state, terms, state.time_ms // terms.heartbeat_ms)) if is_read else feed.observers
    return {
        "feed": name,
        "source": terms.source,
        "value": feed.value if feed.observers else None,
        "decimals": terms.decimals,
        "shown": format_decimal(feed.value, terms.decimals) if feed.observers else "none yet",
        "round": feed.round,
        "sequence": feed.sequence,
        "reports": feed.reports,
        "observers": feed.observers,
        "observing": observing,
        "age_ms": max(0, state.time_ms - feed.observed_ms) if feed.observers else None,
        "is_stale": is_stale(terms, feed, state.time_ms),
        "held": list(feed.held),
        "is_retired": bool(terms.retired_ms),
    }


def _describe_terms(terms: "FeedTerms") -> dict[str, Any]:
    from protocol.keys import format_account

    fields = {name: value for name, value in vars(terms).items() if name not in ("name", "owner", "allowed")}
    owner = format_account(terms.owner) if terms.owner else ""
    return {**fields, "owner": owner, "allowed": json_library.dumps([format_account(key) for key in terms.allowed])}


def _describe_candle(candle: "Candle", query: "CandleQuery") -> dict[str, Any]:
    from_ms = candle.period * query.duration_ms
    shown = datetime.fromtimestamp(from_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    prices = {key: getattr(candle, key) for key in _PRICES}
    return {"from_ms": from_ms, "from": shown, **prices, "volume": candle.volume}


def _say_when(told: dict[str, Any]) -> str:
    return "on its way" if told["height"] is None else f"final at height {told['height']} after {told['took_ms']} ms"
