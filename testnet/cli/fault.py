"""`rolemesh testnet fault`: do something to a running network on purpose, see what is on, and heal it."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, open_network, parse_duration
from testnet.cli.fault_orders import ask_launcher, carry_out, format_left, format_where, open_running, split_names
from testnet.cli.output import CommandError, ExitCode, Output, format_table
from testnet.faults import Crash, FaultPlan, LinkFault, Partition, Pause

REST = "rest"
CHURN_SPARED = ("validator", "client")  # unless they are named: without them there is no traffic to look at

app = App(
    name="fault",
    help="Faults on the processes and links of a running network: no root needed, all of it in the event log.",
    help_epilogue="Examples:\n\n  rolemesh testnet fault partition inference-0,client-0 / rest --for 20s\n\n"
    "  rolemesh testnet fault delay --from inference-0 --to validator-0 --ms 200 --jitter-ms 50 --for 30s\n\n"
    "  rolemesh testnet fault kill inference-1 --restart-after 5s\n\n  rolemesh testnet fault ls\n\n"
    "  rolemesh testnet fault heal",
)
Where = Annotated[
    Path | None, Parameter(name="--dir", help="Directory of the network; the newest under ./.rolemesh unless given.")
]
For = Annotated[
    str | None,
    Parameter(name="--for", help="How long: 30s, 5m. The command then stays until it is over; Ctrl-C heals at once."),
]
Sources = Annotated[str, Parameter(name="--from", help="Who sends: names, comma separated; everybody unless given.")]
Targets = Annotated[str, Parameter(name="--to", help="Who is sent to; everybody unless given.")]
BothWays = Annotated[bool, Parameter(name="--both-ways", negative="", help="The ways back as well.")]


@app.command(
    help_epilogue="Examples:\n\n  rolemesh testnet fault partition inference-0,client-0 / rest --for 20s\n\n"
    "  rolemesh testnet fault partition validator-0 / inference-0,inference-1 / rest\n\n"
    "  rolemesh testnet fault partition inference-0 --one-way --refuse --for 10s"
)
def partition(
    *groups: str,
    one_way: Annotated[bool, Parameter(negative="")] = False,
    refuse: Annotated[bool, Parameter(negative="")] = False,
    for_: For = None,
    directory: Where = None,
    json: Json = False,
) -> None:
    """Cut groups of nodes off from each other. Connections stay up, unaware, and go on where they were afterwards.

    Parameters
    ----------
    groups
        Names, comma separated, with " / " between groups. `rest`, which may be left out, is every node not named.
    one_way
        Cut only what the first group sends to others.
    refuse
        Break connections at once and refuse dials, instead of letting them wait.
    """
    parts = " ".join(groups).replace(" ", ",").split("/")
    named = [split_names(part) for part in parts]
    chosen = tuple(group for group in named if group not in ((), (REST,)))
    if not chosen or any(REST in group for group in chosen) or (one_way and named[0] == (REST,)):
        raise CommandError(
            "usage", "name at least one group of nodes", "like: inference-0,client-0 / rest", ExitCode.USAGE
        )
    carry_out(lambda ms: FaultPlan(partitions=(Partition(0, ms, chosen, one_way, refuse),)), for_, directory, json)


@app.command(
    help_epilogue="Examples:\n\n"
    "  rolemesh testnet fault delay --from inference-0 --to validator-0 --ms 200 --jitter-ms 50 --for 30s\n\n"
    "  rolemesh testnet fault delay --ms 40 --jitter-ms 20\n\n"
    "  rolemesh testnet fault delay --from storage-0 --both-ways --bytes-per-s 100000 --loss 2 --for 1m"
)
def delay(
    *,
    ms: int = 0,
    jitter_ms: int = 0,
    bytes_per_s: int = 0,
    loss: float = 0.0,
    from_: Sources = "",
    to: Targets = "",
    both_ways: BothWays = False,
    for_: For = None,
    directory: Where = None,
    json: Json = False,
) -> None:
    """Make ways late, narrow or lossy.

    Parameters
    ----------
    ms
        How late everything is, in milliseconds.
    jitter_ms
        Up to so much later, drawn for each packet from the network's seed.
    bytes_per_s
        How much passes at most on each way of each connection.
    loss
        Percent of packets lost; on a connection that is a pause of 200 ms or more until they are sent again.
    """
    if not (ms or jitter_ms or bytes_per_s or loss):
        raise CommandError(
            "usage", "nothing to do to the links", "say --ms, --jitter-ms, --bytes-per-s or --loss", ExitCode.USAGE
        )
    sources, targets, loss_bp = split_names(from_), split_names(to), round(loss * 100)
    carry_out(
        lambda end_ms: FaultPlan(
            links=(LinkFault(0, end_ms, sources, targets, both_ways, ms, jitter_ms, bytes_per_s, loss_bp),)
        ),
        for_,
        directory,
        json,
    )


@app.command(help_epilogue="Examples:\n\n  rolemesh testnet fault stall --from inference-0 --for 5s")
def stall(
    *,
    from_: Sources = "",
    to: Targets = "",
    both_ways: BothWays = False,
    for_: For = None,
    directory: Where = None,
    json: Json = False,
) -> None:
    """Hold back all that is sent on some ways; it arrives, in order, when the stall is over."""
    _silence("stall", from_, to, both_ways, for_, directory, json)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh testnet fault blackhole --from client-0 --to storage-0 --both-ways --for 20s"
)
def blackhole(
    *,
    from_: Sources = "",
    to: Targets = "",
    both_ways: BothWays = False,
    for_: For = None,
    directory: Where = None,
    json: Json = False,
) -> None:
    """Take all that is sent on some ways and deliver none of it, telling nobody. What was sent meanwhile is lost."""
    _silence("blackhole", from_, to, both_ways, for_, directory, json)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh testnet fault kill inference-0 --restart-after 5s\n\n"
    "  rolemesh testnet fault kill verifier-1      # until `rolemesh testnet fault heal`"
)
def kill(node: str, *, restart_after: str | None = None, directory: Where = None, json: Json = False) -> None:
    """Kill a node as by `kill -9`.

    Parameters
    ----------
    node
        Its name.
    restart_after
        Start it again after so long, and stay until then; unless given, `fault heal` does.
    """
    carry_out(lambda ms: FaultPlan(crashes=(Crash(node, 0, ms),)), restart_after, directory, json, must_run=(node,))


@app.command(help_epilogue="Examples:\n\n  rolemesh testnet fault pause validator-0 --for 10s")
def pause(node: str, *, for_: For = None, directory: Where = None, json: Json = False) -> None:
    """Have a node and its workers stand still (SIGSTOP) and go on where they were (SIGCONT).

    Parameters
    ----------
    node
        Its name.
    """
    carry_out(lambda ms: FaultPlan(pauses=(Pause(node, 0, ms),)), for_, directory, json, must_run=(node,))


@app.command(
    help_epilogue="Examples:\n\n  rolemesh testnet fault churn --rate 10 --for 1m\n\n"
    "  rolemesh testnet fault churn inference-0,inference-1,verifier-0 --rate 30 --down 1s --for 30s"
)
def churn(
    nodes: str = "",
    *,
    rate: float = 6.0,
    down: str = "3s",
    for_: For = "30s",
    directory: Where = None,
    json: Json = False,
) -> None:
    """Kill nodes at random times, drawn from the network's seed, and start each of them again.

    Parameters
    ----------
    nodes
        Whom, comma separated; every node but validators and clients unless given.
    rate
        Kills per minute.
    down
        How long each stays down.
    """
    from testnet.fault_ways import draw_churn

    _, network = open_network(directory)
    chosen = split_names(nodes) or tuple(node.name for node in network.nodes if node.role not in CHURN_SPARED)
    down_ms = round(parse_duration(down) * 1_000)
    if not 0 < rate <= 600 or for_ is None or not chosen:
        raise CommandError(
            "usage", "churn has a --rate up to 600 a minute, nodes and an end", "add --for 30s", ExitCode.USAGE
        )
    carry_out(lambda ms: draw_churn(network.seed, chosen, rate, ms, down_ms), for_, directory, json, extra_ms=down_ms)


@app.command(help_epilogue="Examples:\n\n  rolemesh testnet fault heal\n\n  rolemesh testnet fault heal f2")
def heal(which: str = "", *, directory: Where = None, json: Json = False) -> None:
    """End faults, planned ones too; killed nodes are started again.

    Parameters
    ----------
    which
        A fault or a set of them, by the id that `fault ls` shows; all unless given.
    """
    output = Output(json)
    root, _ = open_running(directory)
    said = ask_launcher(root, {"command": "faults.heal", "which": which})
    if which and not said["healed"]:
        known = sorted({fault["set"] for fault in said["faults"] if fault["state"] in ("planned", "on")})
        hint = f"there is: {', '.join(known) or 'nothing on or planned'}"
        raise CommandError("unknown_fault", f"no fault {which!r} is on or planned", hint, ExitCode.USAGE)
    output.say(f"healed: {', '.join(said['healed']) or 'nothing was on'}")
    output.give({"healed": said["healed"]})


@app.command(help_epilogue="Examples:\n\n  rolemesh testnet fault ls\n\n  rolemesh testnet fault ls --json")
def ls(*, directory: Where = None, json: Json = False) -> None:
    """List every fault of this run: planned, on and over."""
    output = Output(json)
    root, _ = open_running(directory)
    said = ask_launcher(root, {"command": "faults.ls"})
    rows = [
        (fault["fault"], fault["kind"], fault["state"], format_left(fault), format_where(fault))
        for fault in said["faults"]
    ]
    output.say(format_table(("FAULT", "KIND", "STATE", "LEFT", "WHERE"), rows) if rows else "no faults")
    for name, why in said["refusals"].items():
        output.note(f"{name} takes no orders: {why}")
    output.give(said)


def _silence(
    what: str, from_: str, to: str, both_ways: bool, for_: str | None, directory: Path | None, json: bool
) -> None:
    sources, targets = split_names(from_), split_names(to)
    make = lambda ms: FaultPlan(links=(LinkFault(0, ms, sources, targets, both_ways, silence=what),))  # noqa: E731
    carry_out(make, for_, directory, json)
