"""Workflows: a model, a query over feeds, a schedule, an end and a budget; the ledger itself asks for each run.

A tick is a due item, so it needs no leader and nobody can fire it twice: the block that reaches it opens one escrowed
job for a worker drawn like any other, whose input is the query at that very state. What keeps a tick from being fired
is noted with it. Results are values of a feed with the workflow's name, and have a history like others.
"""

import hashlib
from dataclasses import replace

from protocol.candles import NoHistory, choose_level, compute_feed_key, compute_page_key, fill_candles, read_candles
from protocol.committee import compute_committee, compute_order, compute_working_set
from protocol.content import format_cid
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import VERIFIERS_MIN, InferenceRequest, compute_request_id
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import LimitReached
from protocol.ledger.escrow import JOB_KIND
from protocol.ledger.feed_errors import InvalidWorkflow, NotYourWorkflow, UnknownWorkflow
from protocol.ledger.feed_records import CandlePage, FeedTerms
from protocol.ledger.feeds import (
    DECIMALS_MAX,
    FEED_KIND,
    HEARTBEAT_MS_MAX,
    HEARTBEAT_MS_MIN,
    FeedSource,
    is_name,
    is_stale,
    put_feed,
)
from protocol.ledger.job_errors import TooFewCandidates
from protocol.ledger.job_records import Job
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.params import DELAY_MS_MAX
from protocol.ledger.records import DueItem
from protocol.ledger.runs import note_ticks
from protocol.ledger.transactions import transaction
from protocol.ledger.workflow_records import Run, Tick, Workflow
from protocol.queries import InputQueries, SeriesQuery
from protocol.signing import compute_domain_prefix
from protocol.tensor import Tensor
from protocol.types import Digest, Grains, Name, Whole
from protocol.workflow import DoesNotFit, Outcome, find_fault, list_values, make_input

TICK_KIND = 66
END_KIND = 67
WORKFLOWS_MAX = 128
TIMEOUT_MS_MIN, TIMEOUT_MS_MAX = 1_000, 60_000  # gossip takes no claim of a later deadline
RUNNING_MAX = 8  # runs of one workflow at a time: each holds its inputs
_RUN_PREFIX = compute_domain_prefix("run")


class _Missed(Exception):
    """A tick cannot be fired."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@transaction(64)
@fast_dataclass(frozen=True)
class AddWorkflow:
    """Schedules a model from the next whole multiple of `every_ms` on. Locks the budget, and a deposit for its feed."""

    name: Name
    model: Digest
    inputs: InputQueries  # one for each of the model's
    every_ms: Whole
    end_ms: Whole  # the last tick is not after it
    fee: Grains  # the most one tick costs
    verifiers: Whole
    timeout_ms: Whole  # for each run
    budget: Grains
    decimals: Whole  # of its results
    age_ms_max: Whole  # of a result that others use


@transaction(65)
@fast_dataclass(frozen=True)
class EndWorkflow:
    """No more ticks."""

    name: Name


def compute_run_key(workflow: bytes, tick: int) -> bytes:
    """The id of the job that a tick opens."""
    return hashlib.sha256(_RUN_PREFIX + workflow + tick.to_bytes(8, "big")).digest()


def apply_add_workflow(draft: Draft, context: TransactionContext, body: AddWorkflow) -> None:
    reason = _find_fault(draft, body)
    if reason:
        raise InvalidWorkflow(reason)
    if len(draft.workflows) >= WORKFLOWS_MAX:
        raise LimitReached("workflows", len(draft.workflows), WORKFLOWS_MAX)
    deposit = draft.params.model_deposit
    draft.debit(context.account, body.budget + deposit)
    put_feed(draft, _make_terms(body, context.account, deposit))
    first = draft.time_ms // body.every_ms + 1
    workflow = Workflow(
        name=body.name,
        owner=context.account,
        model=body.model,
        inputs=body.inputs,
        every_ms=body.every_ms,
        end_ms=body.end_ms,
        fee=body.fee,
        verifiers=body.verifiers,
        timeout_ms=body.timeout_ms,
        budget=body.budget,
        next_tick=first,
    )
    _go_on(draft, workflow)


def apply_end_workflow(draft: Draft, context: TransactionContext, body: EndWorkflow) -> None:
    workflow = draft.workflows.get(compute_feed_key(body.name))
    if workflow is None or not workflow.next_tick:
        raise UnknownWorkflow(body.name)
    if workflow.owner != context.account:
        raise NotYourWorkflow(body.name, context.account)
    _end(draft, workflow)


def fire(draft: Draft, item: DueItem) -> None:
    """Due: the tick that the block's time falls into is fired or missed; those before it were slept through."""
    workflow = draft.workflows.get(item.id)
    if workflow is None or workflow.ended_ms or workflow.next_tick * workflow.every_ms != item.time_ms:
        return
    newest = min(draft.time_ms, workflow.end_ms) // workflow.every_ms
    if newest > workflow.next_tick:
        slept = Tick(workflow.next_tick, newest - 1, Outcome.ASLEEP)
        workflow = replace(note_ticks(workflow, slept), next_tick=newest)
    try:
        workflow = _open_run(draft, workflow, newest)
    except _Missed as missed:
        workflow = note_ticks(workflow, Tick(newest, newest, missed.outcome))
    _go_on(draft, replace(workflow, next_tick=newest + 1))


