"""When a node sees to what has gathered: at once while little comes, a little later when it comes in a stream.

A packet costs its sender and its receiver far more than a message in it. After a turn that found several things more
will follow, and waiting a moment lets them share a packet; after one that found little a wait would win little, and
every hop would be late; and after one that found plenty as much gathers by itself. The moment is a few times as long as
what was done last took.
"""

import math
import time
from collections.abc import Callable

import trio

GATHER_S = 0.002  # at most; while a turn takes longer enough gathers by itself
QUIET_S = 0.020  # after a turn: what comes later is seen to at once
GATHER_TIMES = 4  # what was done last
SEVERAL = 8  # things seen to in one turn
PLENTY = 32


class _Process:
    """The nodes of one process gather together: else each would find, in its turn, what one other has sent."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self.spent_s = 0.0  # in turns, since they last gathered

    def gather(self, now_s: float) -> float:
        """Until when to wait for more."""
        if self._until_s <= now_s:
            self._until_s = now_s + min(GATHER_S, GATHER_TIMES * self.spent_s)
            self.spent_s = 0.0
        return self._until_s


_process: trio.lowlevel.RunVar[_Process | None] = trio.lowlevel.RunVar("process", None)


class Turns:
    """One node's turns of the loop. `ring` asks for one, `hurry` for one at once. `get_spent` is of this thread."""

    def __init__(self, get_spent: Callable[[], float] = time.thread_time) -> None:
        self._get_spent = get_spent
        self._began_s = get_spent()
        self._process = _process.get() or _Process()
        _process.set(self._process)
        self._now = trio.Event()
        self._scope: trio.CancelScope | None = None  # of the wait for the next turn; its deadline brings one about
        self._is_rung = False
        self._quiet_s = 0.0

    def ring(self) -> None:
        if not self._is_rung:
            self._is_rung = True
            self._aim()

    def hurry(self) -> None:
        self._is_rung = True
        self._now.set()

    async def next(self, done: int, is_more: bool) -> None:
        """Wait for the next turn; the last one saw to `done` things, and there may be more already."""
        spent_s = self._get_spent() - self._began_s
        self._process.spent_s += spent_s
        gathers = SEVERAL <= done < PLENTY and spent_s <= GATHER_S and not self._now.is_set()
        self._quiet_s = trio.current_time() + QUIET_S if gathers else -math.inf
        self._now = trio.Event()
        self._is_rung = is_more
        with trio.CancelScope() as self._scope:
            if is_more:
                self._aim()
            await self._now.wait()
        self._scope = None
        self._now = trio.Event()  # set again, it says that somebody hurried during the turn
        self._began_s = self._get_spent()

    def _aim(self) -> None:
        """Have the next turn when it is time for it. One wake-up, not one to begin gathering and another to end it."""
        if self._scope is None:
            return
        now_s = trio.current_time()
        if now_s >= self._quiet_s:
            self._now.set()
        else:
            self._scope.deadline = self._process.gather(now_s)
