"""The challenge `withheld`: whoever was charged for a leaf of a batch and never got its output asks for it in public.

The payer puts up a fee. Until the deadline, moved once, the worker publishes the output in a transaction, or shows that
the leaf earns nothing, and gets what that cost it out of the fee: asking an honest worker costs the asker, and no
worker earns by waiting to be asked. If it is silent the leaf is forfeit and the fee goes back. While a challenge is
open its batch is not paid out. What was published stands in the state for as long as the batch does. Source: PROTOCOL,
"Paying".
"""

import hashlib
from dataclasses import replace
from typing import Annotated

from protocol.codec import encode
from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.generation import read_form
from protocol.jobs import Receipt, Voucher, compute_commitment
from protocol.ledger.batches import BatchLeaf, LeafIndex, compute_check_key, find_run, return_amount
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import LimitReached
from protocol.ledger.fees import count_units
from protocol.ledger.flows import Party, Source
from protocol.ledger.job_errors import AlreadyChallenged, InvalidBatch, InvalidLeaf, UnknownBatch, UnknownChallenge
from protocol.ledger.job_records import BatchPhase, Withheld
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.openings import verify_leaf, verify_promise
from protocol.ledger.quality import compute_burnt
from protocol.ledger.records import DueItem
from protocol.ledger.transactions import BODY_BYTES_MAX, transaction
from protocol.merkle_sum import SUM_PATH_MAX, SumNode
from protocol.proofs.trace import TENSOR_HEAD_BYTES
from protocol.signing import compute_domain_prefix
from protocol.tensor import DIGEST_BYTES, ITEM_SIZES, TENSORS_MAX, Tensor, compute_tensors_digest, verify_tensor
from protocol.types import AtMost, Digest, Grains

WITHHELD_KIND = 44
PUBLISHED_BYTES_MAX = BODY_BYTES_MAX - 4_096  # of outputs: leaf, path, voucher and receipt stand beside them
HEAD_BYTES = 192  # of a transaction around its body, about
_KEY = compute_domain_prefix("withheld")


@fast_dataclass(frozen=True)
class Published:
    """What a client would have got: the worker's receipt and the outputs it stands for."""

    receipt: Receipt
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


@transaction(36)
@fast_dataclass(frozen=True)
class ChallengeWithheld:
    """The payer of a leaf has not got its output. `amount` is that of its voucher: what is forfeit by silence."""

    batch: Digest
    index: LeafIndex
    amount: Grains


@transaction(38)
@fast_dataclass(frozen=True)
class PublishOutput:
    """The worker's answer: the leaf with its way to the root, and if it earns, voucher and output."""

    batch: Digest
    index: LeafIndex
    leaf: BatchLeaf
    path: Annotated[tuple[SumNode, ...], AtMost(SUM_PATH_MAX)]
    voucher: Annotated[tuple[Voucher, ...], AtMost(1)]
    published: Annotated[tuple[Published, ...], AtMost(1)]


def compute_output_bytes(model: ModelRecord, rows: int) -> int:
    """The most that a model's outputs for so many rows, or tokens of one that makes text, take in a transaction.

    A text is a token of four bytes and a digest for each step at most, however much one step gives.
    """
    if read_form(model.inputs, model.outputs) is not None:
        return rows * (ITEM_SIZES["int32"] + DIGEST_BYTES) + 2 * TENSOR_HEAD_BYTES
    size = 0
    for spec in model.outputs:
        numbers = 1
        for wanted in spec.shape:
            numbers *= wanted or rows
        size += numbers * ITEM_SIZES[spec.dtype] + TENSOR_HEAD_BYTES
    return size


def explain_size(model: ModelRecord, rows: int) -> str:
    """Why an output could not be published if a client lost it, so that no batch may hold it; empty when it could."""
    size = compute_output_bytes(model, rows)
    if size <= PUBLISHED_BYTES_MAX:
        return ""
    return (
        f"{rows} rows of {model.name} give {size} bytes, at most {PUBLISHED_BYTES_MAX} can be published "
        "if the output is lost: send fewer rows, or ask in mode 'individual'"
    )


def compute_challenge_key(batch: bytes, index: int) -> bytes:
    return hashlib.sha256(_KEY + compute_check_key(batch, index)).digest()


