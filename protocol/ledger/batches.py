"""Settlement in mode `batch`: many leaves under one Merkle-sum root, a few of which are drawn and must be opened.

Root, then seed, then openings (`openings`), attestations and digests (`checks`), then payout. The seed is the ledger's
after blocks of builders who hold more than a third of the weight, none of the worker's account: whoever made the batch
could not know what would be drawn. A drawn leaf that stays closed forfeits the batch, not itself alone: with one leaf's
loss for silence, lying would pay. In mode `private` the same root is a commitment nobody opens, and pays at once.
Source: PROTOCOL, "Paying".
"""

import hashlib
from dataclasses import replace
from typing import Annotated

from protocol.codec import encode
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Claim, Mode, Voucher, compute_attestation, compute_claim_id
from protocol.ledger.block import get_validators_of
from protocol.ledger.context import TransactionContext
from protocol.ledger.dispute_records import Dispute
from protocol.ledger.draft import Draft
from protocol.ledger.errors import LimitReached, UnknownNode
from protocol.ledger.flows import Party, Source
from protocol.ledger.job_errors import (
    ExpiredVoucher,
    InvalidBatch,
    InvalidLeaf,
    InvalidMode,
    NotYourChannel,
    PendingTooHigh,
    SequenceMismatch,
    UnknownChannel,
    VoucherExceeded,
)
from protocol.ledger.job_records import RUNS_MAX, Batch, BatchPhase, BatchRun, Check, Withheld
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.money import split_inference_fee
from protocol.ledger.params import Params
from protocol.ledger.quality import compute_burnt, compute_sample_bp
from protocol.ledger.records import DueItem, EpochSnapshot
from protocol.ledger.transactions import transaction
from protocol.merkle_sum import SumNode, make_sum_leaf
from protocol.proofs.bounds import get_bound_ppt
from protocol.signing import compute_domain_prefix
from protocol.types import BP, AtMost, Digest, Grains, UpTo, Whole

SAMPLE_KIND = 7
OPEN_KIND = 8
BATCH_PAYOUT_KIND = 9
LEAVES_MAX = 100_000
LeafIndex = Annotated[int, UpTo(LEAVES_MAX - 1)]
SAMPLES_MAX = 64
_LEAF = compute_domain_prefix("batch-leaf")
_DRAW = compute_domain_prefix("batch-draw")


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


@transaction(37)
@fast_dataclass(frozen=True)
class SettlePrivate:
    """The leaves of channels in mode `private`: committed to, never opened, paid at once."""

    runs: Annotated[tuple[RunOfBatch, ...], AtMost(RUNS_MAX)]
    root: Digest


def make_batch_leaf(leaf: BatchLeaf) -> SumNode:
    """A leaf as it stands in the tree."""
    return make_sum_leaf(hashlib.sha256(_LEAF + encode(leaf)).digest(), leaf.amount)


