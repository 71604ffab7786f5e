"""When a node sees to what has gathered: at once after a quiet moment, a little later when much is going on.

A packet costs its sender and its receiver far more than a message in it. While messages come in a trickle, waiting a
moment for more lets several of them share a packet; after a turn that found plenty there is no need to. The moment is
as long as what was done last took: a node that has little to do would win little, and every hop would be late.
"""

import time
from collections.abc import Callable

import trio

GATHER_S = 0.002  # at most
QUIET_S = 0.020  # after a turn: what comes later is seen to at once
PLENTY = 32  # things seen to in one turn

# The nodes of one process gather together: else each would find, in its turn, what one other has sent.
_gathered_s: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("gathered", 0.0)
_spent_s: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("spent", 0.0)  # in turns, since they last did


class Turns:
    """One node's turns of the loop. `ring` asks for one, `hurry` for one at once. `get_spent` is of this thread."""

    def __init__(self, get_spent: Callable[[], float] = time.thread_time) -> None:
        self._rung = trio.Event()
        self._hurried = trio.Event()
        self._get_spent = get_spent
        self._began_s = get_spent()

    def ring(self) -> None:
        self._rung.set()

    def hurry(self) -> None:
        self._rung.set()
        self._hurried.set()

    async def next(self, done: int, is_more: bool) -> None:
        """Wait for the next turn; the last one saw to `done` things, and there may be more already."""
        ended_s = trio.current_time()
        _spent_s.set(_spent_s.get() + self._get_spent() - self._began_s)
        if is_more:
            await trio.lowlevel.checkpoint()
        else:
            self._rung = trio.Event()
            await self._rung.wait()
        if done < PLENTY and trio.current_time() < ended_s + QUIET_S:
            await self._gather()
        if self._hurried.is_set():
            self._hurried = trio.Event()
        self._began_s = self._get_spent()

    async def _gather(self) -> None:
        now_s, until_s = trio.current_time(), _gathered_s.get()
        if until_s <= now_s:
            until_s = now_s + min(GATHER_S, _spent_s.get())
            _gathered_s.set(until_s)
            _spent_s.set(0.0)
        with trio.move_on_at(until_s):
            await self._hurried.wait()
