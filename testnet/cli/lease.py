"""`rolemesh store lease`: have storage nodes keep a file or folder for money, and see how they do."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, parse_amount, parse_duration
from testnet.cli.ledger import Where, read_state
from testnet.cli.output import CommandError, ExitCode, Output, format_bytes, format_count, format_role, format_table
from testnet.cli.progress import Progress
from testnet.cli.wallet import From, NoWait, Timeout, find_home, find_payer, order_final
from testnet.network_file import NetworkFileError, read_network_file

if TYPE_CHECKING:
    from protocol.audit import Contents
    from protocol.cid import Cid
    from protocol.ledger.lease_records import Lease
    from protocol.ledger.state import State

POLL_S = 0.2
FACTOR = 3
TERM = "1h"
RENEWED, ENDS = "a new term begins as long as the balance covers it", "it ends with its term"
RUNS_OUT = "it ends with its term: the balance does not cover another one"
EXAMPLE = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"

app = App(
    name="lease",
    help="Have storage nodes keep a file or folder, audited and paid by the ledger; list leases, show one.",
    help_epilogue=f"Examples:\n\n  rolemesh store lease {EXAMPLE} --copies 2 --for 1h\n\n"
    f"  rolemesh store lease {EXAMPLE} --renew --amount 5\n\n  rolemesh store lease ls\n\n"
    f"  rolemesh store lease show {EXAMPLE} --json",
)
CidText = Annotated[str, Parameter(name="CID", help="A file or folder: 59 letters that begin with bafkrei or bafybei.")]
Which = Annotated[str, Parameter(name="LEASE", help="The CID it is about, or the lease's id in hex.")]


@app.default
def lease(
    cid: CidText,
    /,
    *,
    copies: int | None = None,
    for_: Annotated[str, Parameter(name="--for")] = "",
    renew: Annotated[bool | None, Parameter(negative="--no-renew")] = None,
    price: str = "",
    amount: str = "",
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "60s",
    json: Json = False,
) -> None:
    """Open a lease on what is in the store of a running node, out of its account; for an open one, add to it.

    Storage nodes are drawn by the ledger, fetch it, check it and are audited; it is done once all of them hold it.
    Of an open lease, what is not given here stays as it is; copies and price stay until it ends.

    Parameters
    ----------
    copies
        How many storage nodes are to keep it, 3 unless given.
    for_
        How long a term is, in whole periods of audits: 12h, 30d; 1h unless given. Of an open lease: the next term.
    renew
        Begin anew when the time is over, for as long as the balance covers all of it.
    price
        The most to pay each node, in ROLE for a MiB and hour; what the cheapest ask that are enough, unless given.
    amount
        What to put into it in ROLE; what the time costs at most, unless given. The rest comes back at the end.
    """
    from protocol.ledger.leases import LeaseBlob, compute_lease_id, compute_term_cost
    from roles.keystore import get_key_path, read_public
    from testnet.cli.store import read_wanted

    output = Output(json)
    wanted = read_wanted(cid)
    directory = find_payer(payer)
    contents = _measure(directory, wanted)
    state, _ = read_state(directory)
    account = read_public(get_key_path(directory, "account"))
    key = compute_lease_id(account, wanted.pack())
    known = state.leases.get(key)
    grains = parse_amount(price) if price else None
    factor = FACTOR if copies is None else copies
    if known is not None:
        grains, factor = _keep_terms(known, grains, copies)
    elif grains is None:
        grains = _find_price(state, account, contents.size_bytes, factor)
    if known is not None and not for_:
        periods = known.periods
    else:
        periods = max(1, -(-round(parse_duration(for_ or TERM) * 1_000) // state.params.audit_ms))
    renews = renew if renew is not None else known is not None and bool(known.renews)
    cost = compute_term_cost(contents.size_bytes, grains, factor, periods, state.params)
    body = LeaseBlob(
        cid=wanted.pack(),
        contents=contents,
        price=grains,
        factor=factor,
        periods=periods,
        renews=int(renews),
        amount=parse_amount(amount) if amount else cost,
    )
    told = order_final(directory, body, timeout, no_wait)
    state, _ = read_state(directory)
    if not no_wait:
        state = _wait(directory, state, key, parse_duration(timeout))
    row = describe(key, state, _read_names(directory)) if key in state.leases else {"lease": key.hex()}
    what = f"{format_bytes(contents.size_bytes)} on {format_count(factor, 'node')}, audited {periods} times a term"
    output.say(f"lease {key.hex()}")
    output.say(f"{what}; {format_role(body.amount)} put in, at {format_role(grains)} a MiB and hour to each")
    output.say(RENEWED if renews else ENDS)
    _say_replicas(row, output)
    output.give({**told, **row, "amount_grains": body.amount, "term_cost_grains": cost})


@app.command(help_epilogue=f"Examples:\n\n  rolemesh store lease leave {EXAMPLE} --from storage-0")
def leave(
    wanted: Which, /, *, payer: From = "", no_wait: NoWait = False, timeout: Timeout = "30s", json: Json = False
) -> None:
    """Give a storage node's part in a lease back, unpaid since its last audit: another node is drawn for it.

    Not while an audit waits for its answer. `--from` names the storage node.
    """
    from protocol.ledger.leases import KeepBlob
    from roles.keystore import get_key_path, read_public

    output = Output(json)
    directory = find_payer(payer)
    state, _ = read_state(directory)
    key = _find(wanted, state, read_public(get_key_path(directory, "account")))
    told = order_final(directory, KeepBlob(key, 0), timeout, no_wait)
    row = describe(key, state, _read_names(directory))
    output.say(f"{row['cid']} is kept here no longer for lease {row['lease']}")
    output.give({**told, "lease": row["lease"], "cid": row["cid"]})


@app.command(help_epilogue="Examples:\n\n  rolemesh store lease ls\n\n  rolemesh store lease ls --dir ./worker --json")
def ls(*, directory: Where = None, json: Json = False) -> None:
    """List the leases on the ledger, and the room that storage nodes let, as a node has stored it."""
    output = Output(json)
    state, names = read_state(directory)
    rows = [describe(key, state, names) for key in sorted(state.leases)]
    cells = [
        (
            row["cid"],
            format_bytes(row["size_bytes"]),
            f"{row['holding']} of {row['copies']}",
            str(row["audits_left"]) + _tell_end(row),
            format_role(row["balance_grains"]),
        )
        for row in rows
    ]
    output.say(format_table(("CID", "SIZE", "COPIES", "AUDITS LEFT", "BALANCE"), cells))
    if any(row["runs_out"] for row in rows):
        output.say("out of money: `rolemesh store lease CID --amount X` adds to one; by how much, `lease show` tells")
    offers = _describe_offers(state, names)
    for offer in offers:
        room = f"{format_bytes(offer['leased_bytes'])} of {format_bytes(offer['room_bytes'])} let"
        silent = ", silent of late" if offer["is_silent"] else ""
        output.say(f"{offer['node']}: {room}, {format_role(offer['price_grains'])} a MiB and hour{silent}")
    output.say(f"at height {state.height}, as that node has it")
    output.give({"height": state.height, "leases": rows, "offers": offers})


@app.command(
    help_epilogue=f"Examples:\n\n  rolemesh store lease show {EXAMPLE}\n\n"
    f"  rolemesh store lease show {EXAMPLE} --dir ./worker --json"
)
def show(wanted: Which, /, *, directory: Where = None, json: Json = False) -> None:
    """Show one lease: who keeps it, how they do in audits, what it pays and for how long."""
    output = Output(json)
    state, names = read_state(directory)
    row = describe(_find(wanted, state), state, names)
    then = RENEWED if row["renews"] else ENDS
    lines = {
        "lease": row["lease"],
        "CID": row["cid"],
        "contents": f"{format_bytes(row['size_bytes'])} in {format_count(row['pieces'], 'piece')}",
        "audit root": row["audit_root"],
        "payer": row["payer"],
        "price": f"{format_role(row['price_grains'])} a MiB and hour to each of {format_count(row['copies'], 'node')}",
        "balance": format_role(row["balance_grains"]),
        "audits": f"{row['audits_left']} left of {row['periods']}, one in {state.params.audit_ms / 1_000:g} s",
        "then": f"{RUNS_OUT}, {format_role(row['short_grains'])} short" if row["runs_out"] else then,
    }
    for name, text in lines.items():
        output.say(f"{name:>12}  {text}")
    _say_replicas(row, output)
    output.give({"height": state.height, **row})


def describe(key: bytes, state: "State", names: dict[str, str]) -> dict[str, Any]:
    """A lease for programs."""
    from protocol.cid import unpack_cid
    from protocol.keys import format_account
    from protocol.ledger.leases import compute_shortfall, is_running_out

    lease = state.leases[key]
    known = {account: name for name, account in names.items()}
    replicas = [
        {
            "account": format_account(replica.account),
            "node": known.get(format_account(replica.account), ""),
            "state": "on its way" if not replica.height else "silent" if replica.misses else "holding",
            "since_height": replica.height,
            "paid_until_ms": replica.since_ms,
            "misses": replica.misses,
            "is_asked": bool(replica.is_asked),
        }
        for replica in lease.replicas
    ]
    return {
        "lease": key.hex(),
        "cid": str(unpack_cid(lease.cid)),
        "payer": format_account(lease.payer),
        "audit_root": lease.contents.root.hex(),
        "size_bytes": lease.contents.size_bytes,
        "pieces": lease.contents.pieces,
        "copies": lease.factor,
        "holding": sum(each["state"] == "holding" for each in replicas),
        "price_grains": lease.price,
        "balance_grains": lease.balance,
        "periods": lease.periods,
        "audits_left": lease.left,
        "renews": bool(lease.renews),
        "runs_out": is_running_out(lease, state.params),
        "short_grains": compute_shortfall(lease, state.params) if lease.renews else 0,
        "replicas": replicas,
    }


def _tell_end(row: dict[str, Any]) -> str:
    """What follows the audits that are left."""
    return ", then out of money" if row["runs_out"] else ", renewed" if row["renews"] else ""


def _say_replicas(row: dict[str, Any], output: Output) -> None:
    for replica in row.get("replicas", ()):
        missed = f", {format_count(replica['misses'], 'audit')} missed" if replica["misses"] else ""
        asked = ", an audit waits for its answer" if replica["is_asked"] else ""
        output.say(f"{replica['node'] or replica['account']:>12}  {replica['state']}{missed}{asked}")


def _describe_offers(state: "State", names: dict[str, str]) -> list[dict[str, Any]]:
    from protocol.keys import format_account

    known = {account: name for name, account in names.items()}
    return [
        {
            "account": format_account(account),
            "node": known.get(format_account(account), format_account(account)),
            "room_bytes": offer.room_bytes,
            "leased_bytes": offer.leased_bytes,
            "price_grains": offer.price,
            "is_silent": bool(offer.is_silent),
        }
        for account, offer in sorted(state.offers.items())
    ]


def _find(wanted: str, state: "State", holder: bytes = b"") -> bytes:
    """The key of a lease by id or CID; with `holder` one that this account has a part in. Raises CommandError."""
    from protocol.cid import unpack_cid
    from protocol.ledger.leases import find_replica

    for key, lease in sorted(state.leases.items()):
        is_meant = wanted in (key.hex(), str(unpack_cid(lease.cid)))
        if is_meant and (not holder or find_replica(lease, holder) is not None):
            return key
    of = " that this node has a part in" if holder else ""
    hint = "`rolemesh store lease ls` shows all there are; one that has ended is gone"
    raise CommandError("no_lease", f"there is no lease {wanted}{of}", hint, ExitCode.USAGE)


def _measure(directory: Path, cid: "Cid") -> "Contents":
    """What the payer's own store has under the CID, every block of it read."""
    from protocol.audit import measure_contents
    from roles.store.store import measure
    from testnet.cli.store import explained, open_store

    progress = Progress()
    with open_store(directory) as store, explained(directory):
        root = measure(store, cid)
        progress.show(f"reading {format_bytes(root.dag_bytes)}")
        try:
            return measure_contents(cid, store.read, root.dag_bytes).finish()
        finally:
            progress.end()


