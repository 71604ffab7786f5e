"""A distribution in bounded room: counts in buckets whose width is a fixed share of their value."""

import math
from collections import Counter
from dataclasses import dataclass, field

BUCKETS_PER_OCTAVE = 32  # so that a percentile is at most 2.2 % above the value it stands for


@dataclass(frozen=True)
class Histogram:
    """How many values fell into each bucket. Values are whole and at least 0."""

    counts: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.counts + other.counts)

    def add(self, value: int) -> None:
        """Count one value in place."""
        self.counts[_find_bucket(value)] += 1

    @property
    def total(self) -> int:
        return self.counts.total()

    def compute_percentile(self, percent: float) -> int:
        """The nearest-rank percentile; 0 of none.

        >>> Histogram(Counter(map(_find_bucket, range(1, 101)))).compute_percentile(50)
        50
        """
        rank, seen = max(1, math.ceil(percent * self.total / 100)), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return _get_upper_end(bucket)
        return 0


def _find_bucket(value: int) -> int:
    return math.ceil(BUCKETS_PER_OCTAVE * math.log2(value)) if value > 1 else max(0, value) - 1


def _get_upper_end(bucket: int) -> int:
    return int(2 ** (bucket / BUCKETS_PER_OCTAVE)) if bucket >= 0 else 0
