"""A time axis of bounded length: when a run outgrows it, bins merge in pairs and each is twice as wide."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from testnet.page.histogram import Histogram

BINS_MAX = 240
WIDTH_MS_MIN = 500

Value = TypeVar("Value")


@dataclass
class Axis:
    """Bins of `width_ms` from `start_ms` on. Every series on it folds when it does."""

    start_ms: int
    width_ms: int = WIDTH_MS_MIN
    last: int = 0  # bin that anything has been in
    _series: list["Series[int] | Series[Histogram]"] = field(default_factory=list)

    def find_bin(self, time_ms: int) -> int:
        """The bin of a time, 0 for what is before the start; widens all bins until it is one of BINS_MAX.

        >>> axis = Axis(1_000)
        >>> axis.find_bin(1_700), axis.find_bin(1_000 + 240 * 500), axis.width_ms
        (1, 120, 1000)
        """
        while (index := max(0, time_ms - self.start_ms) // self.width_ms) >= BINS_MAX:
            self.width_ms *= 2
            self.last //= 2
            for series in self._series:
                series.fold()
        self.last = max(self.last, index)
        return index

    def sums(self) -> "Series[int]":
        """A series whose values add up."""
        return self._add(Series(self, int.__add__))

    def lasts(self) -> "Series[int]":
        """A series of which the latest value of each bin counts."""
        return self._add(Series(self, lambda _, later: later))

    def histograms(self) -> "Series[Histogram]":
        """A series of distributions."""
        series = Series[Histogram](self, Histogram.__add__)
        self._series.append(series)
        return series

    def _add(self, series: "Series[int]") -> "Series[int]":
        self._series.append(series)
        return series

    @property
    def bins(self) -> int:
        """How many there are, up to the last that anything has been in."""
        return self.last + 1

    @property
    def length_ms(self) -> int:
        return self.bins * self.width_ms

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.length_ms

    def find_share(self, time_ms: int) -> float:
        """Where a time is, from 0 at the start to 1 at the end."""
        return min(1.0, max(0.0, (time_ms - self.start_ms) / self.length_ms))


@dataclass
class Series(Generic[Value]):
    """One value a bin, where there is any. `merge` makes one of an earlier and a later one."""

    axis: Axis
    merge: Callable[[Value, Value], Value]
    values: dict[int, Value] = field(default_factory=dict)

    def put(self, time_ms: int, value: Value) -> None:
        index = self.axis.find_bin(time_ms)
        known = self.values.get(index)
        self.values[index] = value if known is None else self.merge(known, value)

    def open(self, time_ms: int, make: Callable[[], Value]) -> Value:
        """The value of a time's bin, to be changed in place; `make` makes the first."""
        index = self.axis.find_bin(time_ms)  # may fold this very series
        return self.values.setdefault(index, make())

    def fold(self) -> None:
        """Merge bins in pairs."""
        folded: dict[int, Value] = {}
        for index in sorted(self.values):
            half, value = index // 2, self.values[index]
            folded[half] = value if half not in folded else self.merge(folded[half], value)
        self.values = folded

    def __iter__(self) -> Iterator[tuple[int, Value]]:
        return iter(sorted(self.values.items()))
