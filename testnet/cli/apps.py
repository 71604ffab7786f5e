"""`rolemesh app register|retire|buy|ls|show`: apps on the ledger, what they sell, and what was sold and used."""

import re
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli import app_pass
from testnet.cli.arguments import Json, parse_amount, parse_duration
from testnet.cli.ledger import Where, read_state
from testnet.cli.output import CommandError, ExitCode, Output, format_role, format_table, format_time
from testnet.cli.wallet import From, NoWait, Timeout, find_account, find_payer, order_final

if TYPE_CHECKING:
    from protocol.ledger.app_records import AppRecord, Tier
    from protocol.ledger.state import State

PERCENT_MAX = 100

app = App(
    name="app",
    help="Apps that sell passes: register one, buy a pass and show it, see what was sold, earned and used.",
    help_epilogue='Examples:\n\n  rolemesh app register chat "Chat" --tier day=2,1d,1000\n\n'
    "  rolemesh app buy chat --tier day\n\n  rolemesh app pass chat\n\n"
    "  rolemesh app check chat.pass --genesis testnet.json\n\n  rolemesh app ls\n\n  rolemesh app show chat",
)
app.command(app_pass.write_pass, name="pass", help_epilogue=app_pass.WRITE_EPILOGUE)
app.command(app_pass.check, help_epilogue=app_pass.CHECK_EPILOGUE)
Which = Annotated[str, Parameter(name="APP", help="Name of an app on the ledger.")]


