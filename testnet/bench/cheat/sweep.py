"""Many networks, each a piece of its own: run by several processes, kept in a file, gone on with from there.

Pieces are in order of their seeds, so that what is kept of a sweep that was stopped tells of every strategy alike.
"""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from testnet.bench.cheat.outcomes import Outcomes
from testnet.processes import bind_to_parent


@dataclass(frozen=True)
class Piece:
    """One network: so many jobs of one strategy in one mode."""

    strategy: str
    mode: str
    seed: int
    jobs: int


@dataclass(frozen=True)
class Result:
    """What came of a piece, and what each node has gained, by name, in grains."""

    piece: Piece
    outcomes: Outcomes
    gains: Mapping[str, int]

    def to_json(self) -> str:
        fields = {"piece": asdict(self.piece), "outcomes": self.outcomes.to_dict(), "gains": dict(self.gains)}
        return json.dumps(fields, separators=(",", ":"))


class NotKept(Exception):
    """The file of a sweep holds something else. The text names the line."""


Do = Callable[[Piece], tuple[Outcomes, dict[str, int]]]


def read_kept(path: Path) -> dict[Piece, Result]:
    """What a file holds of a sweep; nothing when there is none. A last line that was cut off does not count."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole, _, torn = text.rpartition("\n")
    if torn:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    results = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            result = _read_result(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise NotKept(f"line {number} of {path} is no network of a sweep: {error}") from error
        results[result.piece] = result
    return results


def sweep(pieces: Sequence[Piece], do: Do, processes: int, path: Path | None = None) -> Iterator[Result]:
    """The results of all pieces: first those the file holds, then the others as they come, kept before they are given.

    `do` is a function of a module. Raises NotKept.
    """
    kept = read_kept(path) if path is not None else {}
    yield from (kept[piece] for piece in pieces if piece in kept)
    left = [piece for piece in pieces if piece not in kept]
    for result in _run(left, do, min(processes, len(left))):
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(result.to_json() + "\n")
        yield result


def _run(pieces: Iterable[Piece], do: Do, processes: int) -> Iterator[Result]:
    if processes <= 1:
        for piece in pieces:
            yield Result(piece, *do(piece))
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin_process, (os.getpid(),))
    try:
        running = {pool.submit(do, piece): piece for piece in pieces}
        for future in as_completed(running):
            yield Result(running[future], *future.result())
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_process(parent: int) -> None:
    """Ctrl-C reaches the parent alone, which lets what runs come to its end; whoever kills it kills this one too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bind_to_parent(parent, signal.SIGKILL)


def _read_result(fields: Mapping[str, Any]) -> Result:
    return Result(Piece(**fields["piece"]), Outcomes.from_dict(fields["outcomes"]), fields["gains"])
