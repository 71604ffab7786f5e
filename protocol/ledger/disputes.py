"""Disputes: who of a worker and a challenger is wrong about one claim, by running one operator of the model.

The challenger puts up a bond. The worker posts the digests of all operators, the challenger names one of them, the
worker publishes what that one takes, and validators, whose nodes have run it outside `apply_block`, say what they
found. More than two thirds of their stake decides; a party's own leaves vote and total. Whoever is silent has lost;
when validators do not decide, leaf and bond are given back and nobody is slashed. Of a float model, whose operators
give other bits elsewhere, validators run the whole: what the worker has shown lies within the bound or far beyond it
(`proofs.bounds`). Source: PROTOCOL, "Dispute".
"""

from dataclasses import replace
from typing import Annotated

from protocol.codec import encode
from protocol.errors import RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Claim, Receipt, compute_attestation, compute_claim_id, compute_commitment
from protocol.keys import format_node
from protocol.ledger.batches import LeafIndex, compute_check_key, find_held
from protocol.ledger.block import get_validators_of, is_quorum
from protocol.ledger.context import TransactionContext
from protocol.ledger.dispute_ends import condemn_challenger, condemn_worker, part_undecided
from protocol.ledger.dispute_records import Dispute, DisputePhase, Vote
from protocol.ledger.draft import Draft
from protocol.ledger.errors import AlreadyProven, LimitReached
from protocol.ledger.job_errors import AlreadyDisputed, AlreadySaid, InvalidDispute, UnknownDispute
from protocol.ledger.records import DueItem, EpochSnapshot
from protocol.ledger.runs import is_contested
from protocol.ledger.settlement import get_snapshot
from protocol.ledger.step_disputes import (
    NameStep,
    PostSteps,
    get_first_phase,
    name_step,
    read_said,
    show_steps,
)
from protocol.ledger.transactions import transaction
from protocol.proofs.bounds import WholeRun
from protocol.proofs.classes import Comparison, Computation, compare
from protocol.proofs.steps import find_step_misfit, verify_step_binding
from protocol.proofs.trace import (
    TRACE_BYTES_MAX,
    Exhibit,
    Judgement,
    find_misfit,
    unpack_trace,
    verify_binding,
)
from protocol.types import AtMost, Digest, Line, Whole

DISPUTE_KIND = 50  # and the five after it: one due kind a phase, so that a deadline of a phase that is over finds none


@fast_dataclass(frozen=True)
class CheckedLeaf:
    """A drawn leaf of a batch whose digest the worker has opened."""

    batch: Digest
    index: LeafIndex


@transaction(41)
@fast_dataclass(frozen=True)
class OpenDispute:
    """The sender has found another output than the worker, and puts up `dispute_bond` for it.

    By the worker's signed receipt, which anybody may hold, or by a leaf of a batch that the sender's verifier was drawn
    for: exactly one of the two. `profile` is that of the sender's own run.
    """

    receipt: Annotated[tuple[Receipt, ...], AtMost(1)]
    leaf: Annotated[tuple[CheckedLeaf, ...], AtMost(1)]
    output_digest: Digest
    profile: Line


@transaction(42)
@fast_dataclass(frozen=True)
class PostTrace:
    """The worker's digests of all operators, packed (`proofs.trace`)."""

    dispute: Digest
    trace: Annotated[bytes, AtMost(TRACE_BYTES_MAX)]


@transaction(43)
@fast_dataclass(frozen=True)
class NameOperator:
    """The challenger's word which operator gives something else than the trace says."""

    dispute: Digest
    operator: Whole


@transaction(44)
@fast_dataclass(frozen=True)
class PostExhibit:
    """What the named operator takes: the tensors themselves, or where they do not fit, the digest of a blob of them."""

    dispute: Digest
    exhibit: Annotated[tuple[Exhibit, ...], AtMost(1)]
    blob: Annotated[tuple[Digest, ...], AtMost(1)]


