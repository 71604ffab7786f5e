"""All that is measured, as lines for people, figures for programs and rows of Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from protocol.ledger.params import Params
from testnet.bench.economy.costs import Costs
from testnet.bench.economy.measure import COLUMNS, FULL, SHORT, describe, format_line, measure
from testnet.bench.figures import Note
from testnet.genesis import PRICE_GRAINS


@dataclass(frozen=True)
class Line:
    """`cells` are those of a table, whose head has no figure; without cells it is a word between tables."""

    text: str
    cells: tuple[str, ...] = ()
    figure: Mapping[str, object] | None = None
    is_missed: bool = False

    @property
    def name(self) -> str:
        return str(self.figure["name"]) if self.figure is not None else ""


@dataclass(frozen=True)
class Report:
    """One run of the benchmark."""

    full: bool
    seed: int
    costs: Costs
    note: Note
    params: Params = field(default_factory=Params)

    def run(self) -> Iterator[Line]:
        """The lines as they come."""
        yield Line(describe(self.params, self.costs, PRICE_GRAINS))
        head = tuple(COLUMNS.split("|"))
        yield Line(format_line(head), head)
        for row in measure(FULL if self.full else SHORT, self.seed, self.costs, self.params, self.note):
            cells = tuple(row.format_cells())
            is_missed = bool(row.missed) and not row.strategy.known
            yield Line(format_line(cells), cells, row.to_dict(), is_missed)


def write_markdown(lines: Sequence[Line]) -> str:
    """The same as Markdown."""
    written = []
    for line in lines:
        if line.cells:
            written.append(f"| {' | '.join(line.cells)} |")
            if line.figure is None:
                written.append("|---" * len(line.cells) + "|")
        else:
            written += ["", line.text, ""]
    return "\n".join(written).strip() + "\n"
