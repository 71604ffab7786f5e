"""What was written and is not on the disk yet: brought there together, beside the loop, before anything is published.

A stream may carry what builds on it at once: a killed process loses nothing that was written. A power cut may, so what
everybody hears (claims, transactions) waits until the disk has it; while nothing waits, there is less hurry. Still less
there is for bringing what was jotted down into the database, which nobody waits for.
"""

import math
from collections.abc import Callable

import trio

from roles.core_effects import NetPublish

UNSYNCED_S_MAX = 0.1  # so long writes gather at most while nothing waits for them
FOLD_S = 1.0  # and so long before they are brought into the database: of what changes often it sees the last


class GroupSync:
    """`secure` brings what was written to the disk, `fold` into the database as well; both are called in threads.

    `publish` sends what was held.
    """

    def __init__(
        self, secure: Callable[[], None], fold: Callable[[], None], publish: Callable[[NetPublish], None]
    ) -> None:
        self._secure = secure
        self._fold = fold
        self._publish = publish
        self._is_dirty = False
        self._is_syncing = False
        self._closed = trio.Event()
        self._held: list[NetPublish] = []
        self._wake = trio.Event()
        self._hurry = trio.Event()  # something waits to be published
        self._unfolded = trio.Event()
        self._turn = trio.Lock()
        self._folding = trio.Lock()

    @property
    def is_clean(self) -> bool:
        """Whether all that was written is on the disk."""
        return not (self._is_dirty or self._is_syncing)

    def note(self) -> None:
        """Something was written."""
        self._is_dirty = True
        self._wake.set()
        self._unfolded.set()

    def send(self, effect: NetPublish) -> None:
        """Now, or as soon as the disk has what was written before."""
        if self.is_clean:
            self._publish(effect)
        else:
            self._held.append(effect)
            self._hurry.set()

    async def run(self) -> None:
        """Sync what was written, at once if something waits to be published, until `close`. Raises what `secure` does.

        After each time the disk rests as long as it took: what comes meanwhile shares the next.
        """
        rests_until_s = -math.inf
        while not self._closed.is_set():
            await self._wake.wait()
            with trio.move_on_after(UNSYNCED_S_MAX):
                await self._hurry.wait()
            if trio.current_time() < rests_until_s:
                await trio.sleep_until(rests_until_s)
            begun_s = trio.current_time()
            await self.flush()
            rests_until_s = 2 * trio.current_time() - begun_s

    async def fold_now_and_then(self) -> None:
        """Bring what was written into the database, until `close`. Raises what `fold` does."""
        while not self._closed.is_set():
            await self._unfolded.wait()
            with trio.move_on_after(FOLD_S):
                await self._closed.wait()
            await self._fold_in()

    async def close(self) -> None:
        """As `settle`; `run` and `fold_now_and_then` end."""
        await self.settle()
        self._closed.set()
        self._wake.set()
        self._hurry.set()
        self._unfolded.set()

    async def settle(self) -> None:
        """As `flush`, and the database has all of it."""
        await self.flush()
        await self._fold_in()

    async def _fold_in(self) -> None:
        async with self._folding:
            if self._unfolded.is_set() and not self._closed.is_set():
                self._unfolded = trio.Event()
                with trio.CancelScope(shield=True):  # whoever waits may leave; what was written must not be forgotten
                    await trio.to_thread.run_sync(self._fold)

    async def flush(self) -> None:
        """All that was written so far is on the disk when this returns, and what waited for that has left."""
        async with self._turn:
            if not self.is_clean:
                await self._flush()

    async def _flush(self) -> None:
        self._wake, self._hurry = trio.Event(), trio.Event()
        self._is_dirty, self._is_syncing = False, True
        held, self._held = self._held, []
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._secure)
        finally:
            self._is_syncing = False
        if not self._is_dirty:  # what came meanwhile waited for nothing newer
            held, self._held = held + self._held, []
        for effect in held:
            self._publish(effect)
