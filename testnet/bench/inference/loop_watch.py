"""How long an event loop was blocked: the longest it went without looking after its sockets and timers."""

import time
from pathlib import Path

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
        self._begin()

    def start(self) -> None:
        """From within the loop that is to be watched."""
        self._begin()
        add_instrument(self)

    def reset(self) -> None:
        self.max_s = self.clock_max_s = 0.0

    def before_io_wait(self, timeout: float) -> None:
        taken_s = time.perf_counter() - self._since_s
        if taken_s > self.max_s:
            self.clock_max_s = max(self.clock_max_s, taken_s)
            self.max_s = max(self.max_s, taken_s - (_get_waited_s() - self._waited_s))

    def after_io_wait(self, timeout: float) -> None:
        self._begin()

    def _begin(self) -> None:
        self._since_s, self._waited_s = time.perf_counter(), _get_waited_s()


def _get_waited_s() -> float:
    """How long this thread has been ready to run without a core to run on. Source: Linux, scheduler statistics."""
    return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / 1e9
