"""Drawn leaves of a batch, opened by its worker: the way to the root, the voucher, the claim and the request itself.

The request is in the transaction, input and all: whoever is drawn to check the leaf has it from the ledger, and no
worker can keep it from them. Source: PROTOCOL, "Paying".
"""

from dataclasses import replace
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import (
    VERIFIERS_MIN,
    Claim,
    InferenceRequest,
    Mode,
    Voucher,
    compute_claim_id,
    compute_request_id,
)
from protocol.keys import format_account, format_node
from protocol.ledger.batches import SAMPLES_MAX, BatchLeaf, LeafIndex, compute_drawn, find_run, forfeit, make_batch_leaf
from protocol.ledger.checks import begin_attestations, begin_check
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import AlreadyProven
from protocol.ledger.job_errors import AlreadyOpened, InvalidBatch, InvalidLeaf, UnknownBatch
from protocol.ledger.job_records import Batch, BatchPhase, BatchRun
from protocol.ledger.records import DueItem
from protocol.ledger.transactions import ZeroReason, transaction
from protocol.merkle_sum import SUM_PATH_MAX, InvalidSumProof, SumNode, compute_proven_sum
from protocol.tensor import compute_tensors_digest
from protocol.types import AtMost, Digest

_ZERO_REASONS = frozenset(int(reason) for reason in ZeroReason)


@fast_dataclass(frozen=True)
class OpenedWork:
    """What a leaf that earns stands for."""

    voucher: Voucher
    claim: Claim
    request: InferenceRequest


@fast_dataclass(frozen=True)
class LeafOpening:
    """A drawn leaf with its way to the root, and its work if it earns."""

    index: LeafIndex
    leaf: BatchLeaf
    work: Annotated[tuple[OpenedWork, ...], AtMost(1)]
    path: Annotated[tuple[SumNode, ...], AtMost(SUM_PATH_MAX)]


@transaction(33)
@fast_dataclass(frozen=True)
class OpenLeaves:
    """The worker opens drawn leaves of its batch, some or all."""

    batch: Digest
    openings: Annotated[tuple[LeafOpening, ...], AtMost(SAMPLES_MAX)]


def apply_open_leaves(draft: Draft, context: TransactionContext, body: OpenLeaves) -> None:
    """Note that drawn leaves are what the root says, and ask verifiers about those that earn."""
    batch = draft.batches.get(body.batch)
    if batch is None or batch.worker != context.account:
        raise UnknownBatch(body.batch)
    if not batch.seed or not body.openings:
        raise InvalidBatch(body.batch, "nothing is drawn yet" if not batch.seed else "no leaf is opened")
    drawn = compute_drawn(batch.seed, body.batch, batch.leaves, batch.sample_bp)
    opened = list(batch.opened)
    for opening in body.openings:
        if opening.index not in drawn:
            raise InvalidBatch(body.batch, f"leaf {opening.index} is not drawn")
        if opening.index in opened:
            raise AlreadyOpened(body.batch, opening.index)
        _verify_opening(draft, context, batch, body.batch, opening)
        opened.append(opening.index)
        for work in opening.work:
            begin_check(draft, batch, body.batch, opening.index, work.claim, work.request)
    batch = replace(batch, opened=tuple(sorted(opened)))
    draft.batches.put(body.batch, batch)
    if batch.opened == drawn:
        begin_attestations(draft, body.batch, batch)


def close_openings(draft: Draft, item: DueItem) -> None:
    """Due: silence about a drawn leaf has forfeited the batch."""
    batch = draft.batches.get(item.id)
    if batch is None or batch.phase != BatchPhase.OPENINGS:
        return
    drawn = compute_drawn(batch.seed, item.id, batch.leaves, batch.sample_bp)
    forfeit(draft, item.id, batch)
    draft.count_work(batch.worker, void=len(drawn) - len(batch.opened))


def verify_leaf(
    batch: Batch, batch_id: bytes, index: int, leaf: BatchLeaf, path: tuple[SumNode, ...]
) -> tuple[BatchRun, int]:
    """The run and number of a leaf, if it is the one at its place under the root. InvalidLeaf or InvalidBatch."""
    run, seq = find_run(batch, index)
    if (leaf.channel, leaf.seq) != (run.channel, seq):
        raise InvalidLeaf(seq, f"leaf {index} names voucher {leaf.seq} of channel {leaf.channel.hex()}")
    try:
        root = compute_proven_sum(make_batch_leaf(leaf), index, batch.leaves, path)
    except InvalidSumProof as error:
        raise InvalidBatch(batch_id, str(error)) from error
    if root != SumNode(batch.root, batch.total):
        raise InvalidBatch(batch_id, f"leaf {index} leads to another root, of {root.total} grains")
    return run, seq


def _verify_opening(
    draft: Draft, context: TransactionContext, batch: Batch, batch_id: bytes, opening: LeafOpening
) -> None:
    leaf = opening.leaf
    run, seq = verify_leaf(batch, batch_id, opening.index, leaf, opening.path)
    if leaf.reason in _ZERO_REASONS:
        if leaf.amount or opening.work or leaf.claim_id != bytes(32):
            raise InvalidLeaf(seq, "a leaf with a reason earns nothing and has no claim")
        return
    if leaf.reason or not opening.work:
        raise InvalidLeaf(seq, f"reason {leaf.reason} without the work it stands for")
    verify_promise(draft, context, run, leaf, opening.work[0].voucher, opening.work[0].claim)
    _verify_request(draft, run, leaf, opening.work[0])


def verify_promise(
    draft: Draft, context: TransactionContext, run: BatchRun, leaf: BatchLeaf, voucher: Voucher, claim: Claim
) -> None:
    """InvalidLeaf unless voucher and claim are of this leaf's job, and signed by payer and worker."""
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
        raise InvalidLeaf(leaf.seq, f"the claim is of node {format_node(claim.worker)}, none of the worker's")
    context.verify_signed(voucher, run.payer)
    context.verify_signed(claim, claim.worker)


def _verify_request(draft: Draft, run: BatchRun, leaf: BatchLeaf, work: OpenedWork) -> None:
    """Whether the claim answers this request, and verifiers find all they need in it."""
    claim, request = work.claim, work.request
    if compute_request_id(request) != claim.request_id:
        raise InvalidLeaf(leaf.seq, "the claim answers another request")
    if request.account != run.payer or request.mode != Mode.BATCH:
        raise InvalidLeaf(leaf.seq, f"a request in mode {request.mode!r} of account {format_account(request.account)}")
    stated = (claim.model, claim.verifiers, claim.epoch)
    if stated != (request.model, request.verifiers, request.epoch) or draft.models.get(claim.model) is None:
        raise InvalidLeaf(leaf.seq, "the claim does not say what the request asks for")
    if not VERIFIERS_MIN <= claim.verifiers <= draft.params.verifiers_max:
        raise InvalidLeaf(leaf.seq, f"{claim.verifiers} verifiers can not be drawn")
    if request.inputs_blob or compute_tensors_digest(request.inputs) != claim.input_digest:
        raise InvalidLeaf(leaf.seq, "the claim's input is not in its request")
