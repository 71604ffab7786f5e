"""What becomes of a workflow's ticks: the tally on its record, the run that is open, the value that comes of it."""

from dataclasses import replace

from protocol.jobs import Claim
from protocol.ledger.draft import Draft
from protocol.ledger.oracle import take_value
from protocol.ledger.records import Job, Run, Tick, Workflow
from protocol.tensor import Tensor, compute_tensors_digest
from protocol.workflow import DoesNotFit, Outcome, is_missed, read_result

TICKS_KEPT = 32  # on a workflow's record; the tallies count all


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
    return replace(workflow, past=(*past, tick)[-TICKS_KEPT:])


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


def end_run(draft: Draft, key: bytes, job: Job, refund: int, outputs: tuple[Tensor, ...] = (), volume: int = 0) -> None:
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
    value = _publish(draft, workflow, run, outputs, volume)
    outcome = Outcome.DONE if value else Outcome.FAILED
    past = tuple(replace(tick, outcome=outcome, value=value) if tick.job == key else tick for tick in workflow.past)
    draft.workflows.put(run.workflow, replace(workflow, past=past, done=workflow.done + len(value)))


def _publish(draft: Draft, workflow: Workflow, run: Run, outputs: tuple[Tensor, ...], volume: int) -> tuple[int, ...]:
    """The value that the feed has taken, if any. A tick that was overtaken by the next one comes too late."""
    terms, feed = draft.feed_terms.get(workflow.name), draft.feeds.get(workflow.name)
    if not outputs or terms is None or feed is None or terms.retired_ms or run.tick <= feed.round:
        return ()
    try:
        value = read_result(outputs, terms.decimals)
    except DoesNotFit:
        return ()  # told as a failed tick: its worker did what it was asked, and is paid
    position = replace(feed, round=run.tick, sequence=0)
    take_value(draft, terms, feed, position, value, run.tick * workflow.every_ms, volume)
    return (value,)