def apply_challenge_withheld(draft: Draft, context: TransactionContext, body: ChallengeWithheld) -> None:
    """Begin a challenge: one for each leaf, by who paid for it, once the drawn leaves are open."""
    params = draft.params
    batch = draft.batches.get(body.batch)
    if batch is None:
        raise UnknownBatch(body.batch)
    if batch.phase < BatchPhase.ATTESTATIONS:
        raise InvalidBatch(body.batch, "its drawn leaves are not open yet")
    run, seq = find_run(batch, body.index)
    if run.payer != context.account:
        raise InvalidLeaf(seq, "its payer alone can say that the output was withheld")
    key = compute_challenge_key(body.batch, body.index)
    if draft.withheld.get(key) is not None:
        raise AlreadyChallenged(body.batch, body.index)
    if not 0 < body.amount <= run.amount - run.returned:
        raise InvalidLeaf(seq, f"its run holds {run.amount - run.returned} grains, {body.amount} are challenged")
    if len(draft.withheld) >= params.withheld_max:
        raise LimitReached("challenges", len(draft.withheld), params.withheld_max)
    draft.debit(context.account, params.answer_fee)
    deadline_ms = draft.time_ms + params.answer_ms
    challenge = Withheld(
        batch=body.batch,
        index=body.index,
        worker=batch.worker,
        payer=run.payer,
        channel=run.channel,
        seq=seq,
        amount=body.amount,
        fee=params.answer_fee,
        deadline_ms=deadline_ms,
    )
    draft.withheld.put(key, challenge)
    draft.plan(DueItem(deadline_ms, WITHHELD_KIND, key, waking=1, graced=0))


def apply_publish_output(draft: Draft, context: TransactionContext, body: PublishOutput) -> None:
    """The worker's answer is paid for at the block's base fee; the output stays where the client can read it."""
    batch, key = draft.batches.get(body.batch), compute_challenge_key(body.batch, body.index)
    challenge = draft.withheld.get(key)
    if batch is None or challenge is None or challenge.is_over:
        raise UnknownChallenge(body.batch, body.index)
    if batch.worker != context.account:
        raise UnknownBatch(body.batch)
    run, seq = verify_leaf(batch, body.batch, body.index, body.leaf, body.path)
    if len(body.voucher) != len(body.published) or bool(body.leaf.reason) == bool(body.published):
        raise InvalidLeaf(seq, "a leaf that earns comes with its voucher and its output, another with neither")
    for voucher, published in zip(body.voucher, body.published, strict=True):
        verify_promise(draft, context, run, body.leaf, voucher, published.receipt.claim)
        _verify_output(context, seq, published)
    cost = min(challenge.fee, draft.base_fee * count_units(len(encode(body)) + HEAD_BYTES))
    draft.earn(Source.ANSWER, Party.INFERENCE, batch.worker, cost)
    draft.credit(challenge.payer, challenge.fee - cost)
    answer = encode(body.published[0]) if body.published else b""
    draft.withheld.put(key, replace(challenge, fee=0, is_over=1, answer=answer))
    draft.call_off(WITHHELD_KIND, key)


def close_withheld(draft: Draft, item: DueItem) -> None:
    """Due: the worker has been silent. The leaf's amount and the fee are the client's again."""
    challenge = draft.withheld.get(item.id)
    if challenge is None or challenge.is_over:
        return
    draft.credit(challenge.payer, challenge.fee)
    draft.withheld.put(item.id, replace(challenge, fee=0, is_over=1, is_forfeit=1))
    key = compute_check_key(challenge.batch, challenge.index)
    check = draft.checks.get(key)
    if check is not None:
        amount = check.claim.fee
        draft.checks.put(key, replace(check, is_void=1))  # given back when the batch is paid out
    else:
        amount = return_amount(draft, challenge.batch, challenge.index, challenge.amount)
    draft.count_work(challenge.worker, void=1, lost=compute_burnt(amount, draft.params))


def _verify_output(context: TransactionContext, seq: int, published: Published) -> None:
    receipt = published.receipt
    try:
        for tensor in published.outputs:
            verify_tensor(tensor)
    except MalformedMessage as error:
        raise InvalidLeaf(seq, str(error)) from error
    if not published.outputs or compute_tensors_digest(published.outputs) != receipt.output_digest:
        raise InvalidLeaf(seq, "the outputs are not those of the receipt")
    if compute_commitment(receipt.salt, receipt.output_digest) != receipt.claim.commitment:
        raise InvalidLeaf(seq, "the receipt does not open the claim")
    context.verify_signed(receipt.claim, receipt.claim.worker)
