"""`rolemesh bench`: figures, each beside a peer or a ceiling measured in the same run.

With `--json` it prints one object per line and figure, as they come; progress goes to standard error.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.bench_cheat import EPILOGUE, cheat
from testnet.cli.bench_economy import EPILOGUE as ECONOMY_EPILOGUE
from testnet.cli.bench_economy import economy
from testnet.cli.bench_network import EPILOGUE as NETWORK_EPILOGUE
from testnet.cli.bench_network import network
from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.sweeps import choose

if TYPE_CHECKING:
    from testnet.bench.figures import Figure

app = App(
    name="bench",
    help="Measure how fast things are, beside others in the same run. Figures are ratios: machines differ.",
    help_epilogue="Examples:\n\n  rolemesh bench gossip\n\n  rolemesh bench ledger\n\n"
    "  rolemesh bench ledger --only transfers --full",
)
JsonLines = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object per line and figure.")]
Only = Annotated[
    tuple[str, ...], Parameter(name="--only", negative="", help="Only the figures of this name; may be repeated.")
]
Full = Annotated[bool, Parameter(name="--full", negative="", help="The real thing, which takes minutes.")]


def report(figures: "Iterable[Figure]", output: Output) -> int:
    """Print figures as they come."""
    for figure in figures:
        output.say(figure.format())
        output.give(figure.to_dict())
    return int(ExitCode.OK)


@app.command(help_epilogue="Examples:\n\n  rolemesh bench transport\n\n  rolemesh bench transport --json")
def transport(*, json: JsonLines = False) -> int:
    """Streams over one connection, ours beside stock py-libp2p: two processes each on loopback, rounds taking turns."""
    from testnet.bench.transport import measure

    output = Output(json)
    return report(measure(output.note), output)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh bench gossip\n\n  rolemesh bench gossip --json\n\n"
    "  rolemesh bench gossip --only one_to_one_256 --only mesh_16"
)
def gossip(
    *,
    json: JsonLines = False,
    full: Full = False,
    only: Only = (),
) -> int:
    """Gossip, ours beside stock py-libp2p, js-libp2p and bare sockets. Takes minutes; --only takes less."""
    from testnet.bench.gossip.measure import NAMES, measure

    output = Output(json)
    return report(measure(output.note, full, choose(only, NAMES)), output)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh bench ledger\n\n  rolemesh bench ledger --json\n\n"
    "  rolemesh bench ledger --only transfers --full\n\n  rolemesh bench ledger --only vouchers --only replay"
)
def ledger(
    *,
    json: JsonLines = False,
    full: Full = False,
    only: Only = (),
) -> int:
    """Transfers made final by four validator processes, vouchers and ledgers verified, beside how fast signatures are.

    Finality is measured by a client that believes certificates alone: under a light load, under as much as the network
    takes, and under four fifths of that. The rest, consensus too, is per second of processor time of one core.
    """
    from roles.interpreter import set_up_interpreter
    from testnet.bench.finality.network import NotReady
    from testnet.bench.ledger import NAMES, measure

    set_up_interpreter()  # as in nodes
    output = Output(json)
    try:
        return report(measure(output.note, full, choose(only, NAMES)), output)
    except NotReady as error:
        hint = "let the machine do less else, and try again"
        raise CommandError("not_ready", str(error), hint, ExitCode.UNREACHABLE) from error


@app.command(
    help_epilogue="Examples:\n\n  rolemesh bench inference\n\n  rolemesh bench inference --json\n\n"
    "  rolemesh bench inference --only added_p50 --only added_p99 --full"
)
def inference(
    *,
    json: JsonLines = False,
    full: Full = False,
    only: Only = (),
) -> int:
    """What a network adds to running a model: a client, a worker and its engine, beside the model alone.

    Real processes on loopback; a voucher signed and checked for every request, a receipt for every answer. Models are
    made to take 1, 10 and 30 ms on this machine.
    """
    from roles.interpreter import set_up_interpreter
    from testnet.bench.inference.measure import NAMES, measure
    from testnet.bench.inference.network import NotReady

    set_up_interpreter()  # as in nodes
    output = Output(json)
    try:
        return report(measure(output.note, full, choose(only, NAMES)), output)
    except NotReady as error:
        hint = "let the machine do less else, and try again"
        raise CommandError("not_ready", str(error), hint, ExitCode.UNREACHABLE) from error


@app.command(
    help_epilogue="Examples:\n\n  rolemesh bench gateway\n\n  rolemesh bench gateway --json\n\n"
    "  rolemesh bench gateway --only added_p50 --full"
)
def gateway(
    *,
    json: JsonLines = False,
    full: Full = False,
    only: Only = (),
) -> int:
    """What a gateway adds to a request: over HTTP beside the Python client, over the same node, in turns.

    Real processes on loopback. Numbers go as JSON, as raw tensors, and as JSON paid with a key.
    """
    from roles.interpreter import set_up_interpreter
    from testnet.bench.gateway.measure import NAMES, measure
    from testnet.bench.inference.network import NotReady

    set_up_interpreter()  # as in nodes
    output = Output(json)
    try:
        return report(measure(output.note, full, choose(only, NAMES)), output)
    except NotReady as error:
        hint = "let the machine do less else, and try again"
        raise CommandError("not_ready", str(error), hint, ExitCode.UNREACHABLE) from error


@app.command(help_epilogue="Examples:\n\n  rolemesh bench store\n\n  rolemesh bench store --full --at /srv/data --json")
def store(
    *,
    json: JsonLines = False,
    full: Full = False,
    only: Only = (),
    at: Annotated[Path | None, Parameter(help="Folder on the disk to measure; that of temporary files else.")] = None,
) -> int:
    """A folder put durably and got back, every block hashed, beside the disk and the hash alone. --full takes 2 GiB."""
    from testnet.bench.store import NAMES, RoundFailed, measure

    output = Output(json)
    try:
        return report(measure(output.note, full, choose(only, NAMES), at), output)
    except (RoundFailed, OSError) as error:
        hint = "it needs four times the folder on that disk; --at names another"
        raise CommandError("not_measured", str(error), hint) from error


@app.command(
    help_epilogue="Examples:\n\n  rolemesh bench soak\n\n  rolemesh bench soak --minutes 5 --json\n\n"
    "Exit code 6 names what grew. Below 20 minutes caches still fill up to their bounds: the bar for memory is loose."
)
def soak(
    *,
    minutes: Annotated[float, Parameter(help="How long; two fifths of it are warm-up.")] = 30.0,
    seed: Annotated[int, Parameter(help="Who comes, and how they leave.")] = 1,
    json: JsonLines = False,
) -> int:
    """Does a node leak? Ten strangers a second come and go; its memory, tasks, descriptors and maps must stay flat."""
    from testnet.bench.soak import MINUTES_MIN, PartEnded, measure

    output = Output(json)
    if minutes < MINUTES_MIN:
        hint = f"give --minutes {MINUTES_MIN:g} or more"
        raise CommandError("too_short", f"{minutes:g} minutes show nothing", hint, ExitCode.USAGE)
    try:
        verdict = measure(minutes, seed, output.note)
    except PartEnded as error:
        hint = "its last words stand above; run it again with the same --seed"
        raise CommandError("part_ended", str(error), hint, ExitCode.INVARIANT_VIOLATED) from error
    report(verdict.figures, output)
    if verdict.grew:
        what = "; ".join(f"{name} ({how})" for name, how in verdict.grew.items())
        hint = "look for who adds to what grew and never takes away"
        raise CommandError("grew", f"verdict: grew: {what}", hint, ExitCode.INVARIANT_VIOLATED, grew=dict(verdict.grew))
    output.say(f"verdict: nothing grew in {verdict.seconds:.0f} s after the warm-up")
    return int(ExitCode.OK)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh bench attack\n\n  rolemesh bench attack --scenario cold_boot --full\n\n"
    "  rolemesh bench attack --full --sybils 200 --markdown table.md"
)
def attack(
    *,
    scenario: Annotated[tuple[str, ...], Parameter(help="Only this one; may be given again.")] = (),
    sybils: Annotated[int | None, Parameter(help="How many sybils, instead of the usual number.")] = None,
    seed: Annotated[int, Parameter(help="Another network. The same seed gives the same figures.")] = 1,
    full: Annotated[
        bool, Parameter(negative="", help="200 honest peers and 800 sybils for 60 virtual seconds, every scenario.")
    ] = False,
    markdown: Annotated[Path | None, Parameter(help="Write the table to this file too.")] = None,
    json: JsonLines = False,
) -> int:
    """Sybils against gossip, on virtual time: who is still delivered, and how late, beside the same run without them.

    Exit code 6 when fewer than 99.9 % of deliveries arrive or the 99th percentile is more than twice the clean run's.
    """
    from testnet.bench import attack as bench
    from testnet.gossip.attacks import SCENARIOS

    output = Output(json)
    names = scenario or tuple(known.name for known in SCENARIOS if full or known.name in bench.SHORT_NAMES)
    unknown = sorted(set(names) - {known.name for known in SCENARIOS})
    if unknown:
        raise CommandError(
            "unknown_scenario",
            f"there is no scenario {unknown[0]}",
            f"choose from: {', '.join(known.name for known in SCENARIOS)}",
            ExitCode.USAGE,
        )
    size = bench.FULL if full else bench.SHORT
    if sybils is not None:
        size = replace(size, sybils=sybils)
    if not full:
        output.note(
            f"short: {size.honest} honest peers, {size.sybils} sybils, {size.seconds} s; --full for the real thing"
        )
    output.say(bench.format_line([column.strip() for column in bench.COLUMNS.split("|")]))
    rows = []
    for row in bench.measure(bench.find_scenarios(names), size, seed, output.note):
        rows.append(row)
        output.say(bench.format_line(row.format_cells()))
        output.give(row.to_dict())
    if markdown is not None:
        markdown.write_text(bench.write_markdown(rows, size, seed), encoding="utf-8")
    missed = [row.outcome.scenario for row in rows if not row.is_held]
    if missed:
        output.note(f"missed: {', '.join(missed)}")
    return int(ExitCode.INVARIANT_VIOLATED if missed else ExitCode.OK)


app.command(cheat, help_epilogue=EPILOGUE)
app.command(network, help_epilogue=NETWORK_EPILOGUE)
app.command(economy, help_epilogue=ECONOMY_EPILOGUE)


@app.command(help_epilogue="Examples:\n\n  rolemesh bench scale\n\n  rolemesh bench scale --full --plot scale.svg")
def scale(
    *,
    full: Annotated[bool, Parameter(negative="", help="Up to 10,000 nodes, which takes minutes and 2 GB.")] = False,
    plot: Annotated[Path | None, Parameter(help="Draw the figures into this SVG file too.")] = None,
    json: JsonLines = False,
) -> int:
    """What a delivery costs the gossip router as the simulated network grows, each size beside the smallest.

    Exit code 6 when the dearest size costs over 20 % more than the cheapest.
    """
    from testnet.bench import scale as bench

    output = Output(json)
    rows = []
    for figure, recording in bench.measure(bench.FULL_SIZES if full else bench.SIZES, output.note):
        rows.append((figure, recording))
        copies, network_us = round(recording.copies, 2), round(recording.network_us, 1)
        output.say(f"{figure.format()}   {copies} copies, {network_us} us in the simulated network")
        output.give({**figure.to_dict(), "copies": copies, "network_us": network_us})
    if plot is not None:
        plot.write_text(bench.draw(rows), encoding="utf-8")
    if bench.is_flat([figure for figure, _ in rows]):
        return int(ExitCode.OK)
    output.note("not flat: the dearest size costs over 20 % more than the cheapest")
    return int(ExitCode.INVARIANT_VIOLATED)
