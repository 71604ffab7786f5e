"""How far outputs of one model lie apart, row by row: honest runs among each other, and a cheat's from all of them.

A row's distance is its largest difference beyond the floor, as a share of the row's largest number: the measure by
which the ledger compares (`protocol.proofs.classes`), taken so that no pair of honest runs is farther apart than said,
and no honest run nearer to the cheat.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocol.proofs.classes import DIFFERENCE_FLOOR

Array = np.ndarray[Any, np.dtype[Any]]
APART = 1.0  # the distance of rows whose whole numbers differ
FARTHEST = 2.0  # what two rows can be apart: their largest numbers are the same but for the sign


class Envelope:
    """The smallest and largest of every output number over all honest runs of some rows.

    ValueError when an output does not have as many rows as the first one.
    """

    def __init__(self, outputs: Sequence[Array]) -> None:
        rows = len(outputs[0])
        other = next((output.shape for output in outputs if output.shape[:1] != (rows,)), None)
        if other is not None:
            raise ValueError(f"an output of shape {other} does not have {rows} rows as the first one has")
        self._same = np.ones(rows, bool)  # rows whose whole numbers never differed
        self._first = [output.reshape(rows, -1) for output in outputs]
        self._bands = {place: _Band(array) for place, array in enumerate(self._first) if array.dtype.kind == "f"}

    def add(self, outputs: Sequence[Array]) -> None:
        """Another honest run of the same rows."""
        for place, output in enumerate(outputs):
            if place in self._bands:
                self._bands[place].widen(output)
            else:
                self._same &= self._find_equal(place, output)

    def measure_honest(self) -> Array:
        """The distance of each row: no two of the runs were farther apart in it."""
        rows = [np.where(self._same, 0.0, APART), *(band.measure_width() for band in self._bands.values())]
        distances: Array = np.max(rows, axis=0)
        return distances

    def measure_cheat(self, outputs: Sequence[Array]) -> Array:
        """The distance of each row of another model's outputs: it was nearer to none of the runs."""
        rows = [
            self._bands[place].measure_outside(output)
            if place in self._bands
            else np.where(self._find_equal(place, output), 0.0, APART)
            for place, output in enumerate(outputs)
        ]
        distances: Array = np.max(rows, axis=0)
        return distances

    def _find_equal(self, place: int, output: Array) -> Array:
        equal: Array = (output.reshape(len(output), -1) == self._first[place]).all(axis=1)
        return equal


class _Band:
    """One output of floats, as doubles: its numbers' range, and the range of each row's largest number."""

    def __init__(self, rows: Array) -> None:
        self._low = rows.astype(np.float64)
        self._high = self._low.copy()
        self._least = np.abs(self._low).max(axis=1)
        self._most = self._least.copy()

    def widen(self, output: Array) -> None:
        rows = output.reshape(len(output), -1).astype(np.float64)
        largest = np.abs(rows).max(axis=1)
        np.minimum(self._low, rows, out=self._low)
        np.maximum(self._high, rows, out=self._high)
        np.minimum(self._least, largest, out=self._least)
        np.maximum(self._most, largest, out=self._most)

    def measure_width(self) -> Array:
        return _share((self._high - self._low).max(axis=1), self._least)

    def measure_outside(self, output: Array) -> Array:
        rows = output.reshape(len(output), -1).astype(np.float64)
        outside = np.maximum(np.maximum(self._low - rows, rows - self._high), 0.0).max(axis=1)
        return _share(outside, np.maximum(self._most, np.abs(rows).max(axis=1)))


def _share(difference: Array, largest: Array) -> Array:
    beyond = np.maximum(difference - DIFFERENCE_FLOOR, 0.0)
    shares: Array = np.divide(beyond, largest, out=np.where(beyond > 0, FARTHEST, 0.0), where=largest > 0)
    return shares
