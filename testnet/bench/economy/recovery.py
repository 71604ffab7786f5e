"""How far something fell short after a shock, and when it was again as before."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

BIN_MS = 5_000  # of time in which what is served is looked at
BEFORE_BINS = 8  # before a shock, and at the end
SERVED_AGAIN = 0.95  # of what was served before


@dataclass(frozen=True)
class Sample:
    """How much of what was wanted there was at a time: answers, or copies of blobs."""

    time_ms: int
    got: int
    wanted: int


@dataclass(frozen=True)
class Recovery:
    """Shares of what is wanted; `recovery_ms` is None where it is never again as it was before."""

    before: float
    least: float
    after: float
    recovery_ms: int | None


def compute_recovery(samples: Sequence[Sample], shock_ms: int) -> Recovery:
    """What a shock did to something, by shares of BIN_MS."""
    got: Counter[int] = Counter()
    wanted: Counter[int] = Counter()
    for sample in samples:
        at = (sample.time_ms - shock_ms) // BIN_MS
        wanted[at] += sample.wanted
        got[at] += sample.got
    times = sorted(at for at in wanted if wanted[at])
    calm = [at for at in times if -BEFORE_BINS <= at < 0]
    before = sum(got[at] for at in calm) / max(1, sum(wanted[at] for at in calm))
    shares = {at: got[at] / wanted[at] for at in times if at >= 0}
    short = [at for at, share in shares.items() if share < SERVED_AGAIN * before]
    last = list(shares.values())[-BEFORE_BINS:]
    recovery_ms = None if short and short[-1] == times[-1] else (short[-1] + 1 if short else 0) * BIN_MS
    return Recovery(before, min(shares.values(), default=1.0), sum(last) / max(1, len(last)), recovery_ms)
