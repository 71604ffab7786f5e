"""What an attack costs the node it is aimed at: the longest turn of its loop, and the most memory it held."""

import time
from pathlib import Path

import trio

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # Source: proc_pid_clear_refs(5)


class Meter(trio.abc.Instrument):
    """CPU time of the loop's thread between two returns from waiting for I/O: one whole batch of runnable tasks.

    That is how long a socket that becomes ready at the worst moment is not looked at. The time of one task's step would
    hide a batch of many short ones; wall time would count what other processes do on a shared machine. Memory is the
    kernel's own high-water mark, which no sampling can miss.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._since_s = time.thread_time()
        self._base_kb = 0

    def after_io_wait(self, timeout: float) -> None:
        now_s = time.thread_time()
        self.longest_s = max(self.longest_s, now_s - self._since_s)
        self._since_s = now_s

    def mark(self) -> None:
        """Measure from here: the node is warm."""
        _CLEAR.write_text(_RESET_PEAK)
        self._base_kb = _read_peak_kb()
        self.longest_s = 0.0

    def get_growth_mb(self) -> float:
        return (_read_peak_kb() - self._base_kb) / 1_024


def _read_peak_kb() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])