def finish(draft: Draft, item: DueItem) -> None:
    """Due: its last run is over. What is left of the budget goes back; the feed is forgotten some time later."""
    workflow = draft.workflows.get(item.id)
    if workflow is None:
        return
    if count_running(workflow):  # a contested run may take longer than others
        draft.plan(replace(item, time_ms=draft.time_ms + draft.params.grace_ms))
        return
    draft.credit(workflow.owner, workflow.budget)
    draft.workflows.put(item.id, replace(workflow, budget=0, ended_ms=workflow.ended_ms or draft.time_ms))
    terms = draft.feed_terms.get(workflow.name)
    assert terms is not None  # it ends with its workflow
    draft.feed_terms.put(workflow.name, replace(terms, retired_ms=draft.time_ms))
    draft.plan(DueItem(draft.time_ms + draft.params.unbonding_ms, FEED_KIND, item.id, waking=1, graced=0))


def count_running(workflow: Workflow) -> int:
    return sum(tick.outcome == Outcome.RUNNING for tick in workflow.past)


def _go_on(draft: Draft, workflow: Workflow) -> None:
    """Plan the next tick, or the end when there is none, or nothing to pay it from."""
    key = compute_feed_key(workflow.name)
    tick_ms = workflow.next_tick * workflow.every_ms
    if tick_ms > workflow.end_ms or workflow.budget < workflow.fee:
        _end(draft, workflow)
        return
    draft.workflows.put(key, workflow)
    draft.plan(DueItem(tick_ms, TICK_KIND, key, waking=1, graced=0))


def _end(draft: Draft, workflow: Workflow) -> None:
    """No more ticks. The run that is open may still end as it would have."""
    key, params = compute_feed_key(workflow.name), draft.params
    draft.workflows.put(key, replace(workflow, next_tick=0))
    over_ms = draft.time_ms + workflow.timeout_ms + 2 * params.grace_ms
    draft.plan(DueItem(over_ms, END_KIND, key, waking=1, graced=0))


def _open_run(draft: Draft, workflow: Workflow, tick: int) -> Workflow:
    """The workflow with one more run. Raises _Missed, having changed nothing."""
    model = draft.models.get(workflow.model)
    if model is None or model.retired_ms:
        raise _Missed(Outcome.NO_MODEL)
    if workflow.budget < workflow.fee:
        raise _Missed(Outcome.NO_BUDGET)
    if count_running(workflow) >= RUNNING_MAX or len(draft.jobs) >= draft.params.jobs_max:
        raise _Missed(Outcome.NO_ROOM)
    key = compute_feed_key(workflow.name)
    job = compute_run_key(key, tick)
    request = InferenceRequest(
        chain=draft.base.chain,
        account=workflow.owner,
        client=key,  # no node: the result goes to the ledger
        model=workflow.model,
        inputs=_make_inputs(draft, workflow, model),
        inputs_blob=(),
        proof="reexec",
        verifiers=workflow.verifiers,
        fee_max=workflow.fee,
        epoch=draft.base.epoch,
        deadline_ms=draft.time_ms + workflow.timeout_ms,
        nonce=job[:16],
    )
    worker = _draw_worker(draft, workflow, request)
    request_id = compute_request_id(request)
    draft.jobs.put(job, Job(workflow.owner, worker, workflow.fee, request_id, workflow.verifiers))
    draft.runs.put(job, Run(key, tick, request))
    draft.plan(DueItem(request.deadline_ms, JOB_KIND, job, waking=1, graced=0))
    fired = note_ticks(workflow, Tick(tick, tick, Outcome.RUNNING, job=job))
    return replace(fired, budget=workflow.budget - workflow.fee)


