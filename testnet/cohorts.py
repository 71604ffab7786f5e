"""Who is active when, and who comes back: accounts by the epoch in which they were first active.

An account costs one number, whatever it does: a bit for each span of epochs in which it was active. When there are too
many spans they become twice as long.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SPANS_MAX = 64
ACCOUNTS_MAX = 1_000_000


@dataclass
class Cohorts:
    """`left_out` counts what accounts did beyond the first ACCOUNTS_MAX."""

    width: int = 1  # of a span, in epochs
    masks: dict[bytes, int] = field(default_factory=dict)
    left_out: int = 0

    def note(self, account: bytes, epoch: int) -> None:
        """The account was active in this epoch."""
        if account not in self.masks and len(self.masks) >= ACCOUNTS_MAX:
            self.left_out += 1
            return
        while epoch // self.width >= SPANS_MAX:
            self.width *= 2
            self.masks = {known: fold(mask) for known, mask in self.masks.items()}
        self.masks[account] = self.masks.get(account, 0) | 1 << epoch // self.width

    @property
    def returned(self) -> int:
        """How many accounts were active in more than one span."""
        return sum(mask.bit_count() > 1 for mask in self.masks.values())

    def describe(self) -> dict[str, Any]:
        """By span: how many were active, for the first time or again. By cohort: how many of it, span by span."""
        kinds = Counter(self.masks.values())  # far fewer than accounts
        spans = max((mask.bit_length() for mask in kinds), default=0)
        grid = [[0] * spans for _ in range(spans)]
        for mask, count in kinds.items():
            first, *_ = found = list(list_bits(mask))
            for span in found:
                grid[first][span] += count
        return {
            "width_epochs": self.width,
            "accounts": len(self.masks),
            "returned": self.returned,
            "left_out": self.left_out,
            "spans": [
                {
                    "first_epoch": span * self.width,
                    "active": sum(row[span] for row in grid),
                    "new": grid[span][span],
                    "returning": sum(row[span] for row in grid[:span]),
                }
                for span in range(spans)
            ],
            "cohorts": [
                {"first_epoch": first * self.width, "accounts": row[first], "active": row[first:]}
                for first, row in enumerate(grid)
                if row[first]
            ],
        }


def fold(mask: int) -> int:
    """Spans two by two: active in either is active in both together.

    >>> bin(fold(0b10_00_01_11))
    '0b1011'
    """
    return sum(1 << span // 2 for span in list_bits((mask | mask >> 1) & EVEN))


def list_bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, from 0.

    >>> list(list_bits(0b1011))
    [0, 1, 3]
    """
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


EVEN = sum(1 << span for span in range(0, SPANS_MAX, 2))
