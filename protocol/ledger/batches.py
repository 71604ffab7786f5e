"""Settlement in mode `batch`: many leaves under one Merkle-sum root, a few of which are drawn and must be opened.

Root, then seed, then openings, then payout. The seed is the ledger's after blocks of builders who hold more than a
third of the weight, none of the worker's account: whoever made the batch could not know what would be drawn. A drawn
leaf that stays closed forfeits the batch, not itself alone: with one leaf's loss for silence, lying would pay. Source:
PROTOCOL, "Paying".
"""

import hashlib
from dataclasses import replace
from typing import Annotated

from protocol.codec import encode
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Claim, Voucher, compute_claim_id
from protocol.ledger.block import get_validators_of
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import (
    AlreadyOpened,
    AlreadyProven,
    ExpiredVoucher,
    InvalidBatch,
    InvalidLeaf,
    LimitReached,
    NotYourChannel,
    PendingTooHigh,
    SequenceMismatch,
    UnknownBatch,
    UnknownChannel,
    UnknownNode,
    VoucherExceeded,
)
from protocol.ledger.money import split_inference_fee
from protocol.ledger.params import Params
from protocol.ledger.records import RUNS_MAX, Batch, BatchRun, DueItem
from protocol.ledger.transactions import ZeroReason, transaction
from protocol.merkle_sum import SUM_PATH_MAX, InvalidSumProof, SumNode, compute_proven_sum, make_sum_leaf
from protocol.signing import compute_domain_prefix
from protocol.types import BP, AtMost, Digest, Grains, Whole

SAMPLE_KIND = 7
OPEN_KIND = 8
BATCH_PAYOUT_KIND = 9
LEAVES_MAX = 100_000
SAMPLES_MAX = 64
_LEAF = compute_domain_prefix("batch-leaf")
_DRAW = compute_domain_prefix("batch-draw")
_ZERO_REASONS = frozenset(int(reason) for reason in ZeroReason)


@fast_dataclass(frozen=True)
class BatchLeaf:
    """How one voucher ended. A leaf with a reason earns nothing and has an empty claim id of zeros."""

    channel: Digest
    seq: Whole
    reason: Whole
    amount: Grains
    claim_id: Digest


@fast_dataclass(frozen=True)
class RunOfBatch:
    """Consecutive leaves of one channel; the last one's voucher shows that the payer has promised them all."""

    seq_first: Whole
    amount: Grains  # the sum of this run's leaves
    last: Voucher


@transaction(32)
@fast_dataclass(frozen=True)
class BatchSettle:
    """The leaves of all runs, in order, under one root. Its total is the sum of the runs' amounts."""

    runs: Annotated[tuple[RunOfBatch, ...], AtMost(RUNS_MAX)]
    root: Digest


@fast_dataclass(frozen=True)
class LeafOpening:
    """A drawn leaf with its way to the root, and if it earns, the voucher and the claim it stands for."""

    index: Whole
    leaf: BatchLeaf
    voucher: Annotated[tuple[Voucher, ...], AtMost(1)]
    claim: Annotated[tuple[Claim, ...], AtMost(1)]
    path: Annotated[tuple[SumNode, ...], AtMost(SUM_PATH_MAX)]


@transaction(33)
@fast_dataclass(frozen=True)
class OpenLeaves:
    """The worker opens drawn leaves of its batch, some or all."""

    batch: Digest
    openings: Annotated[tuple[LeafOpening, ...], AtMost(SAMPLES_MAX)]


def make_batch_leaf(leaf: BatchLeaf) -> SumNode:
    """A leaf as it stands in the tree."""
    return make_sum_leaf(hashlib.sha256(_LEAF + encode(leaf)).digest(), leaf.amount)


