"""`rolemesh bench`: figures, each beside a peer or a ceiling measured in the same run.

With `--json` it prints one object per line and figure, as they come; progress goes to standard error.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.output import ExitCode, Output

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
