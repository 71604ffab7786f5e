"""When a node sees to what has gathered: at once after a quiet moment, a little later when much is going on.

A packet costs its sender and its receiver far more than a message in it. While messages come in a trickle, waiting a
moment for more lets several of them share a packet; after a turn that found plenty there is no need to.
"""

import trio

GATHER_S = 0.002
QUIET_S = 0.020  # after a turn: what comes later is seen to at once
PLENTY = 32  # things seen to in one turn

# The nodes of one process gather together: else each would find, in its turn, what one other has sent.
_gathered_s: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("gathered", 0.0)


class Turns:
    """One node's turns of the loop. `ring` asks for one, `hurry` for one at once."""

    def __init__(self) -> None:
        self._rung = trio.Event()
        self._hurried = trio.Event()

    def ring(self) -> None:
        self._rung.set()

    def hurry(self) -> None:
        self._rung.set()
        self._hurried.set()

    async def next(self, done: int, is_more: bool) -> None:
        """Wait for the next turn; the last one saw to `done` things, and there may be more already."""
        ended_s = trio.current_time()
        if is_more:
            await trio.lowlevel.checkpoint()
        else:
            self._rung = trio.Event()
            await self._rung.wait()
        if done < PLENTY and trio.current_time() < ended_s + QUIET_S:
            await self._gather()
        if self._hurried.is_set():
            self._hurried = trio.Event()

    async def _gather(self) -> None:
        now_s, until_s = trio.current_time(), _gathered_s.get()
        if until_s <= now_s:
            until_s = now_s + GATHER_S
            _gathered_s.set(until_s)
        with trio.move_on_at(until_s):
            await self._hurried.wait()