@app.command(
    help_epilogue='Examples:\n\n  rolemesh app register chat "Chat" --tier day=2,1d,1000 --fee-percent 5\n\n'
    '  rolemesh app register chat "Chat" --tier holder=stake:100,1h,500 --server inference-0 --json'
)
def register(
    name: Annotated[str, Parameter(name="NAME")],
    title: Annotated[str, Parameter(name="TITLE")],
    /,
    *,
    tier: Annotated[list[str], Parameter(name="--tier", negative="")],
    server: Annotated[list[str] | None, Parameter(name="--server", negative="")] = None,
    fee_percent: Annotated[int, Parameter(name="--fee-percent")] = 0,
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Put an app on the ledger for a deposit, or change all of one's own. Passes stay as they were bought.

    Parameters
    ----------
    name
        Small letters, digits, dots, dashes, underscores.
    title
        What it is, in one line.
    tier
        A way to have a pass, as NAME=PRICE,PERIOD,REQUESTS or NAME=stake:AMOUNT,PERIOD,REQUESTS; may be repeated.
    server
        Account (rm1...) or node that serves the app beside its owner; may be repeated.
    fee_percent
        Share of the fees of requests under a pass that whoever serves it owes the owner.
    """
    from protocol.ledger.apps import RegisterApp

    output = Output(json)
    tiers = tuple(parse_tier(text) for text in tier)
    if not 0 <= fee_percent <= PERCENT_MAX:
        raise CommandError("bad_value", f"not a share: {fee_percent} %", "give 0 to 100", ExitCode.USAGE)
    directory = find_payer(payer)
    servers = tuple(find_account(text, directory) for text in server or ())
    told = order_final(directory, RegisterApp(name, title, tiers, servers, fee_percent * 100), timeout, no_wait)
    output.say(f"app {name}: {_format_end(told)}")
    output.give({**told, "app": name, "title": title, "tiers": [describe_tier(item) for item in tiers]})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh app retire chat\n\n  rolemesh app retire chat --from ./wallet --json"
)
def retire(
    name: Which, /, *, payer: From = "", no_wait: NoWait = False, timeout: Timeout = "30s", json: Json = False
) -> None:
    """Sell no more passes. Those that run are good until their end; then the app is forgotten and its deposit back."""
    from protocol.ledger.apps import RetireApp

    output = Output(json)
    told = order_final(find_payer(payer), RetireApp(name), timeout, no_wait)
    output.say(f"app {name} retired: {_format_end(told)}")
    output.give({**told, "app": name})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh app buy chat --tier day\n\n"
    "  rolemesh app buy chat --tier day --periods 30 --from ./wallet --json"
)
def buy(
    name: Which,
    /,
    *,
    tier: str,
    periods: int = 1,
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Buy a pass, or lengthen the one that runs. Says what it costs first, and pays for those terms alone.

    Parameters
    ----------
    tier
        Name of one of the app's tiers.
    periods
        How many to pay for, 1 to 366; of a tier that asks for stake, 1 at a time.
    """
    from protocol.ledger.apps import LATE_MS, BuyPass, choose_backing, compute_pass_key, compute_room
    from roles.keystore import get_key_path, read_public

    output = Output(json)
    directory = find_payer(payer)
    state, _ = read_state(directory)
    wanted = _find_tier(state, name, tier)
    _verify_periods(wanted, periods)
    holder = read_public(get_key_path(directory, "account"))
    cost, room = wanted.price * periods, compute_room(wanted.period_ms * periods + LATE_MS)
    output.note(f"{name}, {format_tier(wanted)}: {periods} x, {format_role(cost)} and the transaction's fee")
    output.note(f"for its room on the ledger it burns {format_role(room)} at most")
    body = BuyPass(name, wanted, periods, choose_backing(state, holder) if wanted.stake else ())
    told = order_final(directory, body, timeout, no_wait)
    output.say(f"pass to {name}, tier {tier}, for {format_role(cost)}: {_format_end(told)}")
    held = None
    if told["height"] is not None:
        state, _ = read_state(directory)
        held = state.passes.get(compute_pass_key(name, holder))
    if held is not None:
        output.say(
            f"good until {format_time(held.until_ms)} UTC; `rolemesh app pass {name}` writes what to show for it"
        )
    until_ms = None if held is None else held.until_ms
    costs = {"cost_grains": cost, "room_grains_max": room}
    output.give({**told, "app": name, "tier": tier, "periods": periods, **costs, "until_ms": until_ms})


@app.command(help_epilogue="Examples:\n\n  rolemesh app ls\n\n  rolemesh app ls --dir .rolemesh/dev-42 --json")
def ls(*, directory: Where = None, json: Json = False) -> None:
    """List the apps on the ledger, with what they have sold and been paid."""
    output = Output(json)
    state, _ = read_state(directory)
    rows = [describe(name, item) for name, item in sorted(state.apps.items())]
    cells = [
        (
            row["app"],
            row["title"] + (" (retired)" if row["is_retired"] else ""),
            str(row["sold"]),
            format_role(row["income_grains"]),
            str(row["requests"]),
        )
        for row in rows
    ]
    output.say(format_table(("APP", "TITLE", "PERIODS SOLD", "INCOME", "REQUESTS"), cells))
    output.say(f"at height {state.height}, as that node has it")
    output.give({"height": state.height, "apps": rows})


@app.command(help_epilogue="Examples:\n\n  rolemesh app show chat\n\n  rolemesh app show chat --dir ./worker --json")
def show(name: Which, /, *, directory: Where = None, json: Json = False) -> None:
    """Show an app: its tiers, what was sold and earned, and its use by model."""
    from protocol.ledger.apps import compute_use_key

    output = Output(json)
    state, _ = read_state(directory)
    row = describe(name, _find(state, name))
    used = [(model, state.app_uses.get(compute_use_key(name, model))) for model in sorted(state.models)]
    uses: list[dict[str, Any]] = [
        {"model": model.hex(), "requests": use.requests, "shared_grains": use.shared}
        for model, use in used
        if use is not None
    ]
    output.say(f"{name}: {row['title']}{' (retired)' if row['is_retired'] else ''}, by {row['owner']}")
    for item in state.apps[name].tiers:
        output.say(f"  {format_tier(item)}")
    sold = f"{row['sold']} periods sold for {format_role(row['income_grains'])}"
    shared = f"{row['requests']} requests, {format_role(row['shared_grains'])} as shares of their fees"
    output.say(f"{sold}; {shared}; the owner has had {format_role(row['earned_grains'])}")
    cells = [(use["model"], str(use["requests"]), format_role(use["shared_grains"])) for use in uses]
    output.say(format_table(("MODEL", "REQUESTS", "SHARES"), cells))
    output.give({"height": state.height, **row, "uses": uses})


def parse_tier(text: str) -> "Tier":
    """A tier as it is written. Raises CommandError.

    >>> parse_tier("day=2,1d,1000")
    Tier(name='day', price=2000000000, stake=0, period_ms=86400000, quota=1000)
    """
    from protocol.ledger.app_records import Tier

    found = re.fullmatch(r"([^=,]+)=(stake:)?([^,]+),([^,]+),(\d{1,13})", text, re.ASCII)
    if found is None:
        hint = "write it like day=2,1d,1000 (price) or holder=stake:100,1h,500"
        raise CommandError("bad_tier", f"not a tier: {text!r}", hint, ExitCode.USAGE)
    grains, period_ms = parse_amount(found[3]), round(parse_duration(found[4]) * 1_000)
    price, stake = (0, grains) if found[2] else (grains, 0)
    return Tier(found[1], price, stake, period_ms, int(found[5]))


def describe(name: str, item: "AppRecord") -> dict[str, Any]:
    """An app for programs."""
    from protocol.keys import format_account

    return {
        "app": name,
        "title": item.title,
        "owner": format_account(item.owner),
        "servers": [format_account(server) for server in item.servers],
        "tiers": [describe_tier(tier) for tier in item.tiers],
        "fee_bp": item.fee_bp,
        "is_retired": bool(item.retired_ms),
        "sold": item.sold,
        "income_grains": item.income,
        "requests": item.requests,
        "shared_grains": item.shared,
        "earned_grains": item.earned,
    }


def describe_tier(tier: "Tier") -> dict[str, Any]:
    """A tier for programs."""
    terms = {"price_grains": tier.price, "stake_grains": tier.stake}
    return {"tier": tier.name, **terms, "period_ms": tier.period_ms, "quota": tier.quota}


def format_tier(tier: "Tier") -> str:
    """A tier for people."""
    asks = f"{format_role(tier.stake)} of stake" if tier.stake else format_role(tier.price)
    return f"tier {tier.name}: {asks} for {tier.period_ms / 1_000:g} s and {tier.quota} requests"


def _find(state: "State", name: str) -> "AppRecord":
    found = state.apps.get(name)
    if found is None:
        hint = "`rolemesh app ls` shows them"
        raise CommandError("no_app", f"the ledger knows no app {name!r}", hint, ExitCode.USAGE)
    return found


def _find_tier(state: "State", name: str, tier: str) -> "Tier":
    """A tier that is for sale. Raises CommandError."""
    found = _find(state, name)
    if found.retired_ms:
        hint = "passes that run are good until their end; `rolemesh app ls` shows the other apps"
        raise CommandError("AppRetired", f"app {name} is retired: it sells no more passes", hint)
    wanted = next((item for item in found.tiers if item.name == tier), None)
    if wanted is None:
        hint = f"`rolemesh app show {name}` lists its tiers"
        raise CommandError("no_tier", f"app {name} has no tier {tier!r}", hint, ExitCode.USAGE)
    return wanted


def _verify_periods(tier: "Tier", periods: int) -> None:
    from protocol.ledger.apps import PERIODS_MAX

    most = 1 if tier.stake else PERIODS_MAX
    if not 1 <= periods <= most:
        why = "stake is shown anew for each" if tier.stake else "that is how far ahead a pass is paid"
        hint = f"give 1 to {most}: {why}" if most > 1 else f"leave --periods out: {why}"
        raise CommandError("bad_periods", f"{periods} periods of tier {tier.name} are not sold", hint, ExitCode.USAGE)


def _format_end(told: dict[str, Any]) -> str:
    return "on its way" if told["height"] is None else f"final at height {told['height']} after {told['took_ms']} ms"
