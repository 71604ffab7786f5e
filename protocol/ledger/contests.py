"""Contested runs: some verifier drawn for a workflow's run finds something else than its worker says.

The worker puts its receipt on the ledger with what everyone drawn has attested. Whoever found something else disputes
it (`disputes`) until the window and its grace are over, or its word counts for nothing: then the run is settled, with
those who agree. A dispute that finds the worker wrong, or that nobody decides, gives the run's money back. So a lie
costs stake, and one verifier alone keeps no workflow from its results. Only models of the exact class: of others honest
machines may differ.
"""

from dataclasses import replace
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Attestation, Receipt, compute_attestation, compute_claim_id
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.escrow import get_open_job, pay_job, verify_job_claim
from protocol.ledger.job_errors import InvalidJobWork, UnknownJob
from protocol.ledger.records import DueItem
from protocol.ledger.runs import find_run_fault
from protocol.ledger.settlement import find_committee_fault, get_snapshot
from protocol.ledger.transactions import ATTESTATIONS_MAX, transaction
from protocol.ledger.workflow_records import Contest
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import AtMost, Digest

CONTEST_KIND = 78


@transaction(83)
@fast_dataclass(frozen=True)
class ContestRun:
    """A run's worker stands by its result. All drawn verifiers have attested, one at least this digest, not all."""

    job: Digest
    receipt: Receipt
    attestations: Annotated[tuple[Attestation, ...], AtMost(ATTESTATIONS_MAX)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


def apply_contest_run(draft: Draft, context: TransactionContext, body: ContestRun) -> None:
    """Begin the window in which the run can be disputed. Its deadline does not end it any more."""
    job, run = get_open_job(draft, context, body.job), draft.runs.get(body.job)
    if run is None:
        raise UnknownJob(body.job)
    receipt, claim = body.receipt, body.receipt.claim
    claim_id = compute_claim_id(claim)
    verify_job_claim(draft, body.job, job, claim, receipt.salt, receipt.output_digest)
    fault = find_run_fault(run, claim, receipt.output_digest, body.outputs)
    fault = fault or find_committee_fault(draft, claim, body.attestations)
    model = draft.models.get(claim.model)
    if not fault and (model is None or not model.exact):
        fault = "honest outputs of its model may differ, so nobody is held to them"
    if not fault and any(item.claim_id != claim_id for item in body.attestations):
        fault = "an attestation is of another claim"
    if fault:
        raise InvalidJobWork(body.job, fault)
    sides = _divide(draft, body, claim_id)
    if not sides.agreeing or not sides.dissenting:
        agree = f"{len(sides.agreeing)} of {len(body.attestations)} agree"
        reason = f"{agree}: a run is contested when some do and some do not"
        raise InvalidJobWork(body.job, reason)
    context.verify_signed(claim, claim.worker)
    for item in body.attestations:
        context.verify_signed(item, item.verifier)
    draft.runs.put(body.job, replace(run, contest=(sides,)))
    until_ms = draft.time_ms + draft.params.dispute_window_ms
    draft.plan(DueItem(until_ms, CONTEST_KIND, body.job, waking=1, graced=0))


def end_contest(draft: Draft, item: DueItem) -> None:
    """Due: nobody disputes the run any more. It is settled; one that was lost or undecided is no longer there."""
    run, job = draft.runs.get(item.id), draft.jobs.get(item.id)
    if run is None or job is None or not run.contest:
        return
    contest, params = run.contest[0], draft.params
    claim = contest.receipt.claim
    open_ms = [dispute.deadline_ms for _, dispute in draft.disputes.items() if dispute.claim == claim]
    if open_ms:
        draft.plan(replace(item, time_ms=max(*open_ms, draft.time_ms) + params.grace_ms))
        return
    pay_job(draft, item.id, item.id, job, claim, contest.agreeing, contest.outputs)
    # As in a batch: the worker is on the side of those who agree.
    if len(contest.dissenting) < 1 + len(contest.agreeing):
        for account in contest.dissenting:
            draft.count_work(account, minority=1)


def _divide(draft: Draft, body: ContestRun, claim_id: bytes) -> Contest:
    """Who has attested the worker's digest, and who another."""
    drawn = get_snapshot(draft, body.receipt.claim.epoch).by_node
    digest = body.receipt.output_digest
    is_alike = [item.value == compute_attestation(claim_id, item.verifier, digest) for item in body.attestations]
    words = list(zip(body.attestations, is_alike, strict=True))
    agreeing = tuple(drawn[item.verifier].account for item, alike in words if alike)
    dissenting = tuple(drawn[item.verifier].account for item, alike in words if not alike)
    return Contest(body.receipt, body.outputs, agreeing, dissenting)
