"""Settles a worker's jobs in the modes `batch` and `private`, and answers what the ledger asks about its batches.

A batch's leaves follow from the jobs in the book: nothing of what it may hold can change once it is planned, so that a
restarted worker builds the same tree again. Jobs are kept until their batch is paid out or forfeit.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from protocol.codec import encode
from protocol.jobs import Mode
from protocol.ledger.batches import (
    SAMPLES_MAX,
    BatchLeaf,
    BatchSettle,
    RunOfBatch,
    SettlePrivate,
    compute_check_key,
    compute_drawn,
    compute_pending_max,
    find_run,
    get_sample_bp,
    make_batch_leaf,
)
from protocol.ledger.checks import LeafDigest, RevealDigests, must_show
from protocol.ledger.job_records import RUNS_MAX, Batch, BatchPhase, Channel
from protocol.ledger.openings import LeafOpening, OpenedWork, OpenLeaves
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from protocol.merkle_sum import SumNode, SumTree
from protocol.types import INT_MAX
from roles.packing import pack
from roles.role import Effect, Record, Store, Submit
from roles.workbook import Job, Workbook, compute_job_key

LEAVES_MAX = 1_024  # so that building a tree does not hold up the node
LEAVES_WANTED = 256  # so many are settled at once; fewer when the oldest has waited
BATCH_MS = 5_000
AGAIN_MS = 1_000


@dataclass(frozen=True)
class _Run:
    """Jobs of one channel that can be settled; None for a voucher that was never seen."""

    channel: bytes
    seq_first: int
    jobs: tuple[Job | None, ...]

    @cached_property
    def leaves(self) -> tuple[BatchLeaf, ...]:
        return tuple(_make_leaf(self.channel, seq, job) for seq, job in enumerate(self.jobs, self.seq_first))


class Batcher:
    """The batches of one worker. One settlement per mode is under way at a time."""

    def __init__(self, book: Workbook, account: bytes, batch_ms: int = BATCH_MS) -> None:
        self._book = book
        self._account = account
        self._batch_ms = batch_ms
        self._settling: set[str] = set()  # tokens
        self._answering: dict[str, bytes] = {}  # token -> batch
        self._trees: dict[bytes, SumTree] = {}
        self._waiting_ms: dict[Mode, int] = {}  # since when the oldest job of a mode could be settled
        self._again_ms = 0

    def list_kept(self, state: State) -> dict[bytes, list[range]]:
        """By channel, the vouchers whose jobs may still be asked for: those of batches under way."""
        kept: dict[bytes, list[range]] = {}
        for _, batch in self._list_own(state):
            for run in batch.runs:
                kept.setdefault(run.channel, []).append(range(run.seq_first, run.seq_first + run.leaves))
        return kept

    def on_tick(self, state: State, now_ms: int) -> list[Effect]:
        """Answer what is asked about batches under way, and settle what has gathered."""
        if now_ms < self._again_ms:
            return []
        settled = (effect for mode in (Mode.BATCH, Mode.PRIVATE) for effect in self._settle(state, mode, now_ms))
        return [*self.answer(state), *settled]

    def answer(self, state: State) -> list[Effect]:
        """The next transaction each batch under way waits for."""
        own = dict(self._list_own(state))
        self._trees = {key: tree for key, tree in self._trees.items() if key in own}
        effects: list[Effect] = []
        for key, batch in own.items():
            if key in self._answering.values():
                continue
            body = self._plan_answer(state, key, batch)
            if body is not None:
                token = f"batch-{type(body).__name__}-{key.hex()}"
                self._answering[token] = key
                effects.append(Submit(body, token))
        return effects

    def on_submitted(self, token: str, error: str, now_ms: int) -> list[Effect]:
        if self._answering.pop(token, None) is None and token not in self._settling:
            return []
        self._settling.discard(token)
        if not error:
            return []
        self._again_ms = now_ms + AGAIN_MS
        return [Record("settlement.refused", {"reason": error})]

    # What gathers

    def _settle(self, state: State, mode: Mode, now_ms: int) -> list[Effect]:
        if f"settle-{mode}" in self._settling:
            return []
        runs, void = self._gather(state, mode, now_ms)
        # Kept before they are settled: the tree is built again from what is on disk.
        kept: list[Effect] = [Store("jobs", compute_job_key(*job.key), encode(job.to_entry())) for job in void]
        return [*kept, *self._send(state, mode, runs, now_ms)]

    def _send(self, state: State, mode: Mode, runs: list[_Run], now_ms: int) -> list[Effect]:
        leaves = sum(len(run.jobs) for run in runs)
        if not leaves:
            self._waiting_ms.pop(mode, None)
            return []
        since_ms = self._waiting_ms.setdefault(mode, now_ms)
        if leaves < LEAVES_WANTED and now_ms < since_ms + self._batch_ms:
            return []
        runs = self._limit(state, runs) if mode is Mode.BATCH else runs
        if not runs:
            return []
        tree = SumTree([make_batch_leaf(leaf) for run in runs for leaf in run.leaves])
        parts = tuple(RunOfBatch(run.seq_first, _add_up(run), _get_last(run).item.voucher) for run in runs)
        body = BatchSettle(parts, tree.root.root) if mode is Mode.BATCH else SettlePrivate(parts, tree.root.root)
        token = f"settle-{mode}"
        self._settling.add(token)
        self._waiting_ms.pop(mode, None)
        fields = {"mode": str(mode), "leaves": sum(len(run.jobs) for run in runs), "grains": tree.root.total}
        return [Submit(body, token), Record("batch.sent", fields)]

    def _gather(self, state: State, mode: Mode, now_ms: int) -> tuple[list[_Run], list[Job]]:
        """Per channel, what follows what is settled, as far as it is known how it ended; and what now earns nothing."""
        runs: list[_Run] = []
        void: list[Job] = []
        left = LEAVES_MAX
        most = self._compute_most(state) if mode is Mode.BATCH else INT_MAX
        channels = {
            key: record
            for key in self._book.list_channels()
            if (record := state.channels.get(key)) is not None and record.mode == mode
        }
        for key in self._book.list_waiting(channels):
            if len(runs) == RUNS_MAX or not left:
                break
            channel = channels[key]
            seq_first = channel.settled_seq + 1
            jobs, unpayable = _cover(self._book.list_ended(key, seq_first, left, now_ms), channel, most, now_ms)
            void += unpayable
            if jobs:
                runs.append(_Run(key, seq_first, jobs))
                left -= len(jobs)
        return runs, void

    def _compute_most(self, state: State) -> int:
        """What the bond covers at most: a leaf over more would never fit a batch, and hold up all behind it."""
        node = state.nodes.get(self._account)
        return 0 if node is None else compute_pending_max(node.bond, self._get_sample_bp(state), state.params)

    def _get_sample_bp(self, state: State) -> int:
        return get_sample_bp(state.get_epoch(state.epoch), self._account, state.params)

    def _limit(self, state: State, runs: Sequence[_Run]) -> list[_Run]:
        """As much of the runs as the bond covers beside what is pending; nothing while there are too many batches."""
        node = state.nodes.get(self._account)
        own = [batch for _, batch in self._list_own(state)]
        if node is None or len(own) >= state.params.batches_max:
            return []
        sample_bp = min([self._get_sample_bp(state), *(batch.sample_bp for batch in own)])
        left = compute_pending_max(node.bond, sample_bp, state.params) - sum(batch.total for batch in own)
        kept: list[_Run] = []
        for run in runs:
            sums = list(accumulate(leaf.amount for leaf in run.leaves))
            jobs = _trim(run.jobs[: bisect_right(sums, left)])
            if jobs:
                kept.append(_Run(run.channel, run.seq_first, jobs))
                left -= _add_up(kept[-1])
        return kept

    # What is asked

    def _list_own(self, state: State) -> list[tuple[bytes, Batch]]:
        return [(key, batch) for key, batch in sorted(state.batches.items()) if batch.worker == self._account]

    def _plan_answer(self, state: State, key: bytes, batch: Batch) -> OpenLeaves | RevealDigests | None:
        if batch.phase == BatchPhase.OPENINGS:
            drawn = compute_drawn(batch.seed, key, batch.leaves, batch.sample_bp)
            return self._open(key, batch, [index for index in drawn if index not in batch.opened])
        if batch.phase == BatchPhase.DIGESTS:
            return self._reveal(state, key, batch)
        return None

    def _open(self, key: bytes, batch: Batch, indices: Sequence[int]) -> OpenLeaves | None:
        """As many of the drawn leaves as fit one transaction."""
        tree = self._get_tree(key, batch)
        openings: list[LeafOpening] = []
        for index in indices:
            run, seq = find_run(batch, index)
            job = self._book.find(run.channel, seq)
            leaf = _make_leaf(run.channel, seq, job)
            works: tuple[OpenedWork, ...] = ()
            if not leaf.reason and job is not None and job.receipt is not None:
                works = (OpenedWork(job.item.voucher, job.receipt.claim, job.item.request),)
            openings.append(LeafOpening(index, leaf, works, tree.prove(index)))
        parts = pack(openings, SAMPLES_MAX)
        return OpenLeaves(key, parts[0]) if parts else None

    def show(self, key: bytes, batch: Batch, index: int) -> tuple[BatchLeaf, tuple[SumNode, ...]]:
        """A leaf of a batch under way, and its way to the root."""
        run, seq = find_run(batch, index)
        return _make_leaf(run.channel, seq, self._book.find(run.channel, seq)), self._get_tree(key, batch).prove(index)

    def _get_tree(self, key: bytes, batch: Batch) -> SumTree:
        tree = self._trees.get(key)
        if tree is None:
            keys = ((run.channel, run.seq_first + at) for run in batch.runs for at in range(run.leaves))
            nodes = [make_batch_leaf(_make_leaf(channel, seq, self._book.find(channel, seq))) for channel, seq in keys]
            tree = self._trees[key] = SumTree(nodes)
        return tree

    def _reveal(self, state: State, key: bytes, batch: Batch) -> RevealDigests | None:
        digests: list[LeafDigest] = []
        for index in batch.opened:
            check = state.checks.get(compute_check_key(key, index))
            run, seq = find_run(batch, index)
            job = self._book.find(run.channel, seq)
            if check is None or check.is_void or check.output_digest or job is None or job.receipt is None:
                continue
            digest = job.receipt.output_digest
            is_asked = must_show(check, digest, state.models.get(check.claim.model))
            digests.append(LeafDigest(index, job.receipt.salt, digest, job.outputs if is_asked else ()))
        parts = pack(digests, SAMPLES_MAX)
        return RevealDigests(key, parts[0]) if parts else None


def _cover(
    jobs: Sequence[Job | None], channel: Channel, most: int, now_ms: int
) -> tuple[tuple[Job | None, ...], list[Job]]:
    """As many jobs as their last voucher, which must not have run out, shows to be promised.

    A job whose own voucher does not cover it beside those before earns nothing, as one over `most` grains: these are
    marked and returned. What is beyond the last voucher that is good waits for a later one.
    """
    void: list[Job] = []
    total = end = 0
    for at, job in enumerate(jobs, 1):
        if job is None:
            continue
        voucher = job.item.voucher
        promised = min(max(0, voucher.cumulative - channel.cumulative), channel.deposit - channel.paid)
        if not job.zero_reason:
            if total + voucher.amount > promised or voucher.amount > most:
                job.zero_reason = ZeroReason.UNPAYABLE
                void.append(job)
            else:
                total += voucher.amount
        if total <= promised and now_ms <= voucher.expiry_ms:
            end = at
    return tuple(jobs[:end]), void


def _trim(jobs: Sequence[Job | None]) -> tuple[Job | None, ...]:
    """Without the vouchers never seen at the end: the last leaf's voucher shows what is promised, it must be there."""
    kept = list(jobs)
    while kept and kept[-1] is None:
        kept.pop()
    return tuple(kept)


def _make_leaf(channel: bytes, seq: int, job: Job | None) -> BatchLeaf:
    if job is None:
        return BatchLeaf(channel, seq, ZeroReason.NEVER_SEEN, 0, bytes(32))
    if job.zero_reason or job.receipt is None:
        return BatchLeaf(channel, seq, job.zero_reason, 0, bytes(32))
    return BatchLeaf(channel, seq, 0, job.item.voucher.amount, job.claim_id)


def _add_up(run: _Run) -> int:
    return sum(leaf.amount for leaf in run.leaves)


def _get_last(run: _Run) -> Job:
    last = run.jobs[-1]
    assert last is not None
    return last
