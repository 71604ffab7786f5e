"""What series of a load say: where the knee is, how soon a network was itself again, how fast a process grows."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from testnet.bench.trend import fit

FOLLOWED = 0.95  # of what is offered comes back: the network keeps up
WINDOW_MS = 5_000
STEP_MS = 250
SHARE = 0.9  # of what came back before: the network is itself again
SAMPLES_MIN = 8  # of a process, before a slope says anything
WARM_SHARE = 0.4  # of them, in which caches fill


@dataclass(frozen=True)
class Step:
    """One pace of a ramp, and the answers that came back meanwhile, both a second; 99 % took at most `p99_ms`."""

    offered_per_s: float
    goodput_per_s: float
    p99_ms: float = math.nan  # where nobody has looked

    @property
    def is_followed(self) -> bool:
        return self.goodput_per_s >= FOLLOWED * self.offered_per_s


@dataclass(frozen=True)
class Knee:
    """`per_s` is the most that a network keeps up with, `peak_per_s` the most that ever came back."""

    per_s: float
    peak_per_s: float


def is_past_knee(steps: Sequence[Step]) -> bool:
    """Whether a ramp has gone far enough: two steps in a row were not followed, one may be an accident.

    >>> is_past_knee([Step(10, 10), Step(20, 15), Step(40, 16)])
    True
    """
    return len(steps) > 1 and not any(step.is_followed for step in steps[-2:])


def find_knee(steps: Sequence[Step]) -> Knee:
    """The knee of a ramp, whose paces rise: the last that was followed, or what came back at the next one if more.

    >>> find_knee([Step(10, 10), Step(20, 20), Step(40, 31), Step(80, 33)])
    Knee(per_s=31, peak_per_s=33)
    """
    followed = max((place for place, step in enumerate(steps) if step.is_followed), default=-1)
    kept_up = steps[followed].offered_per_s if followed >= 0 else 0.0
    beyond = steps[followed + 1].goodput_per_s if followed + 1 < len(steps) else 0.0
    return Knee(max(kept_up, beyond), max((step.goodput_per_s for step in steps), default=0.0))


def find_usable(steps: Sequence[Step], p99_ms_max: float) -> float:
    """The highest pace that was followed with 99 % of answers within a time; 0 if none was.

    Usable capacity, as Jain has it (The Art of Computer Systems Performance Analysis, 1991, section 3.3): a knee says
    what a system can be asked for, however long it takes.

    >>> find_usable([Step(10, 10, 80), Step(20, 20, 120), Step(40, 40, 900)], 300)
    20
    """
    return max((step.offered_per_s for step in steps if step.is_followed and step.p99_ms <= p99_ms_max), default=0.0)


def compute_rate(times_ms: Sequence[int], start_ms: int, end_ms: int) -> float:
    """How many of these moments, sorted, lie in a time, per second of it."""
    return 1_000 * (bisect_left(times_ms, end_ms) - bisect_left(times_ms, start_ms)) / (end_ms - start_ms)


def compute_recovery_s(answered_ms: Sequence[int], from_ms: int, until_ms: int, before_per_s: float) -> float | None:
    """Seconds from a moment until answers came again as before, and went on to: in every window of WINDOW_MS from
    then on at least SHARE of `before_per_s`. None if they did not before `until_ms`.

    >>> compute_recovery_s(list(range(0, 10_000, 100)) + list(range(14_000, 30_000, 100)), 10_000, 30_000, 10)
    3.5
    """
    recovered_ms: int | None = None
    for at_ms in range(until_ms - WINDOW_MS, from_ms - STEP_MS, -STEP_MS):
        if compute_rate(answered_ms, at_ms, at_ms + WINDOW_MS) < SHARE * before_per_s:
            break
        recovered_ms = max(at_ms, from_ms)
    return None if recovered_ms is None else (recovered_ms - from_ms) / 1_000


@dataclass(frozen=True)
class Growth:
    """Memory of a process: its slope, with its upper 95 % bound, in MB an hour; what it held in the end, in MB."""

    slope: float
    upper: float
    held: float


def compute_growth(times_s: Sequence[float], sizes: Sequence[int]) -> Growth | None:
    """Of one process, from samples of its bytes in RAM without the first WARM_SHARE of them; None of too few."""
    if len(sizes) < SAMPLES_MIN:
        return None
    first = int(WARM_SHARE * len(sizes))
    hours, held = [at_s / 3_600 for at_s in times_s[first:]], [size / 1e6 for size in sizes[first:]]
    trend = fit(hours, held, swings_slowly=True)
    return Growth(trend.slope, trend.upper, sizes[-1] / 1e6)