@transaction(45)
@fast_dataclass(frozen=True)
class JudgeOperator:
    """What a validator's node found when it ran the operator: a `Judgement`."""

    dispute: Digest
    judgement: Whole


def apply_open_dispute(draft: Draft, context: TransactionContext, body: OpenDispute) -> None:
    """Begin a dispute; its id is the transaction's."""
    params = draft.params
    if len(draft.disputes) >= params.disputes_max:
        raise LimitReached("disputes", len(draft.disputes), params.disputes_max)
    claim, output_digest = _find_claim(draft, context, body)
    claim_id = compute_claim_id(claim)
    if draft.wrong.get(claim_id) is not None:
        raise AlreadyProven(claim_id)
    # One for each challenger: else a friend of the worker could dispute a lie first, and say nothing more.
    if any((other.claim, other.challenger) == (claim, context.account) for _, other in draft.disputes.items()):
        raise AlreadyDisputed(claim_id)
    worker = draft.find_node(claim.worker)
    if worker is None:
        raise InvalidDispute(context.id, f"node {format_node(claim.worker)} is registered no more")
    if worker.account == context.account:
        raise InvalidDispute(context.id, "a worker does not dispute its own claim")
    if output_digest == body.output_digest:
        raise InvalidDispute(context.id, "the challenger found what the worker says")
    model = draft.models.get(claim.model)
    own, other = Computation(claim.profile, output_digest), Computation(body.profile, body.output_digest)
    is_traced = model is not None and compare(model, own, other) is Comparison.DISPUTABLE
    shown = b"" if is_traced else _find_shown(draft, body)
    if not is_traced and not shown:
        reason = "honest outputs may differ: the model is not exact, the profiles differ or operators were joined"
        raise InvalidDispute(context.id, reason)
    draft.debit(context.account, params.dispute_bond)
    dispute = Dispute(
        claim=claim,
        worker=worker.account,
        challenger=context.account,
        output_digest=output_digest,
        bond=params.dispute_bond,
        phase=DisputePhase.VERDICT if shown else get_first_phase(draft, claim),
        deadline_ms=0,
        trace=b"",
        operator=0,
        exhibit=shown,
        blob=(),
        epoch=draft.epoch if shown else 0,
        votes=(),
    )
    _enter(draft, context.id, dispute)


def apply_post_steps(draft: Draft, context: TransactionContext, body: PostSteps) -> None:
    """Take what the worker says every step of a generation gave, if it is what it has claimed and opened."""
    dispute = _get_dispute(draft, body.dispute, DisputePhase.STEPS)
    if context.account != dispute.worker:
        raise InvalidDispute(body.dispute, "the worker shows the steps")
    _enter(draft, body.dispute, replace(show_steps(draft, dispute, body), phase=DisputePhase.STEP))


def apply_name_step(draft: Draft, context: TransactionContext, body: NameStep) -> None:
    dispute = _get_dispute(draft, body.dispute, DisputePhase.STEP)
    if context.account != dispute.challenger:
        raise InvalidDispute(body.dispute, "the challenger names the step")
    _enter(draft, body.dispute, replace(name_step(draft, dispute, body), phase=DisputePhase.TRACE))


def apply_post_trace(draft: Draft, context: TransactionContext, body: PostTrace) -> None:
    """Take the worker's trace, if it leads from the claimed inputs to the opened output."""
    dispute = _get_dispute(draft, body.dispute, DisputePhase.TRACE)
    if context.account != dispute.worker:
        raise InvalidDispute(body.dispute, "the worker posts the trace")
    try:
        said, trace = read_said(draft.models, dispute), unpack_trace(body.trace)
        if said is None:
            verify_binding(trace, dispute.claim.input_digest, dispute.output_digest)
        else:
            verify_step_binding(trace, said, dispute.step)
    except RemoteError as error:
        raise InvalidDispute(body.dispute, str(error)) from error
    _enter(draft, body.dispute, replace(dispute, trace=body.trace, phase=DisputePhase.NAME))


