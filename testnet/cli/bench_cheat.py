"""`rolemesh bench cheat`: does cheating pay, and is anyone blamed who does not cheat?"""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from cyclopts import Parameter

from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.sweeps import Gathered, choose, gather

if TYPE_CHECKING:
    from testnet.bench.cheat.measure import Row
    from testnet.bench.cheat.strategies import Strategy

EPILOGUE = (
    "Examples:\n\n  rolemesh bench cheat\n\n"
    "  rolemesh bench cheat --only alter --only collude --jobs 20000\n\n"
    "  rolemesh bench cheat --full --processes 2 --keep cheat.jsonl --markdown table.md\n\n"
    "  rolemesh bench cheat --real --full --keep real.jsonl\n\n"
    "  rolemesh bench cheat --honest --full --python older/bin/python --python oldest/bin/python\n\n"
    "Ctrl-C ends it with the table of what has run; with --keep the same command goes on from there."
)


class _Row(Protocol):
    @property
    def missed(self) -> tuple[str, ...]: ...

    def to_dict(self) -> dict[str, object]: ...


def cheat(
    *,
    only: Annotated[
        tuple[str, ...], Parameter(name="--only", negative="", help="Only this strategy; may be repeated.")
    ] = (),
    real: Annotated[
        bool, Parameter(negative="", help="Networks of real processes on loopback, one for each strategy and mode.")
    ] = False,
    honest: Annotated[
        bool,
        Parameter(negative="", help="Nobody cheats: nodes of several versions, optimisation levels and batch sizes."),
    ] = False,
    python: Annotated[
        tuple[Path, ...],
        Parameter(negative="", help="For --honest: a Python with another onnxruntime; may be repeated."),
    ] = (),
    jobs: Annotated[int | None, Parameter(help="How many jobs in all, instead of the usual number.")] = None,
    seed: Annotated[int, Parameter(help="The first network's. The same seed gives the same figures.")] = 1,
    full: Annotated[bool, Parameter(negative="", help="100,000 jobs, or 2,000 with --real: an hour or so.")] = False,
    processes: Annotated[int, Parameter(help="How many networks to simulate at a time.")] = 1,
    keep: Annotated[Path | None, Parameter(help="Keep what has run here, and go on from what is there.")] = None,
    markdown: Annotated[Path | None, Parameter(help="Write the table to this file too.")] = None,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print one JSON object per line and figure.")
    ] = False,
) -> int:
    """Does cheating pay? Workers, verifiers and clients that cheat in every way known, beside honest ones.

    In the simulator, or with --real in processes. With --honest: is anyone blamed who does not cheat?

    Exit code 6 when a strategy brings more than honesty, a lie is paid where all is checked, an honest node is slashed,
    or lies are drawn more or less often than arithmetic says.
    """
    from testnet.bench.cheat import measure
    from testnet.bench.cheat import real as processes_of

    output = Output(json)
    sizes = processes_of if real else measure
    wanted = jobs if jobs is not None else sizes.JOBS_FULL if full else sizes.JOBS_SHORT
    if wanted < 1 or processes < 1:
        what = f"{wanted} jobs by {processes} processes"
        raise CommandError("bad_jobs", f"not a sweep: {what}", "give --jobs and --processes 1 or more", ExitCode.USAGE)
    if python and not honest:
        hint = "add --honest, or leave --python out"
        raise CommandError("no_versions", "cheats are run with this Python's onnxruntime", hint, ExitCode.USAGE)
    if honest and only:
        raise CommandError("no_cheats", "with --honest nobody cheats", "leave --only out", ExitCode.USAGE)
    if real and (honest or processes > 1):
        hint = "leave --honest and --processes out"
        raise CommandError("one_network", "with --real there is one network of cheats at a time", hint, ExitCode.USAGE)
    run = _Run(output, wanted, seed, processes, keep, markdown)
    if honest:
        return run.mix(python)
    return run.real(only) if real else run.cheats(only)