def compute_drawn(seed: bytes, batch_id: bytes, leaves: int, params: Params) -> tuple[int, ...]:
    """The indices that must be opened: `sample_bp` of all leaves, one at least and SAMPLES_MAX at most, none twice."""
    count = min(leaves, SAMPLES_MAX, -(-leaves * params.sample_bp // BP))
    drawn: set[int] = set()
    number = 0
    while len(drawn) < max(count, 1):
        data = hashlib.sha256(_DRAW + seed + batch_id + number.to_bytes(4, "big")).digest()
        drawn.add(int.from_bytes(data, "big") % leaves)
        number += 1
    return tuple(sorted(drawn))


def compute_pending_max(bond: int, params: Params) -> int:
    """What a worker may have in batches that are not paid out yet, so that cheating costs more than it brings.

    A share p of leaves is looked at, and who is caught loses S: cheating for g pays nothing while p·S > (1 − p)·g.
    """
    at_stake = bond * params.slash_bp // BP
    return at_stake * params.sample_bp // max(BP - params.sample_bp, 1)


def apply_batch_settle(draft: Draft, context: TransactionContext, body: BatchSettle) -> None:
    """Move what the runs come to from their channels into the batch, or refuse all of it."""
    node = draft.nodes.get(context.account)
    if node is None:
        raise UnknownNode(context.account)
    if not body.runs:
        raise InvalidBatch(context.id, "a batch without runs")
    runs = tuple(_take_run(draft, context, run) for run in body.runs)
    leaves, total = sum(run.leaves for run in runs), sum(run.amount for run in runs)
    if leaves > LEAVES_MAX:
        raise LimitReached("leaves", leaves, LEAVES_MAX)
    own = [batch for _, batch in draft.batches.items() if batch.worker == context.account]
    if len(own) >= draft.params.batches_max:
        raise LimitReached("batches of this worker", len(own), draft.params.batches_max)
    pending, limit = total + sum(batch.total for batch in own), compute_pending_max(node.bond, draft.params)
    if pending > limit:
        raise PendingTooHigh(pending, limit)
    batch = Batch(context.account, body.root, total, leaves, runs, draft.height, draft.time_ms, (), b"", ())
    draft.batches.put(context.id, batch)
    draft.plan(DueItem(draft.time_ms + 1, SAMPLE_KIND, context.id, waking=1, graced=0))


def sample(draft: Draft, item: DueItem) -> None:
    """Due in every block until enough others have revealed; then leaves are drawn and their time to be opened runs."""
    batch = draft.batches.get(item.id)
    if batch is None:
        return
    builder = draft.base.revealer
    # The block with the batch in it does not count: its builder knew what it would reveal.
    if builder and draft.base.height > batch.height and builder not in (batch.worker, *batch.builders):
        batch = replace(batch, builders=(*batch.builders, builder))
    weights = _get_weights(draft)
    if 3 * sum(weights.get(account, 0) for account in batch.builders) > sum(weights.values()):
        draft.batches.put(item.id, replace(batch, seed=draft.base.seed))
        draft.plan(DueItem(draft.time_ms + draft.params.open_ms, OPEN_KIND, item.id, waking=1, graced=0))
        return
    draft.batches.put(item.id, batch)
    # A network whose builders do not reveal is not kept awake for ever.
    waking = int(draft.time_ms < batch.time_ms + draft.params.sample_awake_ms)
    draft.plan(DueItem(draft.time_ms + 1, SAMPLE_KIND, item.id, waking, graced=0))


def apply_open_leaves(draft: Draft, context: TransactionContext, body: OpenLeaves) -> None:
    """Note that drawn leaves are what the root says, and covered by vouchers and claims."""
    batch = draft.batches.get(body.batch)
    if batch is None or batch.worker != context.account:
        raise UnknownBatch(body.batch)
    if not batch.seed or not body.openings:
        raise InvalidBatch(body.batch, "nothing is drawn yet" if not batch.seed else "no leaf is opened")
    drawn = compute_drawn(batch.seed, body.batch, batch.leaves, draft.params)
    opened = list(batch.opened)
    for opening in body.openings:
        if opening.index not in drawn:
            raise InvalidBatch(body.batch, f"leaf {opening.index} is not drawn")
        if opening.index in opened:
            raise AlreadyOpened(body.batch, opening.index)
        _verify_opening(draft, context, batch, body.batch, opening)
        opened.append(opening.index)
    draft.batches.put(body.batch, replace(batch, opened=tuple(sorted(opened))))


def close_openings(draft: Draft, item: DueItem) -> None:
    """Due: all drawn leaves are open and the window begins, or silence has forfeited the batch."""
    batch = draft.batches.get(item.id)
    if batch is None:
        return
    drawn = compute_drawn(batch.seed, item.id, batch.leaves, draft.params)
    if batch.opened != drawn:
        forfeit(draft, item.id, batch)
        draft.count_work(batch.worker, void=len(drawn) - len(batch.opened))
        return
    window_ms = draft.params.settle_window_ms
    draft.plan(DueItem(draft.time_ms + window_ms, BATCH_PAYOUT_KIND, item.id, waking=1, graced=0))


def pay_out_batch(draft: Draft, item: DueItem) -> None:
    """Due: the window is over. The verifiers' share is the treasury's as long as none have been asked."""
    batch = draft.batches.get(item.id)
    if batch is None:
        return
    draft.batches.delete(item.id)
    worker, verifiers, treasury, burn = split_inference_fee(batch.total, 1, draft.params)
    draft.credit(batch.worker, worker)
    draft.treasury += treasury + verifiers
    draft.burned += burn
    draft.count_work(batch.worker, paid=len(batch.opened), earned=batch.total)


def forfeit(draft: Draft, key: bytes, batch: Batch) -> None:
    """Every run's amount goes back to its channel, or to its payer where the channel is gone."""
    draft.batches.delete(key)
    for run in batch.runs:
        channel = draft.channels.get(run.channel)
        if channel is not None:
            draft.channels.put(run.channel, replace(channel, paid=channel.paid - run.amount))
        else:
            draft.credit(run.payer, run.amount)


def forfeit_claimed(draft: Draft, worker: bytes, claim: Claim) -> None:
    """A claim is proven wrong: the batch that holds its leaf, if there is one, is forfeit."""
    for key, batch in list(draft.batches.items()):
        is_held = any(
            run.channel == claim.channel and 0 <= claim.seq - run.seq_first < run.leaves for run in batch.runs
        )
        if batch.worker == worker and is_held:
            forfeit(draft, key, batch)


def _take_run(draft: Draft, context: TransactionContext, run: RunOfBatch) -> BatchRun:
    voucher = run.last
    channel = draft.channels.get(voucher.channel)
    if channel is None:
        raise UnknownChannel(voucher.channel)
    if channel.payee != context.account:
        raise NotYourChannel(voucher.channel, context.account)
    if run.seq_first != channel.settled_seq + 1:
        raise SequenceMismatch(channel.settled_seq + 1, run.seq_first)
    if voucher.seq < run.seq_first:
        raise SequenceMismatch(run.seq_first, voucher.seq)
    if voucher.expiry_ms < draft.time_ms:
        raise ExpiredVoucher(voucher.expiry_ms, draft.time_ms)
    promised = max(0, voucher.cumulative - channel.cumulative)
    if run.amount > promised:
        raise VoucherExceeded("voucher", promised, run.amount)
    paid = channel.paid + run.amount
    if paid > channel.deposit:
        raise VoucherExceeded("deposit", channel.deposit, paid)
    context.verify_signed(voucher, channel.payer)
    after = replace(channel, paid=paid, settled_seq=voucher.seq, cumulative=max(channel.cumulative, voucher.cumulative))
    draft.channels.put(voucher.channel, after)
    leaves = voucher.seq - run.seq_first + 1
    return BatchRun(voucher.channel, channel.payer, run.seq_first, leaves, run.amount)


def _get_weights(draft: Draft) -> dict[bytes, int]:
    snapshot = draft.epochs.get(draft.epoch)
    validators = get_validators_of(snapshot) if snapshot is not None else ()
    return {item.account: item.weight for item in validators}


def _verify_opening(
    draft: Draft, context: TransactionContext, batch: Batch, batch_id: bytes, opening: LeafOpening
) -> None:
    leaf, run, seq = opening.leaf, *_find_run(batch, opening.index)
    if (leaf.channel, leaf.seq) != (run.channel, seq):
        raise InvalidLeaf(seq, f"leaf {opening.index} names voucher {leaf.seq} of channel {leaf.channel.hex()}")
    try:
        root = compute_proven_sum(make_batch_leaf(leaf), opening.index, batch.leaves, opening.path)
    except InvalidSumProof as error:
        raise InvalidBatch(batch_id, str(error)) from error
    if root != SumNode(batch.root, batch.total):
        raise InvalidBatch(batch_id, f"leaf {opening.index} leads to another root, of {root.total} grains")
    if leaf.reason in _ZERO_REASONS:
        if leaf.amount or opening.voucher or opening.claim or leaf.claim_id != bytes(32):
            raise InvalidLeaf(seq, "a leaf with a reason earns nothing and has no claim")
        return
    if leaf.reason or not opening.voucher or not opening.claim:
        raise InvalidLeaf(seq, f"reason {leaf.reason} without voucher and claim")
    _verify_promise(draft, context, run, leaf, opening.voucher[0], opening.claim[0])


def _verify_promise(
    draft: Draft, context: TransactionContext, run: BatchRun, leaf: BatchLeaf, voucher: Voucher, claim: Claim
) -> None:
    """Whether voucher and claim are of this leaf's job, and signed by payer and worker."""
    promised = (leaf.channel, leaf.seq, leaf.amount)
    if (voucher.channel, voucher.seq, voucher.amount) != promised:
        raise InvalidLeaf(leaf.seq, f"its voucher is number {voucher.seq} over {voucher.amount} grains")
    job = (voucher.channel, voucher.seq, voucher.request_id, voucher.attempt, voucher.amount)
    if (claim.channel, claim.seq, claim.request_id, claim.attempt, claim.fee) != job:
        raise InvalidLeaf(leaf.seq, "claim and voucher are not of the same job")
    if draft.wrong.get(leaf.claim_id) is not None:
        raise AlreadyProven(leaf.claim_id)
    if compute_claim_id(claim) != leaf.claim_id:
        raise InvalidLeaf(leaf.seq, "the root names another claim")
    owner = draft.node_owners.get(claim.worker)
    if owner is None or owner.account != context.account:
        raise InvalidLeaf(leaf.seq, f"the claim is of node {claim.worker.hex()}, none of the worker's")
    context.verify_signed(voucher, run.payer)
    context.verify_signed(claim, claim.worker)


def _find_run(batch: Batch, index: int) -> tuple[BatchRun, int]:
    """The run that holds leaf `index` of the batch, and the leaf's number in its channel."""
    for run in batch.runs:
        if index < run.leaves:
            return run, run.seq_first + index
        index -= run.leaves
    raise InvalidLeaf(index, "beyond the batch's leaves")
