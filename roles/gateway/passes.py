"""Lets in whoever shows a pass to the app that a gateway serves, and counts what is asked for under it."""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import trio
from starlette.requests import ClientDisconnect

from protocol.errors import MalformedMessage, RemoteError
from protocol.ledger.apps import compute_pass_key, get_counted
from protocol.ledger.state import State
from protocol.proofs.pass_file import AppPass, PassExpired, Right, WrongApp, parse_token, verify_statement
from roles.gateway.faults import Fault
from roles.gateway.pass_book import BookFull, PassBook
from roles.gateway.settings import Settings

HEADER = "X-App-Pass"
RIGHT = "rolemesh.right"  # in the scope of a request: the Right it is made under, or None

T = TypeVar("T")


def get_now_ms() -> int:
    return time.time_ns() // 1_000_000


class Use:
    """One request under a pass, while it is under way. `fee` is what it has cost, in grains."""

    def __init__(self) -> None:
        self.fee = 0


class Passes:
    """Over the book of one app. `get_ledger` gives the state; what the disk does not take is for `report`."""

    def __init__(
        self,
        app: str,
        book: PassBook,
        get_ledger: Callable[[], State],
        report: Callable[[Exception], None],
        get_now_ms: Callable[[], int] = get_now_ms,
    ) -> None:
        self.app = app
        self._book = book
        self._get_ledger = get_ledger
        self._report = report
        self._get_now_ms = get_now_ms
        self._limiter = trio.CapacityLimiter(1)  # one writer; whoever waits for it holds no thread

    def admit(self, headers: Mapping[str, str]) -> Right:
        """What the pass among the headers allows now. Raises Fault 401 or 403; `headers` ignores case, or is lower."""
        shown = headers.get(HEADER.lower(), "").strip()
        if not shown:
            raise Fault(401, "missing_pass", f"this gateway serves the app {self.app!r}: show a pass with {HEADER}")
        return read_right(shown, self._get_ledger(), self.app, self._get_now_ms())

    @asynccontextmanager
    async def use(self, right: Right, model: bytes) -> AsyncIterator[Use]:
        """Count a request, while inside. It is given back if it fails, but not if nobody waits for it any more.

        Raises Fault 429 when the pass is used up, 503 when the count cannot be kept.
        """
        if not await self._write(self._book.take, right, model, self._count_reported(right)):
            raise make_used_up(right, self._get_now_ms())
        use = Use()
        try:
            yield use
        except (trio.Cancelled, ClientDisconnect):
            # A worker may have done it all the same.
            await self._end(self._book.finish, right, model, use.fee)
            raise
        except BaseException:
            await self._end(self._book.give_back, right, model)
            raise
        await self._end(self._book.finish, right, model, use.fee)

    async def _end(self, change: Callable[..., None], *words: object) -> None:
        """Write down how a request has ended. What cannot be written stays counted."""
        with trio.CancelScope(shield=True):
            try:
                await self._write(change, *words)
            except Fault:
                return

    def _count_reported(self, right: Right) -> int:
        held = self._get_ledger().passes.get(compute_pass_key(right.app, right.holder))
        return get_counted(held, right.period) if held is not None and held.since_ms == right.since_ms else 0

    async def _write(self, change: Callable[..., T], *words: object) -> T:
        try:
            return await trio.to_thread.run_sync(change, *words, limiter=self._limiter)
        except (sqlite3.Error, BookFull) as error:
            self._report(error)
            raise Fault(503, "no_record", f"what a pass was used for cannot be written down: {error}") from error


def read_right(shown: str, state: State, app: str, now_ms: int) -> Right:
    """What a pass allows by this ledger. Fault 401 for one that is none or forged, 403 for one that is not for here."""
    statement = _read_statement(shown)
    bought = state.passes.get(compute_pass_key(app, statement.holder))
    try:
        return verify_statement(statement, bought, state.chain, app, now_ms)
    except WrongApp as error:
        raise Fault(403, "wrong_app", f"{error}") from error
    except PassExpired as error:
        record = state.apps.get(app)
        if record is None or record.retired_ms:
            raise Fault(403, "app_retired", f"{error}; the app {app!r} is retired and sells no more") from error
        raise Fault(403, "pass_expired", f"{error}: buy another, or write what is left of yours anew") from error
    except RemoteError as error:
        raise Fault(401, "invalid_pass", f"{error}") from error


def cap_fee(settings: Settings, right: Right | None, usual: int) -> Settings:
    """The settings of a request. Under a pass it is whoever serves the app that pays: no more than is `usual`."""
    if right is None or settings.max_fee is None:
        return settings
    return replace(settings, max_fee=min(settings.max_fee, usual))


def make_used_up(right: Right, now_ms: int) -> Fault:
    """The fault for a pass of which all is used."""
    ends_s = max(1, -(-(right.ends_ms - now_ms) // 1_000))
    reason = (
        f"the pass allows {right.quota} requests in period {right.period}, and they are used; it ends in {ends_s} s"
    )
    return Fault(429, "pass_used_up", reason, retry_s=ends_s)


def _read_statement(shown: str) -> AppPass:
    try:
        return parse_token(shown)
    except MalformedMessage as error:
        raise Fault(401, "invalid_pass", f"{HEADER}: {error}; `rolemesh app pass` writes one") from error
