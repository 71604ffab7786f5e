"""Workflows on the ledger: every tick is fired once or noted as missed, and what is found is a feed's next value."""

import random
from dataclasses import replace

import pytest

from protocol.candles import compute_feed_key
from protocol.check import check_message
from protocol.jobs import ClaimedWork
from protocol.ledger.escrow import RefuseJob
from protocol.ledger.feed_errors import InvalidFeed, InvalidWorkflow, NotYourFeed, NotYourWorkflow, UnknownWorkflow
from protocol.ledger.feeds import ObserveFeed, RetireFeed
from protocol.ledger.job_errors import InvalidJobWork
from protocol.ledger.model_records import TensorSpec
from protocol.ledger.models import RegisterModel, RetireModel
from protocol.ledger.runs import TICKS_KEPT
from protocol.ledger.state import compute_supply
from protocol.ledger.workflows import RUNNING_MAX, EndWorkflow, compute_run_key
from protocol.messages import Claims
from protocol.proofs.feed_proof import read_state_candles
from protocol.queries import CandleQuery, InputQuery, SeriesQuery
from protocol.signing import sign
from protocol.tensor import Tensor
from protocol.types import Verdict
from protocol.workflow import Outcome, is_missed
from tests.support.feeds import HEARTBEAT_MS, TERMS, report
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger
from tests.support.workflows import (
    EVERY_MS,
    MODEL,
    NAME,
    PARAMS,
    QUERY,
    contest,
    find_worker,
    found,
    get_workflow,
    go_to,
    keep_fresh,
    list_runs,
    make_body,
    settle,
    start,
)

# Registration


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "a b"}, "a name is"),
        ({"model": bytes(32)}, "no model"),
        ({"every_ms": 999}, "ticks are"),
        ({"end_ms": 1}, "no tick comes"),
        ({"timeout_ms": 999}, "a run has"),
        ({"timeout_ms": 60_001}, "a run has"),
        ({"verifiers": 1}, "verifiers"),
        ({"fee": 0}, "pays no tick"),
        ({"budget": 1}, "pays no tick"),
        ({"decimals": 13}, "results have"),
        ({"inputs": ()}, "takes 1 inputs"),
        ({"inputs": (InputQuery(()),)}, "wants columns"),
        ({"inputs": (InputQuery((replace(QUERY.series[0], columns=("mean",)),)),)}, "wants columns"),
        ({"inputs": (InputQuery((replace(QUERY.series[0], columns=("open", "close")),)),)}, "gives 6 numbers"),
        (
            {"inputs": (InputQuery((SeriesQuery(CandleQuery("none", HEARTBEAT_MS, 3), ("close",)),)),)},
            "no feed 'none'",
        ),
        (
            {"inputs": (InputQuery((SeriesQuery(CandleQuery(TERMS.name, 1_500, 3), ("close",)),)),)},
            "whole rounds",
        ),
    ],
)
def test_scheduled_work_that_cannot_be_is_refused_and_says_why(change, reason) -> None:
    ledger = found()
    error = ledger.refuse(ledger.account("client-0"), make_body(ledger, **change))
    assert isinstance(error, InvalidWorkflow)
    assert reason in str(error)


def test_a_workflow_takes_a_feeds_name_and_locks_its_budget() -> None:
    ledger = found()
    owner = ledger.account("client-0")
    assert isinstance(ledger.refuse(owner, make_body(ledger, name=TERMS.name)), InvalidFeed)
    before = ledger.state.get_balance(owner.public)
    ledger.do(owner, make_body(ledger))
    spent = before - ledger.state.get_balance(owner.public)
    assert spent == 1_000 * PRICE + PARAMS.model_deposit + PARAMS.base_fee_min
    assert isinstance(ledger.refuse(owner, RetireFeed(NAME)), NotYourFeed)


# Ticks


def test_a_tick_opens_one_job_with_the_query_at_its_state_and_a_worker_drawn() -> None:
    ledger = found()
    tick = start(ledger)
    [(job, run)] = list_runs(ledger)
    assert job == compute_run_key(compute_feed_key(NAME), tick)
    candles = read_state_candles(ledger.state, QUERY.series[0].candles)
    assert len(candles) == 3
    closes = b"".join(candle.close.to_bytes(8, "little") for candle in candles)
    assert run.request.inputs == (Tensor("int64", (1, 3), closes),)
    assert find_worker(ledger, job).startswith("inference-")
    assert ledger.state.jobs[job].amount == 2 * PRICE
    assert get_workflow(ledger).budget == 998 * PRICE
    assert [(item.first, item.outcome) for item in get_workflow(ledger).past] == [(tick, Outcome.RUNNING)]


