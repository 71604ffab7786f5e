"""All that is measured, as lines for people, figures for programs and rows of Markdown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from protocol.ledger.params import Params
from testnet.bench.economy.costs import Costs
from testnet.bench.economy.edge import EDGE_COLUMNS
from testnet.bench.economy.edges import measure_edges
from testnet.bench.economy.measure import COLUMNS, Size, describe, format_columns, format_line, measure
from testnet.bench.economy.network import Setting
from testnet.bench.economy.played import ROLES
from testnet.bench.economy.shocks import SHOCK_COLUMNS, SHOCKS, play_shock
from testnet.bench.economy.story import (
    CAST,
    EPOCH_COLUMNS,
    OUTSIDE,
    ROWS,
    STORY,
    Story,
    judge_story,
)
from testnet.bench.economy.sweep import SWEEP_COLUMNS, sweep
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

    size: Size
    seed: int
    costs: Costs
    note: Note
    params: Params = field(default_factory=Params)

    def run(self) -> Iterator[Line]:
        """The lines as they come."""
        yield Line(describe(self.params, self.costs, PRICE_GRAINS))
        yield from self._tell_strategies()
        yield from self._tell_story()
        yield from self._tell_shocks()
        yield from self._tell_edges()
        yield from self._tell_sweep()

    def _tell_strategies(self) -> Iterator[Line]:
        yield _head(COLUMNS, format_line)
        for row in measure(self.size, self.seed, self.costs, self.params, self.note):
            is_missed = bool(row.missed) and not row.strategy.known
            yield _line(row.format_cells(), row.to_dict(), is_missed, format_line)

    def _tell_story(self) -> Iterator[Line]:
        yield Line("")
        yield _head(EPOCH_COLUMNS, format_epoch)
        for seed in self._seeds:
            self.note(f"demand that surges and collapses, seed {seed}")
            story = Story(self._setting, seed)
            missed = tuple(judge_story(story, story.play(STORY)))
            for epoch in story.epochs:
                yield _line(epoch.format_cells(), epoch.to_dict(), False, format_epoch)
            yield Line(story.describe(missed), (), story.to_dict(missed), bool(missed))

    def _tell_shocks(self) -> Iterator[Line]:
        yield Line("")
        yield _head(SHOCK_COLUMNS, format_shock)
        for seed in self._seeds:
            for shock in SHOCKS:
                self.note(f"half of the {shock.role} nodes go: {shock.name}, seed {seed}")
                shocked = play_shock(self._setting, seed, shock)
                is_missed = bool(shocked.missed) and not shock.known
                yield _line(shocked.format_cells(), shocked.to_dict(), is_missed, format_shock)

    @property
    def _seeds(self) -> range:
        return range(self.seed, self.seed + self.size.seeds)

    def _tell_edges(self) -> Iterator[Line]:
        yield Line("")
        yield _head(EDGE_COLUMNS, format_edge)
        for edge in measure_edges(self._simple, self.seed, self.note):
            yield _line(edge.format_cells(), edge.to_dict(), bool(edge.missed), format_edge)

    def _tell_sweep(self) -> Iterator[Line]:
        self.note("sweep: one parameter at a time, far to either side")
        yield Line("")
        yield _head(SWEEP_COLUMNS, format_point)
        for point in sweep(replace(self._simple, individual=2), self.seed):
            is_missed = bool(point.breaks) and point.is_shipped
            yield _line(point.format_cells(), point.to_dict(), is_missed, format_point)

    @property
    def _simple(self) -> Setting:
        return Setting(ROLES, params=self.params, costs=self.costs)

    @property
    def _setting(self) -> Setting:
        return Setting(CAST, OUTSIDE, self.params, self.costs, rows=ROWS, individual=2)


def _head(columns: str, write: Callable[[Sequence[str]], str]) -> Line:
    head = tuple(columns.split("|"))
    return Line(write(head), head)


def _line(
    cells: Sequence[str], figure: Mapping[str, object], is_missed: bool, write: Callable[[Sequence[str]], str]
) -> Line:
    return Line(write(cells), tuple(cells), figure, is_missed)


def format_epoch(cells: Sequence[str]) -> str:
    return format_columns(cells, (6, 7, 10, 7, 9, 12, 7, 13, 9, 11, 8, 0))


def format_shock(cells: Sequence[str]) -> str:
    return format_columns(cells, (6, 11, 23, 10, 10, 12, 14, 17, 0))


def format_edge(cells: Sequence[str]) -> str:
    return format_columns(cells, (20, 19, 42, 22, 22, 18, 0))


def format_point(cells: Sequence[str]) -> str:
    return format_columns(cells, (18, 22, 9, 16, 18, 25, 16, 0))


def write_markdown(lines: Sequence[Line]) -> str:
    """The same as Markdown."""
    written = []
    for line in lines:
        if line.cells:
            if line.figure is None:
                written.append("")
            written.append(f"| {' | '.join(line.cells)} |")
            if line.figure is None:
                written.append("|---" * len(line.cells) + "|")
        elif line.text:
            written += ["", line.text, ""]
    return "\n".join(written).strip() + "\n"
