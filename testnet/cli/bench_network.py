"""`rolemesh bench network`: does a network hold up when it is used?"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from testnet.cli.output import CommandError, ExitCode, Output

if TYPE_CHECKING:
    from testnet.bench.network.measure import Measured

EPILOGUE = (
    "Examples:\n\n  rolemesh bench network\n\n  rolemesh bench network --seed 7 --dir ./load --json\n\n"
    "  rolemesh bench network --full --keep load.jsonl\n\n"
    "Ctrl-C ends it with the figures of what has run; with --keep the same command goes on from there."
)


def network(
    *,
    full: Annotated[
        bool, Parameter(negative="", help="1,000,000 requests in ten networks at most, mode batch: an hour and a half.")
    ] = False,
    seed: Annotated[int, Parameter(help="Keys, addresses and faults of the first network.")] = 1,
    keep: Annotated[Path | None, Parameter(help="Keep what has run here, and go on from what is there.")] = None,
    directory: Annotated[
        Path | None,
        Parameter(name="--dir", help="Keep the network here, with report.html of its run; not with --full."),
    ] = None,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print one JSON object per line and figure.")
    ] = False,
) -> int:
    """Does a network hold up when it is used? All roles as processes on loopback; about a quarter of an hour.

    Load past its knee, at 80 % and at three times of it; a worker that lies; then under half of it a partition, half
    of the workers killed, and nodes of all roles that die and come back. In the end every receipt is held against the
    ledger, recomputed from genesis.

    Exit code 6 names the bars that do not hold.
    """
    from testnet.bench.network import measure as bench
    from testnet.bench.network.check import NotChecked
    from testnet.bench.network.course import Course
    from testnet.bench.network.keep import NotKept, run_pieces
    from testnet.bench.network.network import NotRun
    from testnet.launch import LaunchError, Terminated, termination_raises

    output = Output(json)
    pieces = bench.plan(seed, full)
    _check_directory(directory, full)
    do = partial(bench.measure, course=Course(), note=output.note, directory=directory)
    results: list[Measured] = []
    stopped = ""
    try:
        with termination_raises():
            for measured in run_pieces(pieces, do, keep):
                results.append(measured)
                output.note(describe(measured, len(results), len(pieces)))
    except (KeyboardInterrupt, Terminated):
        kept = f"kept in {keep}: the same command goes on from there" if keep is not None else "not kept: see --keep"
        stopped = f"stopped: {len(results)} of {len(pieces)} networks, {kept}"
    except NotKept as error:
        hint = "name another file with --keep, or remove this one"
        raise CommandError("not_kept", str(error), hint, ExitCode.CONFIG) from error
    except (NotRun, NotChecked, LaunchError) as error:
        hint = "let the machine do less else, and try again; with --keep what has run is kept"
        raise CommandError("not_run", str(error), hint, ExitCode.UNREACHABLE) from error
    return _show(results, stopped, output)


def _check_directory(directory: Path | None, full: bool) -> None:
    if directory is not None and full:
        hint = "leave --full or --dir out"
        raise CommandError("many_networks", "ten networks are not kept", hint, ExitCode.USAGE)
    if directory is not None and (directory.exists() or not directory.parent.is_dir()):
        hint = "name a directory that is not there yet, in one that is"
        raise CommandError("directory_in_use", f"{directory} cannot be made", hint, ExitCode.CONFIG)


def describe(measured: "Measured", number: int, total: int) -> str:
    """A line of what came of one network."""
    missed, most = ", ".join(measured.list_missed()), f" of {total} at most" if total > 1 else ""
    return (
        f"network {number}{most}: {measured.asked} requests in {measured.took_s:.0f} s, {measured.answered} "
        f"answered, {measured.checked.paid} paid, {measured.checked.refunded} given back, "
        f"{measured.checked.unaccounted} unaccounted; " + (f"does not hold: {missed}" if missed else "every bar holds")
    )


def _show(results: "list[Measured]", stopped: str, output: Output) -> int:
    from testnet.bench.network import measure as bench

    missed = bench.list_missed(results)
    for figure in bench.make_figures(results) if results else ():
        output.say(figure.format())
        output.give(figure.to_dict())
    if missed:
        told = ", ".join(f"{name} ({count} of {len(results)} networks)" for name, count in missed.items())
        output.note(f"does not hold: {told}")
    if stopped:
        output.note(stopped)
        return int(ExitCode.INTERRUPTED)
    return int(ExitCode.INVARIANT_VIOLATED if missed else ExitCode.OK)
