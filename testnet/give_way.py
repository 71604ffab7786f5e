"""Processes that nobody waits for leave the machine's cores to those that somebody waits for (decisions 0165, 0171)."""

import ctypes
import os
import platform
import struct
import sys
import time
from pathlib import Path

GIVE_WAY_S = 3.0  # at most, until the kernel has taken it: time for thirty processes that are started together
GIVE_WAY_POLL_S = 0.03
TURN_MS = 100  # the longest that the kernel gives
SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
# struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period. Of a policy
# that shares time fairly, `runtime` is a turn's length in nanoseconds; Linux heeds it since 6.12.
SCHED_ATTR = struct.Struct("=IIQiIQQQ")


def give_way(niceness: int) -> None:
    """Have this process, which leads its session, and all of that session yield to processes that are less nice.

    Where Linux groups processes by session (sched(7), autogroup), a process's own value says nothing between groups.
    Where the group cannot be told, or not in time, all processes share the machine evenly.

    Such a process also takes few long turns instead of many short ones: whoever wakes up meanwhile goes first.
    """
    if not niceness:
        return
    niceness = os.nice(niceness)
    _take_long_turns(niceness)
    deadline = time.monotonic() + GIVE_WAY_S
    while time.monotonic() < deadline:
        try:
            Path("/proc/self/autogroup").write_text(f"{niceness}\n", encoding="ascii")
        except BlockingIOError:  # the kernel takes one in a tenth of a second, of all who are not privileged
            time.sleep(GIVE_WAY_POLL_S)
        except OSError:
            return  # no such groups here, or not ours to set
        else:
            return


def _take_long_turns(niceness: int) -> None:
    """Of this process and what it starts. Where the kernel knows no such wish, turns are as long as everybody's."""
    number = SYS_SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    wish = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, 0, niceness, 0, TURN_MS * 1_000_000, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, wish, 0)
