"""`rolemesh bench cheat`: does cheating pay, and is anyone blamed who does not cheat?"""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

from cyclopts import Parameter

from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.sweeps import Gathered, choose, gather

EPILOGUE = (
    "Examples:\n\n  rolemesh bench cheat\n\n"
    "  rolemesh bench cheat --only alter --only collude --jobs 20000\n\n"
    "  rolemesh bench cheat --full --processes 2 --keep cheat.jsonl --markdown table.md\n\n"
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
    full: Annotated[bool, Parameter(negative="", help="100,000 jobs, which takes an hour or two.")] = False,
    processes: Annotated[int, Parameter(help="How many networks to simulate at a time.")] = 1,
    keep: Annotated[Path | None, Parameter(help="Keep what has run here, and go on from what is there.")] = None,
    markdown: Annotated[Path | None, Parameter(help="Write the table to this file too.")] = None,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print one JSON object per line and figure.")
    ] = False,
) -> int:
    """Does cheating pay? Workers, verifiers and clients that cheat in every way known, beside honest ones, simulated.

    Exit code 6 when a strategy brings more than honesty, a lie is paid where all is checked, an honest node is slashed,
    or lies are drawn more or less often than arithmetic says.
    """
    from testnet.bench.cheat.measure import JOBS_FULL, JOBS_SHORT

    output = Output(json)
    wanted = jobs if jobs is not None else JOBS_FULL if full else JOBS_SHORT
    if wanted < 1 or processes < 1:
        what = f"{wanted} jobs by {processes} processes"
        raise CommandError("bad_jobs", f"not a sweep: {what}", "give --jobs and --processes 1 or more", ExitCode.USAGE)
    if python and not honest:
        hint = "add --honest, or leave --python out"
        raise CommandError("no_versions", "cheats are run with this Python's onnxruntime", hint, ExitCode.USAGE)
    if honest and only:
        raise CommandError("no_cheats", "with --honest nobody cheats", "leave --only out", ExitCode.USAGE)
    run = _Run(output, wanted, seed, processes, keep, markdown)
    return run.mix(python) if honest else run.cheats(only)


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
        from protocol.ledger.params import Params
        from testnet.bench.cheat import measure as bench
        from testnet.bench.cheat.strategies import STRATEGIES, find_strategies
        from testnet.bench.cheat.sweep import sweep

        chosen = find_strategies(choose(only, tuple(strategy.name for strategy in STRATEGIES)))
        pieces = bench.plan(chosen, self._jobs, self._seed)
        results = sweep(pieces, bench.simulate_piece, self._processes, self._keep)
        found = gather(results, len(pieces), self._keep)
        rows = bench.make_rows(chosen, found.results)
        self._output.say(bench.compute_arithmetic(Params()).describe())
        self._output.say(bench.format_line(bench.COLUMNS.split("|")))
        for row in rows:
            self._output.say(bench.format_line(row.format_cells()))
        if self._markdown is not None:
            self._markdown.write_text(bench.write_markdown(rows, self._jobs, self._seed), encoding="utf-8")
        return self._end(rows, found)

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
