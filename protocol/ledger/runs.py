"""What becomes of a workflow's ticks: the tally on its record, the run that is open, the value that comes of it."""

from dataclasses import replace

from protocol.jobs import Claim
from protocol.ledger.draft import Draft
from protocol.ledger.job_records import Job
from protocol.ledger.oracle import take_value
from protocol.ledger.workflow_records import Run, Tick, Workflow
from protocol.tensor import Tensor, compute_tensors_digest
from protocol.workflow import DoesNotFit, Outcome, is_missed, read_result

TICKS_KEPT = 32  # on a workflow's record, those that run among them; the tallies count all


def note_ticks(workflow: Workflow, tick: Tick) -> Workflow:
    """The record with one more word on it. Ticks missed one after the other for one reason are one word."""
    past = workflow.past
    count = tick.last - tick.first + 1
    if is_missed(tick.outcome):
        workflow = replace(workflow, missed=workflow.missed + count)
        last = past[-1] if past else None
        if last is not None and (last.outcome, last.last + 1) == (tick.outcome, tick.first):
            past, tick = past[:-1], replace(tick, first=last.first)
    else:
        workflow = replace(workflow, fired=workflow.fired + count)
    return replace(workflow, past=_drop_oldest((*past, tick)))


def find_run_fault(run: Run, claim: Claim, output_digest: bytes, outputs: tuple[Tensor, ...]) -> str:
    """Where a claim is not of what the ledger asked for, or the outputs are not those claimed; empty when nowhere."""
    request = run.request
    for name in ("model", "epoch", "deadline_ms"):
        if getattr(claim, name) != getattr(request, name):
            return f"claim and run differ in {name}"
    if claim.input_digest != compute_tensors_digest(request.inputs):
        return "the claim names other inputs than the run"
    if not outputs or compute_tensors_digest(outputs) != output_digest:
        return "a run is settled with its outputs, and these do not have the digest"
    return ""


def end_run(draft: Draft, key: bytes, job: Job, refund: int, outputs: tuple[Tensor, ...], volume: int) -> None:
    """The job of a run has ended: what it has not cost is budget again, what it found is the workflow's next value."""
    run = draft.runs.get(key)
    assert run is not None  # it is there as long as its job
    draft.runs.delete(key)
    workflow = draft.workflows.get(run.workflow)
    if workflow is None or workflow.ended_ms:
        draft.credit(job.payer, refund)
    else:
        workflow = replace(workflow, budget=workflow.budget + refund)
    if workflow is None:
        return
    outcome, value = _publish(draft, workflow, run, outputs, volume)
    past = tuple(replace(tick, outcome=outcome, value=value) if tick.job == key else tick for tick in workflow.past)
    done = workflow.done + (outcome == Outcome.DONE)
    draft.workflows.put(run.workflow, replace(workflow, past=past, done=done))


def give_back_run(draft: Draft, claim: Claim) -> None:
    """A contested run whose claim has been found wrong, or that nobody could decide: its money is budget again."""
    job, run = draft.jobs.get(claim.channel), draft.runs.get(claim.channel)
    if job is not None and run is not None and is_contested(run, claim):
        draft.jobs.delete(claim.channel)
        end_run(draft, claim.channel, job, job.amount, (), 0)


def is_contested(run: Run | None, claim: Claim) -> bool:
    """Whether this is a run whose worker stands by this claim (`contests`)."""
    return run is not None and any(contest.receipt.claim == claim for contest in run.contest)


def _drop_oldest(past: tuple[Tick, ...]) -> tuple[Tick, ...]:
    """Without the oldest word, if there are too many. Those of runs stay until they have ended: they are few."""
    if len(past) <= TICKS_KEPT:
        return past
    at = next(number for number, tick in enumerate(past) if tick.outcome != Outcome.RUNNING)
    return past[:at] + past[at + 1 :]


def _publish(
    draft: Draft, workflow: Workflow, run: Run, outputs: tuple[Tensor, ...], volume: int
) -> tuple[Outcome, tuple[int, ...]]:
    """What became of the run, and its value, if it has one. The feed takes none that another tick's has overtaken."""
    terms, feed = draft.feed_terms.get(workflow.name), draft.feeds.get(workflow.name)
    if not outputs or terms is None or feed is None or terms.retired_ms:
        return Outcome.FAILED, ()
    try:
        value = read_result(outputs, terms.decimals)
    except DoesNotFit:
        return Outcome.FAILED, ()  # its worker did what it was asked, and is paid
    if run.tick <= feed.round:
        return Outcome.LATE, (value,)
    position = replace(feed, round=run.tick, sequence=0)
    take_value(draft, terms, feed, position, value, run.tick * workflow.every_ms, volume)
    return Outcome.DONE, (value,)
