"""The discrete-event kernel of the simulator: one heap, virtual whole milliseconds, seeded randomness, a trace hash.

Nothing here or above it reads a clock, starts a thread or iterates over a set: two runs from one seed deliver the same
events at the same virtual times, in any process and on any supported Python.
"""

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from protocol.errors import LocalError

START_MS = 1_750_000_000_000  # virtual time of every run's beginning, in ms since 1970
EVENTS_WAITING_MAX = 1_000_000
EVENTS_PER_MS_MAX = 1_000_000  # more than this in one virtual millisecond is a loop that never lets time pass

Callback = Callable[..., None]


class Kernel:
    """Runs callbacks in order of (virtual time, order of scheduling).

    >>> kernel = Kernel(seed=1, start_ms=0)
    >>> kernel.after(5, print, "second")
    >>> kernel.after(2, print, "first")
    >>> kernel.run_until(10)
    first
    second
    True
    """

    def __init__(self, seed: int, start_ms: int = START_MS) -> None:
        self.seed = seed
        self.start_ms = start_ms
        self.now_ms = start_ms
        self.events_run = 0
        self._heap: list[tuple[int, int, Callback, tuple[Any, ...]]] = []
        self._scheduled = 0
        self._trace = hashlib.sha256()

    def random(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, so that one consumer more does not shift the others."""
        digest = hashlib.sha256(f"rolemesh/sim/{self.seed}/{purpose}".encode()).digest()
        return random.Random(int.from_bytes(digest, "big"))

    def at(self, at_ms: int, callback: Callback, *args: Any) -> None:
        """Run `callback(*args)` at a virtual time; a time already past means now, after what is due before it."""
        if len(self._heap) >= EVENTS_WAITING_MAX:
            raise LocalError(f"{EVENTS_WAITING_MAX} simulated events are waiting: something schedules without end")
        self._scheduled += 1
        heapq.heappush(self._heap, (max(at_ms, self.now_ms), self._scheduled, callback, args))

    def after(self, delay_ms: int, callback: Callback, *args: Any) -> None:
        self.at(self.now_ms + delay_ms, callback, *args)

    def run_until(self, until_ms: int, is_done: Callable[[], bool] | None = None) -> bool:
        """Run everything due up to `until_ms`, or until `is_done()` after some event; True when that was reached.

        Without `is_done` the end of the time is what was asked for. Time stands at `until_ms` afterwards, or at the
        event that satisfied `is_done`.
        """
        if is_done is not None and is_done():
            return True
        heap, pop = self._heap, heapq.heappop
        same_ms = 0
        while heap and heap[0][0] <= until_ms:
            at_ms, _, callback, args = pop(heap)
            same_ms = same_ms + 1 if at_ms == self.now_ms else 0
            if same_ms > EVENTS_PER_MS_MAX:
                raise LocalError(f"{EVENTS_PER_MS_MAX} simulated events at {at_ms} ms: time does not pass")
            self.now_ms = at_ms
            self.events_run += 1
            callback(*args)
            if is_done is not None and is_done():
                return True
        self.now_ms = max(self.now_ms, until_ms)
        return is_done is None

    def run_events(self, events_run: int, now_ms: int) -> None:
        """Go to where another run stood: run events until so many have run in all, then let time pass to `now_ms`."""
        while self._heap and self.events_run < events_run:
            self.now_ms, _, callback, args = heapq.heappop(self._heap)
            self.events_run += 1
            callback(*args)
        self.now_ms = max(self.now_ms, now_ms)

    def record(self, subject: bytes, event: object) -> None:
        """Add one delivered event to the trace."""
        self._trace.update(b"%d/" % self.now_ms + subject)
        _feed(self._trace.update, event)

    @property
    def trace(self) -> str:
        """Hex sha256 over every delivered event so far, with its time and to whom: equal for equal runs."""
        return self._trace.copy().hexdigest()


def _feed(update: Callable[[bytes], None], value: object) -> None:
    """Write a value unambiguously: type, length, content. Objects that are no data count by their type's name."""
    match value:
        case bytes():
            update(b"b%d:" % len(value))
            update(value)
        case str():
            _feed(update, value.encode())
            update(b"s")
        case int() | float() | None:
            update(repr(value).encode() + b";")
        case tuple() | list():
            update(b"l%d:" % len(value))
            for item in value:
                _feed(update, item)
        case dict():
            _feed(update, sorted(value.items()))
        case _:
            kind: type = type(value)
            names = _list_fields(kind)
            update(kind.__qualname__.encode() + (b";" if names is None else b"{"))
            for name in names or ():
                _feed(update, getattr(value, name))


@cache
def _list_fields(kind: type) -> tuple[str, ...] | None:
    """Of a dataclass; None for what is none."""
    return tuple(each.name for each in fields(kind)) if is_dataclass(kind) else None