def test_a_result_becomes_the_workflows_next_value_and_what_was_not_claimed_is_budget_again() -> None:
    ledger = found()
    tick = start(ledger)
    [(job, _)] = list_runs(ledger)
    worker = ledger.account(find_worker(ledger, job))
    ledger.do(worker, settle(ledger, job, value=42), after_ms=1)
    assert not ledger.state.runs
    assert job not in ledger.state.jobs
    feed = ledger.state.feeds[NAME]
    assert (feed.value, feed.round, feed.observers) == (42, tick, 2)
    workflow = get_workflow(ledger)
    assert (workflow.fired, workflow.missed, workflow.done, workflow.budget) == (1, 0, 1, 999 * PRICE)
    assert [(item.outcome, item.value) for item in workflow.past] == [(Outcome.DONE, (42,))]
    keep_fresh(ledger, (tick + 1) * EVERY_MS)
    found_candles = read_state_candles(ledger.state, CandleQuery(NAME, EVERY_MS, 4))
    assert [(candle.period, candle.close) for candle in found_candles] == [(tick, 42)]


def test_a_run_nobody_does_is_paid_back_and_noted_as_failed() -> None:
    ledger = found()
    start(ledger)
    keep_fresh(ledger, ledger.state.time_ms + 1_100)
    ledger.block(after_ms=200)
    workflow = get_workflow(ledger)
    assert not ledger.state.runs
    assert (workflow.fired, workflow.done, workflow.budget) == (1, 0, 1_000 * PRICE)
    assert [item.outcome for item in workflow.past] == [Outcome.FAILED]


def test_a_worker_that_refuses_ends_the_run() -> None:
    ledger = found()
    start(ledger)
    [(job, _)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, job)), RefuseJob(job), after_ms=1)
    assert [item.outcome for item in get_workflow(ledger).past] == [Outcome.FAILED]
    assert get_workflow(ledger).budget == 1_000 * PRICE


@pytest.mark.parametrize("wrong", ["outputs", "none", "inputs", "deadline"])
def test_a_run_is_settled_with_what_it_asked_for_and_nothing_else(wrong) -> None:
    ledger = found()
    start(ledger)
    [(job, run)] = list_runs(ledger)
    worker = ledger.account(find_worker(ledger, job))
    good = settle(ledger, job)
    bad = {
        "outputs": replace(good, outputs=(Tensor("int64", (1, 1), bytes(8)),)),
        "none": replace(good, outputs=()),
        "inputs": settle(ledger, job, inputs=(Tensor("int64", (1, 3), bytes(24)),)),
        "deadline": settle(ledger, job, deadline_ms=run.request.deadline_ms + 1),
    }[wrong]
    assert isinstance(ledger.refuse(worker, bad), InvalidJobWork)
    ledger.do(worker, good, after_ms=1)


def test_a_result_below_nought_is_a_value_like_any_other() -> None:
    ledger = found()
    tick = start(ledger)
    [(job, _)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, -7), after_ms=1)
    assert [(item.outcome, item.value) for item in get_workflow(ledger).past] == [(Outcome.DONE, (-7,))]
    assert ledger.state.feeds[NAME].value == -7
    keep_fresh(ledger, (tick + 1) * EVERY_MS)
    [candle] = read_state_candles(ledger.state, CandleQuery(NAME, EVERY_MS, 4))
    assert (candle.high, candle.close) == (-7, -7)


def test_a_result_that_no_feed_holds_is_paid_and_noted_as_failed() -> None:
    ledger = found()
    start(ledger)
    [(job, _)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, -(2**63)), after_ms=1)
    assert [item.outcome for item in get_workflow(ledger).past] == [Outcome.FAILED]
    assert ledger.state.pending
    assert not ledger.state.feeds[NAME].reports


