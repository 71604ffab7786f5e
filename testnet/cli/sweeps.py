"""Choose what a benchmark is to do, and gather what a long sweep gives; Ctrl-C ends it with what there is."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testnet.cli.output import CommandError, ExitCode
from testnet.cli.progress import Progress

if TYPE_CHECKING:
    from testnet.bench.cheat.sweep import Result


@dataclass(frozen=True)
class Gathered:
    """What came of a sweep. `stopped` says, for people, how far it was when somebody ended it; empty when all ran."""

    results: "list[Result]"
    stopped: str = ""


def choose(only: tuple[str, ...], names: tuple[str, ...]) -> frozenset[str]:
    """The figures that were asked for, empty for all. CommandError for a name there is not."""
    if unknown := [name for name in only if name not in names]:
        hint = "names are " + ", ".join(names)
        raise CommandError("unknown_figure", f"no figure is named {unknown[0]}", hint, ExitCode.USAGE)
    return frozenset(only)


def gather(results: "Iterator[Result]", total: int, keep: Path | None) -> Gathered:
    """All there is to have, of so many networks. CommandError when the file of the sweep holds something else."""
    from testnet.bench.cheat.sweep import NotKept

    progress, begun_s = Progress(), time.monotonic()
    found: list[Result] = []
    stopped = ""
    try:
        for result in results:
            found.append(result)
            progress.show(_describe(found, total, time.monotonic() - begun_s))
    except KeyboardInterrupt:
        where = f"kept in {keep}: the same command goes on from there" if keep is not None else "not kept: see --keep"
        stopped = f"stopped: {len(found)} of {total} networks, {where}"
    except NotKept as error:
        hint = "name another file with --keep, or remove this one"
        raise CommandError("not_kept", str(error), hint, ExitCode.CONFIG) from error
    finally:
        progress.end()
    return Gathered(found, stopped)


def _describe(found: "list[Result]", total: int, seconds: float) -> str:
    last = found[-1].piece
    left_min = seconds / len(found) * (total - len(found)) / 60
    done = f"{len(found)} of {total} networks"
    return f"{done}, the last {last.mode} {last.strategy} with seed {last.seed}; about {left_min:.0f} min to go"