def _make_inputs(draft: Draft, workflow: Workflow, model: ModelRecord) -> tuple[Tensor, ...]:
    """The answers to a workflow's queries, as its model takes them. Raises _Missed."""
    try:
        return tuple(
            make_input(spec, [number for series in query.series for number in _read_series(draft, series)])
            for query, spec in zip(workflow.inputs, model.inputs, strict=True)
        )
    except NoHistory as error:
        raise _Missed(Outcome.NO_HISTORY) from error
    except DoesNotFit as error:
        raise _Missed(Outcome.NO_FIT) from error


def _read_series(draft: Draft, series: SeriesQuery) -> list[tuple[int, int]]:
    """The numbers of one series with their decimals. Raises NoHistory, and _Missed when the feed is stale."""
    query = series.candles
    terms, feed = draft.feed_terms.get(query.feed), draft.feeds.get(query.feed)
    if terms is None or feed is None or is_stale(terms, feed, draft.time_ms):
        raise _Missed(Outcome.STALE)

    def get_page(level: int, slot: int) -> CandlePage | None:
        return draft.candles.get(compute_page_key(query.feed, level, slot))

    found = read_candles(query, terms.heartbeat_ms, draft.time_ms, get_page)
    candles = fill_candles(query, draft.time_ms, found)
    return [(value, terms.decimals) for value in list_values(candles, series.columns)]


def _draw_worker(draft: Draft, workflow: Workflow, request: InferenceRequest) -> bytes:
    """The account of the worker for a run: the first of its working set that serves for the fee. Raises _Missed."""
    snapshot, request_id = draft.base.get_epoch(draft.base.epoch), compute_request_id(request)
    candidates = () if snapshot is None else snapshot.candidates
    seed = b"" if snapshot is None else snapshot.seed
    willing = [item for item in candidates if item.price <= workflow.fee]
    nodes = compute_working_set(seed, workflow.owner, workflow.model, willing, draft.params.working_set)
    if not nodes:
        raise _Missed(Outcome.NO_WORKER)
    node = compute_order(request_id, nodes)[0]
    try:
        compute_committee(seed, request_id, node, candidates, workflow.verifiers)
    except TooFewCandidates as error:
        raise _Missed(Outcome.NO_VERIFIERS) from error
    return next(item.account for item in candidates if item.node == node)


def _make_terms(body: AddWorkflow, owner: bytes, deposit: int) -> FeedTerms:
    return FeedTerms(
        name=body.name,
        owner=owner,
        deposit=deposit,
        source=FeedSource.WORKFLOW,
        address="",
        path="",
        decimals=body.decimals,
        heartbeat_ms=body.every_ms,
        deviation_bp=0,
        outlier_bp=0,
        jump_bp=0,
        observers_min=body.verifiers,
        age_ms_max=body.age_ms_max,
        allowed=(),
    )


def _find_fault(draft: Draft, body: AddWorkflow) -> str:
    """What of a workflow cannot be; empty when nothing is wrong."""
    params = draft.params
    if not is_name(body.name):
        return f"a name is letters, digits, dots, dashes and underscores, at most 48, not {body.name!r}"
    model = draft.models.get(body.model)
    if model is None or model.retired_ms:
        return f"the ledger has no model {format_cid(body.model)} that is served"
    if not HEARTBEAT_MS_MIN <= body.every_ms <= HEARTBEAT_MS_MAX:
        return f"ticks are {HEARTBEAT_MS_MIN} to {HEARTBEAT_MS_MAX} ms apart, not {body.every_ms}"
    if not draft.time_ms // body.every_ms + 1 <= body.end_ms // body.every_ms or body.end_ms > DELAY_MS_MAX:
        return f"no tick comes before the end at {body.end_ms}"
    if not TIMEOUT_MS_MIN <= body.timeout_ms <= TIMEOUT_MS_MAX:
        return f"a run has {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX} ms, not {body.timeout_ms}"
    if not VERIFIERS_MIN <= body.verifiers <= params.verifiers_max:
        return f"a run has {VERIFIERS_MIN} to {params.verifiers_max} verifiers, not {body.verifiers}"
    if not 0 < body.fee <= body.budget:
        return f"a budget of {body.budget} grains pays no tick of {body.fee}"
    if body.decimals > DECIMALS_MAX or not HEARTBEAT_MS_MIN <= body.age_ms_max <= DELAY_MS_MAX:
        return f"results have up to {DECIMALS_MAX} decimals and an age of {HEARTBEAT_MS_MIN} ms at least"
    for series in (series for query in body.inputs for series in query.series):
        terms = draft.feed_terms.get(series.candles.feed)
        if terms is None or terms.retired_ms:
            return f"the ledger has no feed {series.candles.feed!r} that is reported on"
        try:
            choose_level(series.candles, terms.heartbeat_ms)
        except NoHistory as error:
            return str(error)
    return find_fault(body.inputs, model.inputs, model.outputs)