def compute_drawn(seed: bytes, batch_id: bytes, leaves: int, sample_bp: int) -> tuple[int, ...]:
    """The indices that must be opened: `sample_bp` of all leaves, one at least and SAMPLES_MAX at most, none twice."""
    count = min(leaves, SAMPLES_MAX, -(-leaves * sample_bp // BP))
    drawn: set[int] = set()
    number = 0
    while len(drawn) < max(count, 1):
        data = hashlib.sha256(_DRAW + seed + batch_id + number.to_bytes(4, "big")).digest()
        drawn.add(int.from_bytes(data, "big") % leaves)
        number += 1
    return tuple(sorted(drawn))


def compute_pending_max(bond: int, sample_bp: int, params: Params) -> int:
    """What a worker may have in batches that are not paid out yet, so that cheating costs more than it brings.

    A share p of leaves is looked at, and who is caught loses S: cheating for g pays nothing while p·S > (1 − p)·g. So
    whose leaves are looked at less may have less under way.
    """
    at_stake = bond * params.slash_bp // BP
    return at_stake * sample_bp // max(BP - sample_bp, 1)


def get_sample_bp(snapshot: EpochSnapshot | None, account: bytes, params: Params) -> int:
    """The share of a worker's leaves that is drawn, by its quality in an epoch."""
    candidate = snapshot.find_account(account) if snapshot is not None else None
    return compute_sample_bp(candidate.quality if candidate is not None else 0, params)


def apply_batch_settle(draft: Draft, context: TransactionContext, body: BatchSettle) -> None:
    """Move what the runs come to from their channels into the batch, or refuse all of it."""
    node = draft.nodes.get(context.account)
    if node is None:
        raise UnknownNode(context.account)
    if not body.runs:
        raise InvalidBatch(context.id, "a batch without runs")
    runs = tuple(_take_run(draft, context, run, Mode.BATCH) for run in body.runs)
    leaves, total = sum(run.leaves for run in runs), sum(run.amount for run in runs)
    if leaves > LEAVES_MAX:
        raise LimitReached("leaves", leaves, LEAVES_MAX)
    own = [batch for _, batch in draft.batches.items() if batch.worker == context.account]
    if len(own) >= draft.params.batches_max:
        raise LimitReached("batches of this worker", len(own), draft.params.batches_max)
    sample_bp = get_sample_bp(draft.epochs.get(draft.epoch), context.account, draft.params)
    least = min((batch.sample_bp for batch in own), default=sample_bp)
    pending = total + sum(batch.total for batch in own)
    limit = compute_pending_max(node.bond, min(sample_bp, least), draft.params)
    if pending > limit:
        raise PendingTooHigh(pending, limit)
    batch = Batch(
        worker=context.account,
        root=body.root,
        total=total,
        leaves=leaves,
        runs=runs,
        height=draft.height,
        time_ms=draft.time_ms,
        builders=(),
        seed=b"",
        opened=(),
        sample_bp=sample_bp,
    )
    draft.batches.put(context.id, batch)
    draft.plan(DueItem(draft.time_ms + 1, SAMPLE_KIND, context.id, waking=1, graced=0))


def apply_settle_private(draft: Draft, context: TransactionContext, body: SettlePrivate) -> None:
    """Pay what the runs come to. The verifiers' share is the treasury's: nobody has checked."""
    if draft.nodes.get(context.account) is None:
        raise UnknownNode(context.account)
    if not body.runs:
        raise InvalidBatch(context.id, "a settlement without runs")
    total = sum(_take_run(draft, context, run, Mode.PRIVATE).amount for run in body.runs)
    _divide(draft, context.id, context.account, total, [])


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
        draft.batches.put(item.id, replace(batch, seed=draft.base.seed, phase=BatchPhase.OPENINGS))
        draft.plan(DueItem(draft.time_ms + draft.params.open_ms, OPEN_KIND, item.id, waking=1, graced=0))
        return
    draft.batches.put(item.id, batch)
    # A network whose builders do not reveal is not kept awake for ever.
    waking = int(draft.time_ms < batch.time_ms + draft.params.sample_awake_ms)
    draft.plan(DueItem(draft.time_ms + 1, SAMPLE_KIND, item.id, waking, graced=0))


def pay_out_batch(draft: Draft, item: DueItem) -> None:
    """Due: the window is over. Leaves in dissent, or that nobody could check, are given back; the rest is divided.

    A dissenter that has not disputed its leaf by then has the grace of all deadlines that punish silence.
    """
    batch = draft.batches.get(item.id)
    if batch is None:
        return
    asked = [challenge.deadline_ms for _, challenge in _list_withheld(draft, item.id) if not challenge.is_over]
    frozen_ms = max([*asked, *(dispute.deadline_ms for dispute in _list_disputes(draft, batch))], default=0)
    if frozen_ms:
        # An open dispute or challenge comes first; whichever way it ends, there is something to pay out or nothing.
        again_ms = max(frozen_ms, draft.time_ms) + draft.params.grace_ms
        draft.plan(replace(item, time_ms=again_ms))
        return
    if not item.graced and _has_open_dissent(draft, item.id):
        draft.plan(replace(item, time_ms=draft.time_ms + draft.params.grace_ms, graced=1))
        return
    agreed: list[bytes] = []
    refunded = sum(run.returned for run in batch.runs)
    paid = 0
    for key, check in list(draft.checks.items_under(item.id)):
        draft.checks.delete(key)
        index = int.from_bytes(key[len(item.id) :], "big")
        _count_minority(draft, batch.worker, check)
        if is_paid(check, draft.models.get(check.claim.model)):
            agreed += _list_agreeing(check)
            paid += 1
        else:
            refunded += return_amount(draft, item.id, index, check.claim.fee)
    _forget(draft, item.id)
    _divide(draft, item.id, batch.worker, batch.total - refunded, agreed)
    burnt = compute_burnt(batch.total - refunded, draft.params)
    draft.count_work(batch.worker, paid=paid, earned=batch.total - refunded, burnt=burnt)
    for account in agreed:
        draft.count_work(account, agreed=1, burnt=burnt // len(agreed))


def forfeit(draft: Draft, key: bytes, batch: Batch) -> None:
    """Every run's amount goes back to its channel, or to its payer where the channel is gone."""
    _forget(draft, key)
    left = batch.total - sum(run.returned for run in batch.runs)
    draft.count_work(batch.worker, lost=compute_burnt(left, draft.params))
    for check_key, _ in list(draft.checks.items_under(key)):
        draft.checks.delete(check_key)
    for run in batch.runs:
        _give_back(draft, run, run.amount - run.returned)


def _forget(draft: Draft, key: bytes) -> None:
    """A batch is over, and with it all challenges about its leaves."""
    draft.batches.delete(key)
    for challenge_key, challenge in list(_list_withheld(draft, key)):
        draft.withheld.delete(challenge_key)
        draft.credit(challenge.payer, challenge.fee)


def forfeit_claimed(draft: Draft, worker: bytes, claim: Claim) -> None:
    """A claim is proven wrong: the batch that holds its leaf, if there is one, is forfeit."""
    for key, batch in find_held(draft, worker, claim):
        forfeit(draft, key, batch)


def find_held(draft: Draft, worker: bytes, claim: Claim) -> list[tuple[bytes, Batch]]:
    """The batch of a worker that holds a claim's leaf, if there is one."""
    return [(key, batch) for key, batch in draft.batches.items() if batch.worker == worker and _holds(batch, claim)]


def give_back_leaf(draft: Draft, worker: bytes, claim: Claim) -> None:
    """A claim nobody could decide about: its leaf goes back to the payer, and the rest of its batch goes on."""
    for key, batch in find_held(draft, worker, claim):
        checks = [(at, check) for at, check in draft.checks.items_under(key) if check.claim == claim]
        for at, check in checks:
            draft.checks.put(at, replace(check, is_void=1))
        if not checks:
            runs = tuple(_return(draft, run, claim) if _runs_over(run, claim) else run for run in batch.runs)
            draft.batches.put(key, replace(batch, runs=runs))


def find_run(batch: Batch, index: int) -> tuple[BatchRun, int]:
    """The run that holds leaf `index` of the batch, and the leaf's number in its channel."""
    for run in batch.runs:
        if index < run.leaves:
            return run, run.seq_first + index
        index -= run.leaves
    raise InvalidLeaf(index, "beyond the batch's leaves")


def return_amount(draft: Draft, key: bytes, index: int, amount: int) -> int:
    """Give a part of a leaf's run back to its payer, at most what the run still holds; what it was."""
    batch = draft.batches.get(key)
    if batch is None:
        return 0
    chosen, _ = find_run(batch, index)
    given = min(amount, chosen.amount - chosen.returned)
    _give_back(draft, chosen, given)
    after = replace(chosen, returned=chosen.returned + given)
    draft.batches.put(key, replace(batch, runs=tuple(after if run == chosen else run for run in batch.runs)))
    return given


def _list_withheld(draft: Draft, key: bytes) -> list[tuple[bytes, Withheld]]:
    return [(at, challenge) for at, challenge in draft.withheld.items() if challenge.batch == key]


def _holds(batch: Batch, claim: Claim) -> bool:
    return any(_runs_over(run, claim) for run in batch.runs)


def _runs_over(run: BatchRun, claim: Claim) -> bool:
    return run.channel == claim.channel and 0 <= claim.seq - run.seq_first < run.leaves


def _return(draft: Draft, run: BatchRun, claim: Claim) -> BatchRun:
    amount = min(claim.fee, run.amount - run.returned)
    _give_back(draft, run, amount)
    return replace(run, returned=run.returned + amount)


def _list_disputes(draft: Draft, batch: Batch) -> list[Dispute]:
    return [item for _, item in draft.disputes.items() if item.worker == batch.worker and _holds(batch, item.claim)]


def _has_open_dissent(draft: Draft, batch_id: bytes) -> bool:
    """Whether somebody could still stand by another digest than the worker's."""
    checks = (check for _, check in draft.checks.items_under(batch_id) if not check.is_void)
    return any(len(_list_agreeing(check)) < len(check.checkers) for check in checks)


def is_paid(check: Check, model: ModelRecord | None) -> bool:
    """Whether a checked leaf earns. What can be disputed and was not, or in vain, does; all else only if all agree."""
    if check.is_void:
        return False
    if model is not None and (model.exact or get_bound_ppt(model)):
        return True
    return len(_list_agreeing(check)) == len(check.checkers)


def compute_check_key(batch_id: bytes, index: int) -> bytes:
    """Sorts checks by batch, then leaf."""
    return batch_id + index.to_bytes(4, "big")


def _count_minority(draft: Draft, worker: bytes, check: Check) -> None:
    """Who found something else than most did: of worker and verifiers, as far as anybody can tell.

    What is blind is not compared with each other: those who did not find what the worker says count as of one mind, so
    that the worker is only held to it when it stands alone against several.
    """
    if check.is_void:
        return
    agreeing = _list_agreeing(check)
    dissenting = [checker.account for checker in check.checkers if checker.account not in agreeing]
    if len(dissenting) < 1 + len(agreeing):
        for account in dissenting:
            draft.count_work(account, minority=1)
    elif not agreeing:
        draft.count_work(worker, void=1, lost=compute_burnt(check.claim.fee, draft.params))


def _list_agreeing(check: Check) -> list[bytes]:
    """The accounts of the verifiers that found what the worker says."""
    claim_id = compute_claim_id(check.claim)
    return [
        checker.account
        for checker in check.checkers
        if checker.is_near or checker.value == compute_attestation(claim_id, checker.node, check.output_digest)
    ]


def _divide(draft: Draft, key: bytes, worker: bytes, total: int, verifiers: list[bytes]) -> None:
    """Pay out a total. A verifier gets an equal part for each leaf it agreed on; without any it is the treasury's."""
    share, each, treasury, burn = split_inference_fee(total, max(len(verifiers), 1), draft.params)
    draft.earn(Source.INFERENCE, Party.INFERENCE, worker, share, key)
    for account in verifiers:
        draft.earn(Source.INFERENCE, Party.VERIFIER, account, each, key)
    draft.fund(Source.INFERENCE, treasury + (0 if verifiers else each), key)
    draft.burn(Source.INFERENCE, burn, key)


def _give_back(draft: Draft, run: BatchRun, amount: int) -> None:
    channel = draft.channels.get(run.channel)
    if channel is not None:
        draft.channels.put(run.channel, replace(channel, paid=channel.paid - amount))
    else:
        draft.credit(run.payer, amount)


def _take_run(draft: Draft, context: TransactionContext, run: RunOfBatch, mode: Mode) -> BatchRun:
    voucher = run.last
    channel = draft.channels.get(voucher.channel)
    if channel is None:
        raise UnknownChannel(voucher.channel)
    if channel.payee != context.account:
        raise NotYourChannel(voucher.channel, context.account)
    if channel.mode != mode:
        raise InvalidMode(channel.mode)
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
