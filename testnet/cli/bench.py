"""`rolemesh bench`: figures, each beside a peer or a ceiling measured in the same run.

With `--json` it prints one object per line and figure, as they come; progress goes to standard error.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.output import CommandError, ExitCode, Output

if TYPE_CHECKING:
    from testnet.bench.figures import Figure

app = App(
    name="bench",
    help="Measure how fast things are, beside others in the same run. Figures are ratios: machines differ.",
)
JsonLines = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object per line and figure.")]
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
    only: Annotated[
        tuple[str, ...], Parameter(name="--only", negative="", help="Only the figures of this name; may be repeated.")
    ] = (),
) -> int:
    """Gossip, ours beside stock py-libp2p, js-libp2p and bare sockets."""
    from testnet.bench.gossip.measure import NAMES, measure

    output, hint = Output(json), "names are " + ", ".join(NAMES)
    if unknown := [name for name in only if name not in NAMES]:
        raise CommandError("unknown_figure", f"no figure is named {unknown[0]}", hint, ExitCode.USAGE)
    return report(measure(output.note, full, frozenset(only)), output)


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
