"""A client's own restraint: what a worker would turn away for want of room is mostly not sent to it.

Adaptive throttling as in Google's "Site Reliability Engineering", chapter 21: of the requests of the last seconds,
those beyond so many times what the worker took are kept back, each with the probability that makes up for the rest.
Which ones is told by their ids: the same requests give the same choice.
"""

from dataclasses import dataclass

TAKEN_TIMES = 1.25  # what a worker took is asked of it again so many times: what comes back says when it has room
SPARE = 16  # requests that are always sent, so that a few refusals mean nothing
HALF_LIFE_MS = 2_000
WORKERS_MAX = 1_024


@dataclass
class _Count:
    """Requests of late, older ones counting for less."""

    at_ms: int
    asked: float = 0.0
    taken: float = 0.0

    def fade(self, now_ms: int) -> None:
        share = 0.5 ** (max(0, now_ms - self.at_ms) / HALF_LIFE_MS)
        self.at_ms, self.asked, self.taken = now_ms, self.asked * share, self.taken * share


class Throttle:
    """What workers have made of the requests sent to them."""

    def __init__(self) -> None:
        self._counts: dict[bytes, _Count] = {}

    def note_asked(self, worker: bytes, now_ms: int) -> None:
        """One more request goes to a worker. It counts as taken until `note_busy`."""
        if worker not in self._counts and len(self._counts) >= WORKERS_MAX:
            del self._counts[next(iter(self._counts))]
        count = self._counts.setdefault(worker, _Count(now_ms))
        count.fade(now_ms)
        count.asked, count.taken = count.asked + 1, count.taken + 1

    def note_busy(self, worker: bytes, now_ms: int) -> None:
        """It turned one away for want of room."""
        if count := self._counts.get(worker):
            count.fade(now_ms)
            count.taken = max(0.0, count.taken - 1)

    def holds_back(self, worker: bytes, request_id: bytes, now_ms: int, is_first: bool = True) -> bool:
        """Whether this request is better not sent to it now; then it counts as one that was turned away.

        Not if it was kept from another worker before, which it is not the `is_first` to be asked: what is meant for one
        worker alone says how much of what there is for it is kept back.
        """
        count = self._counts.get(worker)
        if count is None:
            return False
        count.fade(now_ms)
        excess = (count.asked - TAKEN_TIMES * count.taken - SPARE) / (count.asked + 1)
        if int.from_bytes(request_id[-4:], "big") >= excess * 2**32:
            return False
        count.asked += is_first
        return True
