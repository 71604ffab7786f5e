"""What the shell needs of time: a wall clock that never goes back, and named timers that do not care when it jumps."""

import heapq
import math
import time
from collections.abc import Callable

STALE_ENTRIES_MAX = 1_024  # moved or cancelled timers left in the heap before it is built anew


class WallClock:
    """Unix time in whole milliseconds. When the system's clock is set back, ours stands until it is passed again."""

    def __init__(self, read_s: Callable[[], float] = time.time) -> None:
        self._read_s = read_s
        self._last_ms = 0

    def now_ms(self) -> int:
        self._last_ms = max(self._last_ms, int(self._read_s() * 1_000))
        return self._last_ms


class Timers:
    """Named timers on a clock of seconds. The same name set again moves its timer."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._current: dict[str, tuple[float, int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._current)

    def set(self, name: str, at_s: float) -> None:
        self._count += 1
        self._current[name] = (at_s, self._count)
        heapq.heappush(self._heap, (at_s, self._count, name))
        if len(self._heap) > 2 * len(self._current) + STALE_ENTRIES_MAX:
            self._heap = [(at_s, count, name) for name, (at_s, count) in self._current.items()]
            heapq.heapify(self._heap)

    def take_due(self, now_s: float) -> list[str]:
        """Names whose time has come, earliest first; they are set no more."""
        due = []
        while self._heap and self._heap[0][0] <= now_s:
            at_s, count, name = heapq.heappop(self._heap)
            if self._current.get(name) == (at_s, count):
                del self._current[name]
                due.append(name)
        return due

    @property
    def next_s(self) -> float:
        """When to look again: no timer is due before. Infinity when there is none."""
        return self._heap[0][0] if self._heap else math.inf