def apply_name_operator(draft: Draft, context: TransactionContext, body: NameOperator) -> None:
    dispute = _get_dispute(draft, body.dispute, DisputePhase.NAME)
    if context.account != dispute.challenger:
        raise InvalidDispute(body.dispute, "the challenger names the operator")
    last = len(unpack_trace(dispute.trace)) - 1
    if not 0 < body.operator <= last:
        raise InvalidDispute(body.dispute, f"operator {body.operator} is not one of 1 to {last}")
    _enter(draft, body.dispute, replace(dispute, operator=body.operator, phase=DisputePhase.EXHIBIT))


def apply_post_exhibit(draft: Draft, context: TransactionContext, body: PostExhibit) -> None:
    """Take what the named operator takes. Tensors must be those of the trace; of a blob, validators say so."""
    dispute = _get_dispute(draft, body.dispute, DisputePhase.EXHIBIT)
    if context.account != dispute.worker:
        raise InvalidDispute(body.dispute, "the worker publishes the exhibit")
    if len(body.exhibit) + len(body.blob) != 1:
        raise InvalidDispute(body.dispute, "an exhibit is either here or in a blob")
    said, trace = read_said(draft.models, dispute), unpack_trace(dispute.trace)
    for exhibit in body.exhibit:
        misfit = (
            find_misfit(trace, dispute.operator, exhibit)
            if said is None
            else find_step_misfit(said, dispute.step, trace, dispute.operator, exhibit)
        )
        if misfit:
            raise InvalidDispute(body.dispute, misfit)
    shown = encode(body.exhibit[0]) if body.exhibit else b""
    after = replace(dispute, exhibit=shown, blob=body.blob, epoch=draft.epoch, phase=DisputePhase.VERDICT)
    _enter(draft, body.dispute, after)


def apply_judge_operator(draft: Draft, context: TransactionContext, body: JudgeOperator) -> None:
    """Count a validator's word; end the dispute when more than two thirds of the stake agree."""
    dispute = _get_dispute(draft, body.dispute, DisputePhase.VERDICT)
    if body.judgement not in list(Judgement) or (body.judgement == Judgement.MISSING and not dispute.blob):
        raise InvalidDispute(body.dispute, f"{body.judgement} is no judgement of this exhibit")
    weights = get_judges(draft.epochs.get(dispute.epoch), dispute)
    if context.account not in weights:
        raise InvalidDispute(body.dispute, f"validators of epoch {dispute.epoch} judge, none of them a party")
    if any(vote.account == context.account for vote in dispute.votes):
        raise AlreadySaid(body.dispute, dispute.operator)
    votes = (*dispute.votes, Vote(context.account, body.judgement))
    dispute = replace(dispute, votes=votes)
    draft.disputes.put(body.dispute, dispute)
    sound = sum(weights[vote.account] for vote in votes if vote.judgement == Judgement.SOUND)
    against = sum(weights[vote.account] for vote in votes) - sound
    if is_quorum(sound, sum(weights.values())):
        condemn_challenger(draft, body.dispute, dispute)
    elif is_quorum(against, sum(weights.values())):
        condemn_worker(draft, dispute)


def close_phase(draft: Draft, item: DueItem) -> None:
    """Due: somebody has been silent, or validators have not decided."""
    dispute = draft.disputes.get(item.id)
    if dispute is None or dispute.phase != item.kind - DISPUTE_KIND:
        return
    match dispute.phase:
        case DisputePhase.STEPS | DisputePhase.TRACE | DisputePhase.EXHIBIT:
            condemn_worker(draft, dispute)
        case DisputePhase.STEP | DisputePhase.NAME:
            condemn_challenger(draft, item.id, dispute)
        case _:
            part_undecided(draft, dispute)