def test_a_ledger_that_slept_fires_the_tick_it_wakes_in_and_notes_the_rest_as_one() -> None:
    ledger = found()
    ledger.do(ledger.account("client-0"), make_body(ledger), after_ms=1)
    first = get_workflow(ledger).next_tick
    go_to(ledger, (first + 4) * EVERY_MS + 300)
    workflow = get_workflow(ledger)
    assert (workflow.fired, workflow.missed, workflow.next_tick) == (0, 5, first + 5)  # its feed slept too
    assert [(item.first, item.last, item.outcome) for item in workflow.past] == [
        (first, first + 3, Outcome.ASLEEP),
        (first + 4, first + 4, Outcome.STALE),
    ]


def test_stale_inputs_are_refused() -> None:
    ledger = found()
    ledger.do(ledger.account("client-0"), make_body(ledger), after_ms=1)
    first = get_workflow(ledger).next_tick
    for number in range(3):
        go_to(ledger, (first + number) * EVERY_MS)
    assert [item.outcome for item in get_workflow(ledger).past][-1] == Outcome.STALE
    for _ in range(2):
        keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS)
    assert [item.outcome for item in get_workflow(ledger).past][-1] == Outcome.RUNNING


@pytest.mark.parametrize("reason", [Outcome.NO_HISTORY, Outcome.NO_WORKER, Outcome.NO_VERIFIERS])
def test_a_tick_that_cannot_be_fired_says_why(reason) -> None:
    far = CandleQuery(TERMS.name, 12 * HEARTBEAT_MS, 3)
    change: dict[Outcome, dict[str, object]] = {
        Outcome.NO_HISTORY: {"inputs": (InputQuery((SeriesQuery(far, ("close",)),)),)},
        Outcome.NO_WORKER: {"fee": 1},
        Outcome.NO_VERIFIERS: {"verifiers": 4},
    }
    ledger = found()
    ledger.do(ledger.account("client-0"), make_body(ledger, **change[reason]), after_ms=1)
    tick = get_workflow(ledger).next_tick
    keep_fresh(ledger, tick * EVERY_MS)
    assert get_workflow(ledger).past[-1].outcome == reason
    assert (get_workflow(ledger).fired, get_workflow(ledger).missed) == (0, 1)


def test_a_workflow_has_so_many_runs_at_a_time() -> None:
    ledger = found()
    start(ledger, ticks=20, timeout_ms=60_000)
    for _ in range(RUNNING_MAX):
        keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS)
    assert [item.outcome for item in get_workflow(ledger).past] == [Outcome.RUNNING] * RUNNING_MAX + [Outcome.NO_ROOM]
    job, _ = list_runs(ledger)[0]
    ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job), after_ms=1)
    keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS)
    assert get_workflow(ledger).past[-1].outcome == Outcome.RUNNING


def register_own(ledger: Ledger, **changes: object) -> RegisterModel:
    """A model of client-0's that nobody serves yet."""
    own = RegisterModel(
        name="own",
        version=1,
        digest=b"o" * 32,
        size_bytes=1,
        exact=1,
        calibration=(),
        inputs=MODEL.inputs,
        outputs=MODEL.outputs,
        labels=(),
        rows_max=1,
    )
    body = replace(own, **changes)  # type: ignore[arg-type]
    ledger.do(ledger.account("client-0"), body, after_ms=1)
    return body


def test_a_retired_model_is_asked_no_more() -> None:
    ledger = found()
    owner, own = ledger.account("client-0"), register_own(ledger)
    ledger.do(owner, make_body(ledger, model=own.digest), after_ms=1)
    keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS)
    assert get_workflow(ledger).past[-1].outcome == Outcome.NO_WORKER
    ledger.do(owner, RetireModel(own.digest), after_ms=1)
    keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS)
    assert get_workflow(ledger).past[-1].outcome == Outcome.NO_MODEL


def test_numbers_that_a_model_does_not_take_are_not_cut_to_fit() -> None:
    ledger = found()
    own = register_own(ledger, inputs=(TensorSpec("uint8", (0, 3)),))
    ledger.do(ledger.account("client-0"), make_body(ledger, model=own.digest), after_ms=1)
    keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS, value=256)
    keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS, value=256)
    assert get_workflow(ledger).past[-1].outcome == Outcome.NO_FIT


