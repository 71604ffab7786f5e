"""Pieces of a load, each kept in a file as it ends, so that the same command goes on after them."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from testnet.bench.network.measure import Measured, Piece, from_fields, to_fields


class NotKept(Exception):
    """The file holds something else, or cannot be written. The text says which and why."""


def run_pieces(pieces: Sequence[Piece], do: Callable[[Piece], Measured], path: Path | None) -> Iterator[Measured]:
    """The results of pieces, in order: those the file holds, and the others as they come. Raises NotKept.

    A network may be asked for more than its piece says: the last ones are left out when the others have been asked for
    as much as all were to be.
    """
    kept = read_kept(path) if path is not None else {}
    left = sum(piece.requests for piece in pieces)
    for piece in pieces:
        measured = kept.get(piece) or do(piece)
        if path is not None and piece not in kept:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(to_fields(measured), separators=(",", ":")) + "\n")
        yield measured
        left -= measured.asked
        if left <= 0:
            return


def read_kept(path: Path) -> dict[Piece, Measured]:
    """What a file holds, which is made if there is none. A last line that was cut off is taken out. Raises NotKept."""
    try:
        path.touch()
        whole, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise NotKept(f"{path} cannot be used: {error}") from error
    results = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            measured = from_fields(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotKept(f"line {number} of {path} is no network of a load: {error}") from error
        results[measured.piece] = measured
    return results
