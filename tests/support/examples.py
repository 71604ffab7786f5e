"""How many examples a costly property gets: few by day, and by night as many times more as every other property."""

from hypothesis import settings

BY_DAY = 100  # examples of an ordinary property in `make test`


def scale(by_day: int) -> int:
    """`max_examples` for a property that gets `by_day` of them in `make test`."""
    return max(1, by_day * settings().max_examples // BY_DAY)
