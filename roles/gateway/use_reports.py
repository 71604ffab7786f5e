"""Has the ledger count what passes were used for at a gateway: each request once at most, through any crash."""

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import trio
from trio.to_thread import run_sync

from protocol.codec import decode, encode
from protocol.errors import InvalidTransaction
from protocol.ledger.app_errors import QuotaExceeded
from protocol.ledger.app_records import PassRecord
from protocol.ledger.apply import decode_transactions
from protocol.ledger.apps import ITEMS_MAX, ReportedUse, ReportUse, compute_pass_key, count_use
from protocol.ledger.block import Block
from protocol.ledger.state import State
from protocol.ledger.transactions import get_transaction_kind
from roles.chain import open_stored
from roles.gateway.pass_book import PassBook, Sent
from roles.gateway.passes import get_now_ms
from roles.orders import OrderState
from roles.submitter import VALID_MS

REPORT_S = 10.0  # well before the ledger forgets a pass that is over (`apps.LATE_MS`)
POLL_S = 0.1
LATE_S = 5.0  # after which a block whose time is over is here


class Ledger(Protocol):
    """What is needed of a node: its ledger, its account's transactions, and its blocks on disk."""

    account: bytes
    database: Path

    @property
    def state(self) -> State: ...

    @property
    def is_ready(self) -> bool: ...

    def order(self, token: str, body: ReportUse) -> None: ...

    def get_order(self, token: str) -> OrderState | None: ...


@dataclass(frozen=True)
class ReportPlan:
    """What the ledger would count now, and what it never will."""

    items: tuple[ReportedUse, ...]
    lost: tuple[ReportedUse, ...]


class ReportRefused(Exception):
    """The ledger says no to a report; it is made anew."""


class UseLost(Exception):
    """Requests that the ledger does not count: others have used the pass up, or it is over for too long."""


class Reporter:
    """Reports what the book of an app holds. What goes wrong is for `report`, and tried again."""

    def __init__(
        self,
        app: str,
        book: PassBook,
        ledger: Ledger,
        report: Callable[[Exception], None],
        get_now_ms: Callable[[], int] = get_now_ms,
    ) -> None:
        self._app = app
        self._book = book
        self._ledger = ledger
        self._report = report
        self._get_now_ms = get_now_ms

    async def run(self, over: trio.Event) -> None:
        """Until `over` is set, and once more then. What is on its way when this is cancelled is found again later."""
        begun_s = trio.current_time()
        is_last = False
        while not is_last:
            is_last = over.is_set()
            if self._ledger.is_ready:
                try:
                    await self._resolve(begun_s)
                    await self._report_all()
                except sqlite3.Error as error:
                    self._report(error)
            with trio.move_on_after(REPORT_S):
                await over.wait()

    async def _report_all(self) -> None:
        while True:
            unsent = await run_sync(self._book.list_unsent)
            plan = plan_report(self._ledger.state, self._app, unsent, self._get_now_ms())
            if plan.lost:
                self._report(UseLost(f"{sum(item.requests for item in plan.lost)} requests are not counted any more"))
                await run_sync(self._book.give_up, plan.lost)
            if not plan.items or not await self._send(plan.items[:ITEMS_MAX]):
                break
        await run_sync(self._book.forget, self._get_now_ms())

    async def _send(self, items: tuple[ReportedUse, ...]) -> bool:
        """Whether the ledger has taken it."""
        sent = Sent(self._ledger.state.height, ReportUse(self._app, items))
        await run_sync(self._book.begin_report, sent)
        token = secrets.token_hex(16)
        self._ledger.order(token, sent.body)
        while (order := self._ledger.get_order(token)) is None or not order.is_over:
            await trio.sleep(POLL_S)
        await self._end(sent, order.height is not None)
        if order.height is None:
            self._report(ReportRefused(f"{order.code}: {order.reason}"))
        return order.height is not None

    async def _end(self, sent: Sent, is_counted: bool) -> None:
        """Write down what has become of a report. Until that is done there is no other."""
        while True:
            try:
                await run_sync(self._book.end_report, sent, is_counted)
                return
            except sqlite3.Error as error:
                self._report(error)
                await trio.sleep(REPORT_S)

    async def _resolve(self, begun_s: float) -> None:
        """Wait until it is known what has become of the report of an earlier process, if there is one."""
        sent = await run_sync(self._book.get_report)
        if sent is None:
            return
        if not await run_sync(was_counted, self._ledger.database, self._ledger.account, sent):
            # It can still reach the ledger for as long as what was signed last is good.
            await trio.sleep_until(begun_s + VALID_MS / 1_000 + LATE_S)
        is_counted = await run_sync(was_counted, self._ledger.database, self._ledger.account, sent)
        await self._end(sent, is_counted)


def plan_report(state: State, app: str, uses: Sequence[ReportedUse], now_ms: int) -> ReportPlan:
    """Divide what was used into what the ledger would count and what it would not, pass by pass in order."""
    passes: dict[bytes, PassRecord | None] = {}
    items: list[ReportedUse] = []
    lost: list[ReportedUse] = []
    for use in uses:
        key = compute_pass_key(app, use.holder)
        held = passes.get(key, state.passes.get(key))
        fit = count_what_fits(held, use, now_ms) if use.model in state.models else 0
        if fit:
            items.append(replace(use, requests=fit))
            passes[key] = count_use(held, items[-1], now_ms)
        if fit < use.requests:
            lost.append(replace(use, requests=use.requests - fit, fees=0 if fit else use.fees))
    return ReportPlan(tuple(items), tuple(lost))


def count_what_fits(held: PassRecord | None, use: ReportedUse, now_ms: int) -> int:
    """How many of the requests the ledger would still count on a pass."""
    try:
        count_use(held, use, now_ms)
    except QuotaExceeded as error:
        return max(0, use.requests - (error.used - error.quota))
    except InvalidTransaction:
        return 0
    return use.requests


def was_counted(database: Path, account: bytes, sent: Sent) -> bool:
    """Whether a block has the report. True too where the blocks are gone: better never than twice."""
    kind, body = get_transaction_kind(ReportUse), encode(sent.body)
    with open_stored(database, sent.height) as (rows, _):
        for place, row in enumerate(rows):
            if not place and row.height != sent.height + 1:
                return True
            transactions = decode_transactions(decode(Block, row.block))
            if any((item.account, item.kind, item.body) == (account, kind, body) for item in transactions):
                return True
    return False