def _read_names(directory: Path) -> dict[str, str]:
    """Accounts of nodes by name, where the payer is one of a test network."""
    try:
        return {node.name: node.account for node in read_network_file(find_home(directory)).nodes}
    except NetworkFileError:
        return {}


def _find_price(state: "State", account: bytes, size_bytes: int, copies: int) -> int:
    """What the dearest of the cheapest nodes that are enough asks. Raises CommandError."""
    from protocol.ledger.leases import find_price

    if copies < 1:
        raise CommandError("bad_value", f"--copies is 1 at least, not {copies}", "give another number", ExitCode.USAGE)
    price = find_price(state.offers, account, size_bytes, copies)
    if price is None:
        what = f"fewer than {copies} storage nodes of others let {format_bytes(size_bytes)}"
        hint = "ask for fewer --copies; `rolemesh store lease ls` shows what is offered"
        raise CommandError("too_few_stores", what, hint, need=copies, size_bytes=size_bytes)
    return price


def _keep_terms(known: "Lease", price: int | None, copies: int | None) -> tuple[int, int]:
    """Price and copies of an open lease, which stay as they are. CommandError when others are asked for."""
    if price not in (None, known.price) or copies not in (None, known.factor):
        what = f"the lease is open, with {known.factor} copies at {format_role(known.price)} until it ends"
        raise CommandError("lease_open", what, "leave out --copies and --price to add to it", ExitCode.USAGE)
    return known.price, known.factor


def _wait(directory: Path, state: "State", key: bytes, timeout_s: float) -> "State":
    """The state in which all copies are held; the first one has the lease. Raises CommandError."""
    progress = Progress()
    deadline_s = time.monotonic() + timeout_s
    try:
        while True:
            lease = state.leases.get(key)
            if lease is None:
                hint = "no storage node could fetch it: see that the payer's node runs and has it in its store"
                raise CommandError("lease_ended", "the lease has ended before anybody held it", hint)
            holding = sum(1 for replica in lease.replicas if replica.height)
            if holding == lease.factor:
                return state
            if time.monotonic() > deadline_s:
                what = f"copies that are held after {timeout_s:g} s: {holding}; the lease stands"
                hint = "`rolemesh store lease show` tells how it goes on"
                raise CommandError("timeout", what, hint, ExitCode.TIMEOUT, lease=key.hex(), holding=holding)
            progress.show(f"copies held: {holding}")
            time.sleep(POLL_S)
            state, _ = read_state(directory)
    finally:
        progress.end()
