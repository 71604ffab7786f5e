"""How many requests a client has with one worker at once: as many as it has room for, told by what it turns away.

When a worker turns one away for want of room, it is given a tenth less than it had then, and more again as time passes,
hardly at first and then ever faster, as in CUBIC (RFC 9438): it is asked for too much once in several seconds, and for
all there is soon after it has room again.
"""

import math

CUT_SHARE = 0.9  # of what was too much
DOUBLING_MS = 20_000  # until a limit is twice as high
FORGOTTEN_FROM = 4_096  # requests: such a limit is none
WORKERS_MAX = 1_024


class Limits:
    """By worker. All times in milliseconds on one clock."""

    def __init__(self) -> None:
        self._cuts: dict[bytes, tuple[float, int]] = {}  # worker -> what it was cut to, and when

    def get(self, worker: bytes, now_ms: int) -> float:
        """How many it may have; infinity for one that has turned none away for long."""
        cut = self._cuts.get(worker)
        if cut is None:
            return math.inf
        limit = cut[0] * (1 + (max(0, now_ms - cut[1]) / DOUBLING_MS) ** 3)
        if limit < FORGOTTEN_FROM:
            return limit
        del self._cuts[worker]
        return math.inf

    def note_busy(self, worker: bytes, count: int, began_ms: int, now_ms: int) -> None:
        """Of `count` that it had it has turned one away, which was sent at `began_ms`."""
        limit = self.get(worker, now_ms)
        cut = self._cuts.pop(worker, None)
        if cut is not None and began_ms < cut[1]:  # it left before we knew: one cut for all of these
            self._cuts[worker] = cut
            return
        if len(self._cuts) >= WORKERS_MAX:
            del self._cuts[next(iter(self._cuts))]
        self._cuts[worker] = max(1.0, CUT_SHARE * min(count, limit)), now_ms
