"""What callers with a key spend: reserved before a request leaves, settled when it is known what it has cost.

A request that is over may still cost something: a worker that was told to leave it may have done it before. Until that
worker has spoken, or the deadline has passed, what it can claim stays reserved; and so it does over a restart.
"""

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import trio

from roles.asking import NONCE_BYTES
from roles.attempts import Recalled
from roles.client_errors import ClientError
from roles.gateway.faults import Fault
from roles.gateway.key_book import Hold, KeyBook
from roles.gateway.keys import KeyState, explain_too_dear, is_same_key, read_key, verify_usable

SETTLE_S_MAX = 3.0  # whoever has hung up waits for no longer until it is known what its request has cost
LOOK_S = 1.0
TOO_DEAR = "price"  # a client's word for it


class WrongKey(Fault):
    """A key that does not exist: somebody guesses."""


class Recaller(Protocol):
    """What is needed of `roles.client.Client`."""

    async def recall(self, nonce: bytes) -> Recalled: ...


class Spending:
    """Over a key book. `run` is to run beside what asks; what the disk does not take is for `report`."""

    def __init__(self, book: KeyBook, client: Recaller, report: Callable[[Exception], None]) -> None:
        self.book = book
        self._client = client
        self._report = report
        self._limiter = trio.CapacityLimiter(1)  # one writer; whoever waits for it holds no thread
        self._left = {hold.id: hold for hold in book.list_holds()}  # over, and not known yet what they have cost

    def find(self, text: str) -> KeyState:
        """The key that somebody shows. Fault 401; WrongKey when there is none like it."""
        read, now_ms = read_key(text), get_now_ms()
        if read is None:
            raise WrongKey(401, "invalid_api_key", "that is no key of this gateway")
        state = self.book.find(read[0], now_ms)
        if not is_same_key(state, read[1]) or state is None:
            raise WrongKey(401, "invalid_api_key", "that is no key of this gateway")
        verify_usable(state, now_ms)
        return state

    @asynccontextmanager
    async def hold(self, key: KeyState | None, wanted: int) -> AsyncIterator[Hold]:
        """Reserve what a request may cost, while inside; without a key nothing is. Raises Fault 402 or 429."""
        if key is None:
            yield Hold(b"", "", wanted)
            return
        hold_id = secrets.token_bytes(NONCE_BYTES)
        try:
            hold, before = await trio.to_thread.run_sync(
                self.book.reserve, key.id, hold_id, wanted, get_now_ms(), limiter=self._limiter
            )
        except sqlite3.Error as error:
            self._report(error)
            raise Fault(503, "no_record", f"what a key spends cannot be written down: {error}") from error
        try:
            yield hold
        except ClientError as error:
            if error.code == TOO_DEAR and hold.amount < wanted:
                raise explain_too_dear(before, hold.amount, error.reason) from error
            raise
        finally:
            self._left[hold.id] = hold
            with trio.move_on_after(SETTLE_S_MAX) as settling:
                settling.shield = True
                await self._look(hold)

    async def run(self) -> None:
        """Settle what could not be settled at once."""
        while True:
            for hold in list(self._left.values()):
                await self._look(hold)
            await trio.sleep(LOOK_S)

    async def _look(self, hold: Hold) -> None:
        try:
            found = await self._client.recall(hold.id)
        except ClientError:
            return  # it is asked again
        # One that nobody knows was never sent; or it is long over, and was looked at before.
        owed = found.owed if found.is_known else hold.owed
        if found.is_open and owed == hold.owed:
            return
        change = self.book.note if found.is_open else self.book.settle
        try:
            await trio.to_thread.run_sync(change, hold, owed, limiter=self._limiter)
        except sqlite3.Error as error:
            self._report(error)  # it stays reserved, and is tried again
            return
        if found.is_open:
            self._left[hold.id] = replace(hold, owed=owed)
        else:
            self._left.pop(hold.id, None)


def get_now_ms() -> int:
    return time.time_ns() // 1_000_000
