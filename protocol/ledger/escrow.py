"""Escrowed jobs: money locked for one request, with exactly one end.

Open, a job ends settled, refused by its worker, or refunded when its deadline and the grace are over. Whatever ends it
takes it off the ledger, so that nothing can end it again.
"""

from collections import Counter
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import VERIFIERS_MIN, Attestation, Claim, compute_claim_id, compute_commitment
from protocol.keys import format_node
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import AlreadyProven, InvalidAmount, LimitReached, SelfPayment, UnknownNode
from protocol.ledger.job_errors import InvalidDeadline, InvalidJobWork, InvalidPolicy, NotYourJob, UnknownJob
from protocol.ledger.job_records import Job, Pending, Share
from protocol.ledger.money import split_inference_fee, tell_inference_split
from protocol.ledger.records import DueItem
from protocol.ledger.runs import end_run, find_run_fault
from protocol.ledger.settlement import LOST, PAYOUT_KIND, find_fault, get_snapshot, is_lost
from protocol.ledger.transactions import ATTESTATIONS_MAX, transaction
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import AtMost, Digest, Grains, PublicKey, TimeMs, Whole

JOB_KIND = 6


@transaction(24)
@fast_dataclass(frozen=True)
class OpenJob:
    """Locks `amount` for one request. The transaction's id is the job's, and stands for a channel in its claim."""

    payee: PublicKey
    amount: Grains
    request_id: Digest
    verifiers: Whole
    deadline_ms: TimeMs


@transaction(25)
@fast_dataclass(frozen=True)
class SettleJob:
    """The worker's claim for a job, opened, with everyone drawn attesting to it. Its sequence number is 0.

    `outputs` of scheduled work always, else where an attestation shows others: a float model's need only be near.
    """

    job: Digest
    claim: Claim
    salt: Digest
    output_digest: Digest
    attestations: Annotated[tuple[Attestation, ...], AtMost(ATTESTATIONS_MAX)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)] = ()


@transaction(26)
@fast_dataclass(frozen=True)
class RefuseJob:
    """The worker will not do it: the payer has its money back at once."""

    job: Digest


def apply_open_job(draft: Draft, context: TransactionContext, body: OpenJob) -> None:
    params = draft.params
    if not body.amount:
        raise InvalidAmount("a job", body.amount, 1)
    if body.payee == context.account:
        raise SelfPayment(context.account)
    latest_ms = draft.time_ms + params.job_ms_max
    if not draft.time_ms < body.deadline_ms <= latest_ms:
        raise InvalidDeadline(body.deadline_ms, draft.time_ms + 1, latest_ms)
    if not VERIFIERS_MIN <= body.verifiers <= params.verifiers_max:
        raise InvalidPolicy(body.verifiers, VERIFIERS_MIN, params.verifiers_max)
    if draft.nodes.get(body.payee) is None:
        raise UnknownNode(body.payee)
    if len(draft.jobs) >= params.jobs_max:
        raise LimitReached("jobs", len(draft.jobs), params.jobs_max)
    draft.debit(context.account, body.amount)
    job = Job(context.account, body.payee, body.amount, body.request_id, body.verifiers)
    draft.jobs.put(context.id, job)
    draft.plan(DueItem(body.deadline_ms, JOB_KIND, context.id, waking=1, graced=0))


def apply_settle_job(draft: Draft, context: TransactionContext, body: SettleJob) -> None:
    """The worker is paid what it claims, the payer gets the rest; payment waits for the window like any other."""
    job, claim = get_open_job(draft, context, body.job), body.claim
    claim_id = compute_claim_id(claim)
    verify_job_claim(draft, body.job, job, claim, body.salt, body.output_digest)
    run = draft.runs.get(body.job)
    shown = body.outputs if run is None or any(item.shown for item in body.attestations) else ()
    fault = find_fault(draft, context, claim, claim_id, body.attestations, body.output_digest, shown)
    if not fault and run is not None:
        fault = find_run_fault(run, claim, body.output_digest, body.outputs)
    if fault:
        raise InvalidJobWork(body.job, fault)
    context.verify_signed(claim, claim.worker)
    drawn = get_snapshot(draft, claim.epoch).by_node
    verifiers = tuple(drawn[item.verifier].account for item in body.attestations)
    pay_job(draft, context.id, body.job, job, claim, verifiers, body.outputs)


