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
    """Gossip, ours beside stock py-libp2p, js-libp2p and bare sockets. Takes minutes; --only takes less."""
    from testnet.bench.gossip.measure import NAMES, measure

    output, hint = Output(json), "names are " + ", ".join(NAMES)
    if unknown := [name for name in only if name not in NAMES]:
        raise CommandError("unknown_figure", f"no figure is named {unknown[0]}", hint, ExitCode.USAGE)
    return report(measure(output.note, full, frozenset(only)), output)