def get_judges(snapshot: EpochSnapshot | None, dispute: Dispute) -> dict[bytes, int]:
    """Who judges, with what weight: the validators of the epoch in which the exhibit came, but no party."""
    validators = get_validators_of(snapshot) if snapshot is not None else ()
    parties = (dispute.worker, dispute.challenger)
    return {item.account: item.weight for item in validators if item.account not in parties}


def _find_claim(draft: Draft, context: TransactionContext, body: OpenDispute) -> tuple[Claim, bytes]:
    """What is disputed, and the digest the worker has opened for it."""
    if len(body.receipt) + len(body.leaf) != 1:
        raise InvalidDispute(context.id, "either a receipt or a leaf is disputed")
    for leaf in body.leaf:
        return _find_leaf(draft, context, leaf, body.output_digest)
    receipt, claim = body.receipt[0], body.receipt[0].claim
    candidate = get_snapshot(draft, claim.epoch).find_candidate(claim.worker)
    if candidate is None or not candidate.serves(claim.model):
        raise InvalidDispute(
            context.id, f"node {format_node(claim.worker)} did not serve this model in epoch {claim.epoch}"
        )
    if compute_commitment(receipt.salt, receipt.output_digest) != claim.commitment:
        raise InvalidDispute(context.id, "the receipt does not open the claim")
    # A worker keeps what it needs to answer for so long, or until its batch is over.
    latest_ms = claim.deadline_ms + draft.params.challenge_ms
    # By the last block's time, so that an outage ends nobody's time; and whoever sees that block knows that it is over.
    is_late = draft.base.time_ms > latest_ms
    if is_late and not find_held(draft, candidate.account, claim) and not _is_shown(draft, claim):
        raise InvalidDispute(context.id, f"the claim could be disputed until {latest_ms}")
    context.verify_signed(claim, claim.worker)
    return claim, receipt.output_digest


def _is_shown(draft: Draft, claim: Claim) -> bool:
    """Whether the ledger itself holds the receipt, so that whoever it concerns has time to dispute it."""
    demand = draft.demands.get(compute_claim_id(claim))
    return is_contested(draft.runs.get(claim.channel), claim) or (demand is not None and bool(demand.receipt))


def _find_leaf(
    draft: Draft, context: TransactionContext, leaf: CheckedLeaf, output_digest: bytes
) -> tuple[Claim, bytes]:
    check = draft.checks.get(compute_check_key(leaf.batch, leaf.index))
    if check is None or not check.output_digest:
        raise InvalidDispute(context.id, f"leaf {leaf.index} of batch {leaf.batch.hex()} is not open")
    own = next((item for item in check.checkers if item.account == context.account), None)
    if own is None or own.value != compute_attestation(compute_claim_id(check.claim), own.node, output_digest):
        raise InvalidDispute(context.id, f"the digest opens no attestation of leaf {leaf.index} by this account")
    return check.claim, check.output_digest


def _find_shown(draft: Draft, body: OpenDispute) -> bytes:
    """The whole run in question, if the worker had to show outputs of the leaf in dispute; empty if not."""
    checks = (draft.checks.get(compute_check_key(leaf.batch, leaf.index)) for leaf in body.leaf)
    runs = (WholeRun(check.request.inputs, check.outputs) for check in checks if check is not None and check.outputs)
    return next((encode(run) for run in runs), b"")


def _get_dispute(draft: Draft, key: bytes, phase: DisputePhase) -> Dispute:
    dispute = draft.disputes.get(key)
    if dispute is None:
        raise UnknownDispute(key)
    if dispute.phase != phase:
        raise InvalidDispute(key, f"it waits for its {DisputePhase(dispute.phase).name.lower()}")
    return dispute


def _enter(draft: Draft, key: bytes, dispute: Dispute) -> None:
    """Begin the dispute's phase, whose deadline punishes silence."""
    deadline_ms = draft.time_ms + draft.params.dispute_ms
    draft.disputes.put(key, replace(dispute, deadline_ms=deadline_ms))
    draft.plan(DueItem(deadline_ms, DISPUTE_KIND + dispute.phase, key, waking=1, graced=0))