def apply_refuse_job(draft: Draft, context: TransactionContext, body: RefuseJob) -> None:
    job = get_open_job(draft, context, body.job)
    refund(draft, body.job, job)


def refund_job(draft: Draft, item: DueItem) -> None:
    """Due: nobody settled it in time. A contested run waits for the end of that."""
    job, run = draft.jobs.get(item.id), draft.runs.get(item.id)
    if job is not None and (run is None or not run.contest):
        refund(draft, item.id, job)


def refund(draft: Draft, key: bytes, job: Job) -> None:
    """The job ends without pay."""
    _end_job(draft, key, job, job.amount, (), 0)


def pay_job(
    draft: Draft,
    payment: bytes,
    key: bytes,
    job: Job,
    claim: Claim,
    verifiers: tuple[bytes, ...],
    outputs: tuple[Tensor, ...],
) -> None:
    """The job ends: its worker and the verifiers that agree, accounts, are paid when the window is over.

    `payment` is the id of that in the table of what is pending.
    """
    _end_job(draft, key, job, job.amount - claim.fee, outputs, len(verifiers))
    worker, each, treasury, burn = split_inference_fee(claim.fee, len(verifiers), draft.params)
    shares: Counter[bytes] = Counter({job.payee: worker})
    for account in verifiers:
        shares[account] += each
    tell_inference_split(draft, claim.fee, claim.model, job.payee, verifiers)
    paid = tuple(Share(account, amount) for account, amount in sorted(shares.items()) if amount)
    draft.pending.put(payment, Pending(paid, treasury, burn))
    draft.plan(DueItem(draft.time_ms + draft.params.settle_window_ms, PAYOUT_KIND, payment, waking=1, graced=0))
    draft.count_work(job.payee, paid=1, earned=claim.fee, burnt=burn)
    for account in verifiers:
        draft.count_work(account, agreed=1, burnt=burn // len(verifiers))


def get_open_job(draft: Draft, context: TransactionContext, key: bytes) -> Job:
    """A job that its worker may still end. UnknownJob, NotYourJob, or InvalidJobWork for a contested run."""
    job, run = draft.jobs.get(key), draft.runs.get(key)
    if job is None:
        raise UnknownJob(key)
    if job.payee != context.account:
        raise NotYourJob(key, context.account)
    if run is not None and run.contest:
        raise InvalidJobWork(key, "it is contested: the end of that ends it")
    return job


def verify_job_claim(draft: Draft, key: bytes, job: Job, claim: Claim, salt: bytes, output_digest: bytes) -> None:
    """InvalidJobWork or AlreadyProven unless the claim, opened by these, is of this job and may be paid."""
    if (claim.channel, claim.seq, claim.request_id) != (key, 0, job.request_id):
        raise InvalidJobWork(key, "the claim is of another job")
    if claim.verifiers != job.verifiers:
        raise InvalidJobWork(key, f"attested by {claim.verifiers}, the payer asked for {job.verifiers}")
    if claim.fee > job.amount:
        raise InvalidJobWork(key, f"the claim asks {claim.fee} grains of {job.amount}")
    owner = draft.node_owners.get(claim.worker)
    if owner is None or owner.account != job.payee:
        raise InvalidJobWork(key, f"the claim is of node {format_node(claim.worker)}, none of the worker's")
    if compute_commitment(salt, output_digest) != claim.commitment:
        raise InvalidJobWork(key, "salt and digest do not open the claim")
    claim_id = compute_claim_id(claim)
    if draft.wrong.get(claim_id) is not None:
        raise AlreadyProven(claim_id)
    if is_lost(draft, claim_id):
        raise InvalidJobWork(key, LOST)


def _end_job(draft: Draft, key: bytes, job: Job, rest: int, outputs: tuple[Tensor, ...], volume: int) -> None:
    """What is not paid goes back; the outputs of a run, attested by so many, are its workflow's next value."""
    draft.jobs.delete(key)
    draft.call_off(JOB_KIND, key)
    if draft.runs.get(key) is None:
        draft.credit(job.payer, rest)
    else:
        end_run(draft, key, job, rest, outputs, volume)