def test_a_workflow_ends_with_its_end_and_with_its_budget_and_gives_back_what_is_left() -> None:
    for ticks, budget in ((2, 1_000 * PRICE), (10, 5 * PRICE)):
        ledger = found()
        owner = ledger.account("client-0")
        ledger.do(owner, make_body(ledger, ticks=ticks, budget=budget), after_ms=1)
        before = ledger.state.get_balance(owner.public)
        while get_workflow(ledger).next_tick:
            keep_fresh(ledger, get_workflow(ledger).next_tick * EVERY_MS)
            for job, _ in list_runs(ledger):
                ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, fee=2 * PRICE), after_ms=1)
        assert get_workflow(ledger).fired == 2
        ledger.block(after_ms=2_000)
        workflow = get_workflow(ledger)
        assert (workflow.budget, bool(workflow.ended_ms)) == (0, True)
        assert ledger.state.get_balance(owner.public) == before + budget - 4 * PRICE
        assert isinstance(ledger.refuse(owner, EndWorkflow(NAME)), UnknownWorkflow)
        ledger.block(after_ms=PARAMS.unbonding_ms)
        assert NAME not in ledger.state.feeds
        assert not ledger.state.workflows
        assert ledger.state.get_balance(owner.public) == before + budget - 4 * PRICE + PARAMS.model_deposit


def test_its_owner_ends_a_workflow_and_the_run_that_is_open_still_counts() -> None:
    ledger = found()
    start(ledger)
    [(job, _)] = list_runs(ledger)
    assert isinstance(ledger.refuse(ledger.spare(), EndWorkflow(NAME)), NotYourWorkflow)
    ledger.do(ledger.account("client-0"), EndWorkflow(NAME), after_ms=1)
    assert isinstance(ledger.refuse(ledger.account("client-0"), EndWorkflow(NAME)), UnknownWorkflow)
    ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, 9), after_ms=1)
    assert ledger.state.feeds[NAME].value == 9
    keep_fresh(ledger, ledger.state.time_ms + 3 * EVERY_MS)
    assert get_workflow(ledger).fired == 1
    assert not ledger.state.runs


def test_results_of_one_workflow_are_inputs_of_another() -> None:
    ledger = found()
    tick = start(ledger)
    ledger.do(
        ledger.account("client-0"),
        make_body(
            ledger,
            name="second",
            every_ms=3 * EVERY_MS,
            end_ms=ledger.state.time_ms + 10 * EVERY_MS,
            inputs=(InputQuery((SeriesQuery(CandleQuery(NAME, EVERY_MS, 3, 1), ("close",)),)),),
        ),
        after_ms=1,
    )
    for number in range(6):
        for job, run in list_runs(ledger):
            if run.workflow == compute_feed_key(NAME):
                ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, 10 + number), after_ms=1)
        keep_fresh(ledger, (tick + number + 1) * EVERY_MS)
    second = ledger.state.workflows[compute_feed_key("second")]
    assert second.fired >= 1
    outcome = second.past[-1]
    run = next((run for run in ledger.state.runs.values() if run.workflow == compute_feed_key("second")), None)
    assert outcome.outcome in (Outcome.RUNNING, Outcome.FAILED)
    if run is not None:
        values = [int.from_bytes(run.request.inputs[0].data[at : at + 8], "little") for at in (0, 8, 16)]
        assert values == sorted(values, reverse=True)


def test_gossip_passes_on_the_claim_of_a_run_and_no_other() -> None:
    ledger = found()
    start(ledger)
    [(job, run)] = list_runs(ledger)
    node = ledger.node(find_worker(ledger, job))

    def hear(**changes: object) -> Verdict:
        claim = sign(replace(settle(ledger, job).claim, **changes), node)  # type: ignore[arg-type]
        claims = Claims((ClaimedWork(claim, run.request),))
        return check_message("claims", node.public, claims, ledger.state, ledger.state.time_ms)[0]

    assert hear() is Verdict.ACCEPT
    assert hear(seq=1) is Verdict.IGNORE
    assert hear(channel=bytes(32)) is Verdict.IGNORE
    settlement = settle(ledger, job)
    ledger.do(ledger.account(find_worker(ledger, job)), settlement, after_ms=1)
    over = Claims((ClaimedWork(settlement.claim, run.request),))
    assert check_message("claims", node.public, over, ledger.state, ledger.state.time_ms)[0] is Verdict.IGNORE


