"""`rolemesh peers`: who a running node is connected to, whom it refuses, whom it vouches for."""

from typing import Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, parse_duration
from testnet.cli.node import DATA, Data
from testnet.cli.output import CommandError, ExitCode, Output, format_table

app = App(
    name="peers",
    help="Peers of a running node: look, ban, allow.",
    help_epilogue="Examples:\n\n  rolemesh peers ls\n\n  rolemesh peers ban 192.0.2.7\n\n"
    "  rolemesh peers allow 192.0.2.7",
)
Subject = Annotated[
    str, Parameter(name="SUBJECT", help="A node (12D3Koo…), an IP address, or a network like 192.0.2.0/24.")
]


@app.command(
    help_epilogue="Examples:\n\n  rolemesh peers ls\n\n"
    "  rolemesh peers ls --data .rolemesh/dev-42/nodes/storage-0 --json"
)
def ls(*, data: Data = DATA, json: Json = False) -> None:
    """List connections, bans that hold now, and whom the operator vouches for. Exits 4 when the node does not run."""
    output = Output(json)
    found = _ask(data, {"command": "peers.ls"})
    head = ("NODE", "ADDRESS", "DIRECTION", "CONNECTED", "FAULTS", "KNOWN", "ALLOWED")
    rows = [
        (
            peer["node"],
            peer["address"],
            peer["direction"],
            f"{peer['connected_s']:.0f} s",
            f"{peer['faults']:.0f}",
            "yes" if peer["is_known"] else "no",
            "yes" if peer["is_allowed"] else "no",
        )
        for peer in found["peers"]
    ]
    output.say(format_table(head, rows))
    for ban in found["bans"]:
        output.say(f"banned   {ban['subject']}  for {ban['left_s']} s more: {ban['reason']}")
    for subject in found["allowed"]:
        output.say(f"allowed  {subject}")
    for reason, count in sorted(found["refused"].items()):
        output.say(f"refused  {count} callers since the start: {reason}")
    output.give(found)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh peers ban 12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA\n\n"
    '  rolemesh peers ban 192.0.2.0/24 --for 7d --reason "junk from all over that block"'
)
def ban(
    subject: Subject,
    *,
    for_: Annotated[str, Parameter(name="--for")] = "1h",
    reason: str = "by hand",
    data: Data = DATA,
    json: Json = False,
) -> None:
    """Hang up on a peer, an address or a network, and refuse it for a while. The ban outlives the node's process.

    Parameters
    ----------
    for_
        How long: 30s, 1h, 7d; at most 366 days.
    reason
        What to show with the ban.
    """
    seconds = max(1, round(parse_duration(for_)))
    _change(data, {"command": "peers.ban", "subject": subject, "for_s": seconds, "reason": reason}, "banned", json)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh peers allow 12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA\n\n"
    "  rolemesh peers allow 192.0.2.7 --data ./worker"
)
def allow(subject: Subject, *, data: Data = DATA, json: Json = False) -> None:
    """Vouch for a peer, an address or a network: lifts a ban, and no fault leads to another until it is forgotten."""
    _change(data, {"command": "peers.allow", "subject": subject}, "allowed", json)


@app.command(help_epilogue="Examples:\n\n  rolemesh peers forget 192.0.2.0/24")
def forget(subject: Subject, *, data: Data = DATA, json: Json = False) -> None:
    """Take back a ban or an allowance: from now on the subject is one like any other."""
    _change(data, {"command": "peers.forget", "subject": subject}, "forgotten", json)


def _change(data: Data, request: dict[str, Any], done: str, json: bool) -> None:
    from roles.control import RequestRefused

    output = Output(json)
    try:
        found = _ask(data, request)
    except RequestRefused as error:
        hint = "name a node, an IP address or a network; `rolemesh peers ls` shows who is there"
        raise CommandError("bad_subject", error.message, hint, ExitCode.USAGE) from error
    output.say(f"{found['subject']} is {done}")
    output.give({**found, "state": done})


def _ask(data: Data, request: dict[str, Any]) -> dict[str, Any]:
    """What the running node answers. Raises CommandError when there is none."""
    from roles.control import NodeUnreachable, ask_node

    if not (data / "node.json").is_file():
        hint = "make one with `rolemesh node init --network FILE`, or name its directory with --data"
        raise CommandError("no_node", f"no node in {data}", hint, ExitCode.CONFIG)
    try:
        return ask_node(data, request)
    except NodeUnreachable as error:
        raise CommandError("not_running", error.message, error.hint, ExitCode.UNREACHABLE) from error
