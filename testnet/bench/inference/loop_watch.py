"""How long an event loop was blocked: the longest it went without looking after its sockets and timers."""

import os
import time

import trio
from trio.lowlevel import add_instrument


class LoopWatch(trio.abc.Instrument):
    """From the end of one wait for sockets to the beginning of the next: whatever ran then held up all else.

    `max_s` leaves out what the thread spent waiting for a core, as the kernel counts it: where processes outnumber
    cores, that is their neighbours' doing. `clock_max_s` has it in.
    """

    def __init__(self) -> None:
        self.max_s = 0.0
        self.clock_max_s = 0.0

    def start(self) -> None:
        """From within the loop that is to be watched."""
        self._statistics = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._begin()
        add_instrument(self)

    def reset(self) -> None:
        self.max_s = self.clock_max_s = 0.0

    def before_io_wait(self, timeout: float) -> None:
        taken_s = time.perf_counter() - self._since_s
        if taken_s > self.max_s:
            self.clock_max_s = max(self.clock_max_s, taken_s)
            self.max_s = max(self.max_s, taken_s - (self._get_waited_s() - self._waited_s))

    def after_io_wait(self, timeout: float) -> None:
        self._begin()

    def _begin(self) -> None:
        self._since_s, self._waited_s = time.perf_counter(), self._get_waited_s()

    def _get_waited_s(self) -> float:
        """How long this thread has been ready to run without a core to run on. Source: Linux, scheduler statistics."""
        return int(os.pread(self._statistics, 100, 0).split()[1]) / 1e9
