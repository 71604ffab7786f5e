"""Puts a worker's finished jobs on the ledger, and forgets them once it is through with them."""

from protocol.codec import encode
from protocol.ledger.job_records import Channel
from protocol.ledger.state import State
from roles.batcher import Batcher
from roles.role import Effect, Record, SetTimer, Store, Submit
from roles.workbook import Workbook, compute_job_key

UNDER_WAY_MAX = 4  # full ones: the next block is built before a worker has heard of the one that took its last
SETTLE_MS = 1_000  # between two settlements, so that leaves gather
FORGET_MAX = 32
FORGET = "forget"  # the timer for those that are left


class Settler:
    """Settlements of one worker. Beside one that is under way go others that are full: leaves gather meanwhile."""

    def __init__(self, book: Workbook, batcher: Batcher) -> None:
        self._book = book
        self._batcher = batcher
        self._under_way: set[str] = set()  # tokens
        self._ahead: dict[bytes, Channel] = {}  # channels as they will be with what is under way
        self._has_failed = False  # one of those under way, so that none behind it fits
        self._count = 0
        self._next_ms = 0
        # The channels of all jobs, what of them is settled and what is kept, when nothing more was to be forgotten.
        self._looked: tuple[set[bytes], dict[bytes, int], dict[bytes, list[range]]] | None = None

    def on_tick(self, state: State, now_ms: int) -> list[Effect]:
        batches = self._batcher.on_tick(state, now_ms)
        if now_ms < self._next_ms:
            return batches
        self._next_ms = now_ms + SETTLE_MS
        return [*batches, *self._settle(state, now_ms)]

    def on_submitted(self, token: str, error: str, state: State, now_ms: int) -> list[Effect]:
        """A settlement is on the ledger, or refused: what it held is planned anew at a tick, once none is under way."""
        if token not in self._under_way:
            return self._batcher.on_submitted(token, error, now_ms)
        self._under_way.remove(token)
        self._has_failed |= bool(error)
        if not self._under_way:
            self._ahead, self._has_failed = {}, False
        return [Record("settlement.refused", {"reason": error})] if error else self._settle(state, now_ms)

    def forget_settled(self, state: State, now_ms: int) -> list[Effect]:
        """Jobs the ledger is through with, FORGET_MAX at once: of a large batch all would hold the node up."""
        channels = {key: state.channels.get(key) for key in self._book.list_channels()}
        settled = {key: channel.settled_seq for key, channel in channels.items() if channel is not None}
        looked = set(channels), settled, self._batcher.list_kept(state)
        if looked == self._looked:  # most blocks are about others
            return []
        effects: list[Effect] = []
        done = self._book.forget_settled(*looked[1:], FORGET_MAX)
        self._looked = looked if len(done) < FORGET_MAX else None
        for job in done:
            voucher = job.item.voucher
            fields = {
                "request_id": voucher.request_id,
                "seq": job.key[1],
                "zero_reason": job.zero_reason,
                "amount": 0 if job.zero_reason else voucher.amount,
            }
            key = compute_job_key(*job.key)
            kept = [] if job.receipt is None else [Store("answered", key, encode(job.to_entry()))]
            effects += [Store("jobs", key, None), *kept, Record("leaf.settled", fields)]
        return [*effects, SetTimer(FORGET, now_ms)] if len(done) == FORGET_MAX else effects

    def _settle(self, state: State, now_ms: int) -> list[Effect]:
        submitted: list[Effect] = []
        while len(self._under_way) < UNDER_WAY_MAX and not self._has_failed:
            plan = self._book.plan(state, self._ahead, now_ms)
            if plan is None or (self._under_way and not plan.is_full):
                break
            self._count += 1
            token = f"settle-{self._count}"
            self._under_way.add(token)
            self._ahead |= plan.after
            leaves = sum(len(run.leaves) for run in plan.body.runs)
            submitted += [Submit(plan.body, token), Record("settlement.sent", {"leaves": leaves})]
        return submitted
