"""How long an event loop was blocked: the longest it went without looking after its sockets and timers."""

import time

import trio
from trio.lowlevel import add_instrument


class LoopWatch(trio.abc.Instrument):
    """From the end of one wait for sockets to the beginning of the next: whatever ran then held up all else.

    `max_s` goes by the clock, so that a neighbour on the same core counts too.
    """

    def __init__(self) -> None:
        self.max_s = 0.0
        self._since_s = time.perf_counter()

    def start(self) -> None:
        """From within the loop that is to be watched."""
        self._since_s = time.perf_counter()
        add_instrument(self)

    def reset(self) -> None:
        self.max_s = 0.0

    def before_io_wait(self, timeout: float) -> None:
        self.max_s = max(self.max_s, time.perf_counter() - self._since_s)

    def after_io_wait(self, timeout: float) -> None:
        self._since_s = time.perf_counter()