def test_a_run_that_takes_long_stays_on_the_record() -> None:
    ledger = found(dispute_window_ms=200_000, unbonding_ms=10**7)
    first = start(ledger, ticks=2 * TICKS_KEPT)
    [(long, _)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, long)), contest(ledger, long), after_ms=1)
    for tick in range(first + 1, first + TICKS_KEPT + 4):
        keep_fresh(ledger, tick * EVERY_MS)
        for job, _ in list_runs(ledger):
            if job != long:
                ledger.do(ledger.account(find_worker(ledger, job)), RefuseJob(job), after_ms=1)
    past = get_workflow(ledger).past
    assert len(past) == TICKS_KEPT
    assert past[0].job == long


# Ten thousand ticks


def live(seed: int, ticks: int, is_light: bool) -> tuple[Ledger, int, set[int]]:
    """A workflow through sleeps, stale feeds and workers of all sorts; the ledger, its first tick, the ticks run."""
    rng = random.Random(seed)
    ledger = Ledger(
        {"validator": 1, "oracle": 1, "client": 1, "inference": 3, "verifier": 3},
        params=replace(PARAMS, grace_ms=100, dispute_window_ms=3_000, jobs_max=1 if seed % 3 == 0 else 100),
        models=(MODEL,),
        check_signatures=not is_light,
    )
    ledger.do(ledger.account("client-0"), replace(TERMS, jump_bp=0, outlier_bp=0))
    ledger.do(ledger.account("oracle-0"), ObserveFeed(TERMS.name, 1))
    body = make_body(ledger, ticks=ticks, budget=10**9, fee=2 * PRICE)
    ledger.do(ledger.account("client-0"), body, after_ms=1)
    first, runs = get_workflow(ledger).next_tick, set()
    while get_workflow(ledger).next_tick:
        due_ms = get_workflow(ledger).next_tick * EVERY_MS
        chance = rng.random()
        if chance < 0.05:
            go_to(ledger, due_ms + rng.randrange(1, 6 * EVERY_MS))
        elif chance < 0.1:
            go_to(ledger, due_ms)
        else:
            go_to(ledger, due_ms - HEARTBEAT_MS)
            ledger.block(ledger.sign(ledger.spare(), report(ledger, {"oracle-0": rng.randrange(1_000)})), after_ms=1)
            go_to(ledger, due_ms + rng.choice([0, 0, 1, 500, 999]))
        for job, run in list_runs(ledger):
            key = run.tick
            if key in runs:
                continue
            runs.add(key)
            deed = rng.random()
            if deed < 0.6:
                ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, rng.randrange(100)), after_ms=1)
            elif deed < 0.7:
                ledger.do(ledger.account(find_worker(ledger, job)), RefuseJob(job), after_ms=1)
            elif deed < 0.8:
                ledger.do(ledger.account(find_worker(ledger, job)), contest(ledger, job), after_ms=1)
    return ledger, first, runs


def check_ticks(ledger: Ledger, first: int, runs: set[int], ticks: int) -> None:
    """Each tick was fired once or is noted as missed, by the tallies and as far as the record reaches word for word."""
    workflow = get_workflow(ledger)
    assert workflow.fired == len(runs)
    assert workflow.fired + workflow.missed == ticks
    assert {first + number for number in range(ticks)} >= runs
    at = workflow.past[0].first
    for item in workflow.past:
        assert item.first == at
        assert (item.first in runs) == (not is_missed(item.outcome))
        at = item.last + 1
    assert at == first + ticks
    assert len(workflow.past) <= TICKS_KEPT
    assert compute_supply(ledger.state) == ledger.state.supply


@pytest.mark.parametrize("seed", [1, 3])
def test_through_sleeps_stale_feeds_and_bad_workers_each_tick_is_fired_once_or_noted(seed) -> None:
    ledger, first, runs = live(seed, ticks=60, is_light=False)
    check_ticks(ledger, first, runs, 60)
    assert 10 < len(runs) < 60


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_so_are_ten_thousand() -> None:
    for seed in range(10):
        ledger, first, runs = live(seed, ticks=1_000, is_light=True)
        check_ticks(ledger, first, runs, 1_000)
