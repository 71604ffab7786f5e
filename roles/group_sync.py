"""What was written and is not on the disk yet: brought there together, beside the loop, before anything is published.

A stream may carry what builds on it at once: a killed process loses nothing that was written. A power cut may, so what
everybody hears (claims, transactions) waits until the disk has it; while nothing waits, there is less hurry.
"""

from collections.abc import Callable

import trio

from roles.core_effects import NetPublish

GATHER_S = 0.005  # so long writes gather before they are synced
UNSYNCED_S_MAX = 0.1  # so long they gather at most while nothing waits for them


class GroupSync:
    """`sync` brings what was written to the disk, and is called in a thread; `publish` sends what was held."""

    def __init__(self, sync: Callable[[], None], publish: Callable[[NetPublish], None]) -> None:
        self._sync = sync
        self._publish = publish
        self._is_dirty = False
        self._is_syncing = False
        self._is_closed = False
        self._held: list[NetPublish] = []
        self._wake = trio.Event()
        self._hurry = trio.Event()  # something waits to be published
        self._turn = trio.Lock()

    @property
    def is_clean(self) -> bool:
        """Whether all that was written is on the disk."""
        return not (self._is_dirty or self._is_syncing)

    def note(self) -> None:
        """Something was written."""
        self._is_dirty = True
        self._wake.set()

    def send(self, effect: NetPublish) -> None:
        """Now, or as soon as the disk has what was written before."""
        if self.is_clean:
            self._publish(effect)
        else:
            self._held.append(effect)
            self._hurry.set()

    async def run(self) -> None:
        """Sync what was written, and rest as long as the disk took, until `close`. Raises what `sync` does."""
        while not self._is_closed:
            await self._wake.wait()
            with trio.move_on_after(UNSYNCED_S_MAX):
                await self._hurry.wait()
            await trio.sleep(GATHER_S)
            begun_s = trio.current_time()
            await self.flush()
            await trio.sleep(trio.current_time() - begun_s)

    async def close(self) -> None:
        """As `flush`; `run` ends."""
        await self.flush()
        self._is_closed = True
        self._wake.set()
        self._hurry.set()

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
            await trio.to_thread.run_sync(self._sync)
        finally:
            self._is_syncing = False
        if not self._is_dirty:  # what came meanwhile waited for nothing newer
            held, self._held = held + self._held, []
        for effect in held:
            self._publish(effect)