class _Run:
    """One call of the command."""

    def __init__(
        self, output: Output, jobs: int, seed: int, processes: int, keep: Path | None, markdown: Path | None
    ) -> None:
        self._output = output
        self._jobs = jobs
        self._seed = seed
        self._processes = processes
        self._keep = keep
        self._markdown = markdown

    def cheats(self, only: tuple[str, ...]) -> int:
        from testnet.bench.cheat import measure as bench
        from testnet.bench.cheat.sweep import sweep

        chosen = _choose(only)
        pieces = bench.plan(chosen, self._jobs, self._seed)
        results = sweep(pieces, bench.simulate_piece, self._processes, self._keep)
        found = gather(results, len(pieces), self._keep)
        return self._show(bench.make_rows(chosen, found.results), found, "")

    def real(self, only: tuple[str, ...]) -> int:
        from testnet.bench.cheat import real as bench
        from testnet.bench.cheat.measure import make_rows
        from testnet.bench.cheat.sweep import sweep
        from testnet.found import NoAddress
        from testnet.launch import LaunchError, Terminated, termination_raises

        chosen = _choose(only)
        pieces = bench.plan(chosen, self._jobs, self._seed)
        try:
            with termination_raises():
                found = gather(sweep(pieces, bench.run_piece, 1, self._keep), len(pieces), self._keep)
        except (bench.NotRun, LaunchError, NoAddress) as error:
            hint = "let the machine do less else, and try again; with --keep what has run is kept"
            raise CommandError("not_run", str(error), hint, ExitCode.UNREACHABLE) from error
        except Terminated as error:
            raise CommandError("interrupted", f"stopped by {error}", "", ExitCode.INTERRUPTED) from error
        return self._show(make_rows(chosen, found.results, has_twins=False), found, "--real ")

    def mix(self, pythons: tuple[Path, ...]) -> int:
        from testnet.bench.cheat import mix as bench
        from testnet.bench.cheat.sweep import sweep
        from testnet.rows_process import RowsFailed

        pieces = bench.plan(self._jobs, self._seed)
        with tempfile.TemporaryDirectory(prefix="rolemesh-honest-") as folder:
            table = Path(folder) / "table.npz"
            try:
                versions = bench.make_table([sys.executable, *map(str, pythons)], table, self._output.note)
            except RowsFailed as error:
                hint = "give --python of an environment with onnxruntime and numpy"
                raise CommandError("no_rows", str(error), hint, ExitCode.CONFIG) from error
            results = sweep(pieces, partial(bench.simulate_mix, str(table)), self._processes, self._keep)
            found = gather(results, len(pieces), self._keep)
        rows = bench.make_rows(found.results)
        text = bench.write_markdown(rows, versions, self._jobs, self._seed)
        self._output.say(text)
        if self._markdown is not None:
            self._markdown.write_text(text, encoding="utf-8")
        return self._end(rows, found)

    def _show(self, rows: "list[Row]", found: Gathered, how: str) -> int:
        """The table of cheats."""
        from protocol.ledger.params import Params
        from testnet.bench.cheat import measure as bench

        self._output.say(bench.compute_arithmetic(Params()).describe())
        self._output.say(bench.format_line(bench.COLUMNS.split("|")))
        for row in rows:
            self._output.say(bench.format_line(row.format_cells()))
        if self._markdown is not None:
            command = f"rolemesh bench cheat {how}--jobs {self._jobs} --seed {self._seed}"
            self._markdown.write_text(bench.write_markdown(rows, command), encoding="utf-8")
        return self._end(rows, found)

    def _end(self, rows: Sequence[_Row], found: Gathered) -> int:
        for row in rows:
            self._output.give(row.to_dict())
        missed = [str(row.to_dict()["name"]) for row in rows if row.missed]
        if missed:
            self._output.note(f"missed: {', '.join(missed)}")
        if found.stopped:
            self._output.note(found.stopped)
            return int(ExitCode.INTERRUPTED)
        return int(ExitCode.INVARIANT_VIOLATED if missed else ExitCode.OK)


def _choose(only: tuple[str, ...]) -> "tuple[Strategy, ...]":
    from testnet.bench.cheat.strategies import STRATEGIES, find_strategies

    return find_strategies(choose(only, tuple(strategy.name for strategy in STRATEGIES)))
