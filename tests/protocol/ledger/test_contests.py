"""Contested runs: a dissenter disputes or counts for nothing, and whichever way it ends the run ends once."""

from dataclasses import replace

import pytest

from protocol.ledger.errors import InvalidSignature
from protocol.ledger.escrow import OpenJob, RefuseJob, SettleJob
from protocol.ledger.job_errors import InvalidJobWork, NotYourJob, UnknownJob
from protocol.ledger.records import WorkCount
from protocol.ledger.state import compute_supply
from protocol.ledger.workflow_records import Tick
from protocol.ledger.workflows import EndWorkflow
from protocol.proofs.trace import Judgement
from protocol.workflow import Outcome
from tests.support.disputes import Quarrel
from tests.support.jobs import PRICE, draw
from tests.support.ledgers import Ledger
from tests.support.workflows import (
    MODEL,
    NAME,
    OTHER,
    contest,
    do_run,
    find_worker,
    found,
    get_workflow,
    list_runs,
    make_outputs,
    settle,
    start,
)


class Case:
    """A run of a workflow that one verifier of two does not find what its worker says of."""

    def __init__(self, ticks: int = 1, **changes: object) -> None:
        self.ledger = found()
        start(self.ledger, ticks=ticks, **changes)
        [(self.job, self.run)] = list_runs(self.ledger)
        self.owner = self.ledger.account("client-0").public
        self.held = self.ledger.state.get_balance(self.owner)
        self.name = find_worker(self.ledger, self.job)
        self.worker = self.ledger.account(self.name)
        self.body = contest(self.ledger, self.job)
        nodes = {self.ledger.node(name).public: name for name in self.ledger.foundation.nodes}
        self.agreeing, self.dissenting = (nodes[node] for node in draw(self.ledger.state, self.body.receipt))

    def begin(self) -> "Case":
        self.ledger.do(self.worker, self.body, after_ms=1)
        return self

    def wait(self, wait_ms: int) -> None:
        """Until the first block that reaches a deadline, and until its grace is over."""
        self.ledger.block(after_ms=wait_ms)
        self.ledger.block(after_ms=self.ledger.state.params.grace_ms)

    def dispute(self) -> Quarrel:
        return Quarrel(self.ledger, self.dissenting, self.body.receipt).open()

    def count(self, name: str) -> WorkCount:
        return self.ledger.state.work[self.ledger.account(name).public]

    def get_tick(self) -> Tick:
        [tick] = get_workflow(self.ledger).past
        return tick

    @property
    def is_given_back(self) -> bool:
        """Whether the owner, whose workflow is over, has its whole budget again."""
        return self.ledger.state.get_balance(self.owner) == self.held + 1_000 * PRICE

    @property
    def bond(self) -> int:
        return self.ledger.state.nodes[self.worker.public].bond


def test_a_run_that_nobody_disputes_is_settled_with_those_who_agree() -> None:
    case = Case().begin()
    ledger, params = case.ledger, case.ledger.state.params
    assert ledger.state.runs[case.job].contest[0].receipt == case.body.receipt
    ledger.block(after_ms=params.dispute_window_ms)
    assert case.get_tick().outcome == Outcome.RUNNING  # the dissenter has the grace of every silence
    paid = {name: ledger.state.get_balance(ledger.account(name).public) for name in (case.agreeing, case.dissenting)}

    ledger.block(after_ms=params.grace_ms)

    assert (case.get_tick().outcome, case.get_tick().value) == (Outcome.DONE, (7,))
    feed = ledger.state.feeds[NAME]
    assert (feed.value, feed.observers) == (7, 1)
    assert get_workflow(ledger).budget == 999 * PRICE
    assert (case.count(case.name).paid, case.count(case.agreeing).agreed) == (1, 1)
    assert (case.count(case.dissenting).agreed, case.count(case.dissenting).minority) == (0, 1)
    ledger.block(after_ms=params.settle_window_ms)
    after = {name: ledger.state.get_balance(ledger.account(name).public) for name in paid}
    assert after[case.agreeing] == paid[case.agreeing] + PRICE * params.inference_verifiers_bp // 10_000
    assert after[case.dissenting] == paid[case.dissenting]
    assert not ledger.state.jobs


def test_a_worker_that_is_found_wrong_is_slashed_and_the_runs_money_is_budget_again() -> None:
    case = Case().begin()
    ledger, bond = case.ledger, case.bond
    case.dispute()

    case.wait(ledger.state.params.dispute_ms)  # the worker shows no trace

    assert case.bond < bond
    assert case.get_tick().outcome == Outcome.FAILED
    assert case.is_given_back
    assert not ledger.state.jobs
    assert not ledger.state.feeds[NAME].reports
    case.wait(ledger.state.params.dispute_window_ms)
    assert not ledger.state.pending
    assert isinstance(ledger.refuse(case.worker, case.body), UnknownJob)


def test_a_verifier_that_disputes_the_truth_loses_its_bond_and_the_run_is_settled() -> None:
    case = Case(ticks=1).begin()
    ledger, burned = case.ledger, case.ledger.state.burned
    quarrel = case.dispute().trace_it().name_it().show_it()
    while ledger.state.time_ms < quarrel.held.deadline_ms - 1_000:
        ledger.block(after_ms=1_000)  # the window passes while the dispute is open
        assert case.get_tick().outcome == Outcome.RUNNING
    quarrel.vote(Judgement.SOUND, 0)
    assert quarrel.is_over
    assert ledger.state.burned > burned + ledger.state.params.dispute_bond // 3

    case.wait(2 * ledger.state.params.grace_ms)
    case.wait(ledger.state.params.dispute_ms)

    assert (case.get_tick().outcome, case.get_tick().value) == (Outcome.DONE, (7,))


def test_what_validators_do_not_decide_gives_the_money_back_and_slashes_nobody() -> None:
    case = Case().begin()
    ledger, bond = case.ledger, case.bond
    quarrel = case.dispute().trace_it().name_it().show_it()

    case.wait(ledger.state.params.dispute_ms)

    assert quarrel.is_over
    assert case.bond == bond
    assert case.get_tick().outcome == Outcome.FAILED
    assert case.is_given_back


def test_a_contested_run_is_ended_by_nothing_else() -> None:
    case = Case().begin()
    ledger = case.ledger
    for body in (case.body, settle(ledger, case.job), RefuseJob(case.job)):
        assert isinstance(ledger.refuse(case.worker, body), InvalidJobWork)
    case.wait(1_000)  # past the run's own deadline
    assert case.get_tick().outcome == Outcome.RUNNING


def test_the_receipt_of_a_contested_run_can_be_disputed_after_the_time_for_others() -> None:
    case = Case(timeout_ms=1_000)
    case.ledger.state = replace(
        case.ledger.state, params=replace(case.ledger.state.params, challenge_ms=500, dispute_window_ms=20_000)
    )
    case.begin()
    case.ledger.block(after_ms=5_000)
    case.dispute()
    assert len(case.ledger.state.disputes) == 1


def test_a_workflow_that_ends_waits_for_its_contested_run() -> None:
    case = Case(ticks=5).begin()
    ledger = case.ledger
    ledger.do(ledger.account("client-0"), EndWorkflow(NAME), after_ms=1)
    while ledger.state.runs:
        assert not get_workflow(ledger).ended_ms
        ledger.block(after_ms=200)
    ledger.block(after_ms=200)
    workflow = get_workflow(ledger)
    assert (workflow.done, workflow.budget, bool(workflow.ended_ms)) == (1, 0, True)
    assert compute_supply(ledger.state) == ledger.state.supply


def test_a_value_that_the_next_ticks_has_overtaken_is_told_and_paid_and_not_the_feeds() -> None:
    case = Case(ticks=5).begin()
    ledger, every_ms = case.ledger, get_workflow(case.ledger).every_ms
    ledger.block(after_ms=get_workflow(ledger).next_tick * every_ms - ledger.state.time_ms)
    newer = next(job for job, _ in list_runs(ledger) if job != case.job)
    ledger.do(ledger.account(find_worker(ledger, newer)), settle(ledger, newer, 8), after_ms=1)
    while case.job in ledger.state.runs:
        ledger.block(after_ms=500)
    first, second = get_workflow(ledger).past[:2]
    assert (first.outcome, first.value) == (Outcome.LATE, (7,))
    assert (second.outcome, second.value) == (Outcome.DONE, (8,))
    assert ledger.state.feeds[NAME].value == 8
    assert get_workflow(ledger).done == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("all agree", "2 of 2 agree"),
        ("nobody agrees", "0 of 2 agree"),
        ("one missing", "attested by 1"),
        ("of another claim", "of another claim"),
        ("outputs", "do not have the digest"),
        ("fee", "asks"),
        ("float", "may differ"),
    ],
)
def test_a_run_is_contested_with_what_shows_it_and_nothing_else(wrong: str, reason: str) -> None:
    case = Case()
    ledger, good = case.ledger, case.body
    match wrong:
        case "all agree":
            bad = contest(ledger, case.job, dissenting=())
        case "nobody agrees":
            bad = contest(ledger, case.job, dissenting=(0, 1))
        case "one missing":
            bad = replace(good, attestations=good.attestations[:1])
        case "of another claim":
            bad = replace(contest(ledger, case.job, value=8), attestations=good.attestations)
        case "outputs":
            bad = replace(good, outputs=make_outputs(8))
        case "fee":
            bad = replace(good, receipt=do_run(ledger, case.job, fee=3 * PRICE))
        case _:
            bad = good
            make_inexact(ledger)
    error = ledger.refuse(case.worker, bad)
    assert isinstance(error, InvalidJobWork)
    assert reason in str(error)


def test_nobody_else_contests_a_run_and_nothing_that_is_not_signed() -> None:
    case = Case()
    ledger, body = case.ledger, case.body
    assert isinstance(ledger.refuse(ledger.account(case.dissenting), body), NotYourJob)
    claim = replace(body.receipt.claim, signature=bytes(64))
    unsigned = replace(body, receipt=replace(body.receipt, claim=claim))
    assert isinstance(ledger.refuse(case.worker, unsigned), InvalidSignature)
    forged = tuple(replace(item, signature=bytes(64)) for item in body.attestations)
    assert isinstance(ledger.refuse(case.worker, replace(body, attestations=forged)), InvalidSignature)


def test_a_job_of_a_client_is_not_contested() -> None:
    case = Case()
    ledger = case.ledger
    order = OpenJob(case.worker.public, PRICE, b"r" * 32, 2, ledger.state.time_ms + 5_000)
    opened = ledger.sign(ledger.account("client-0"), order)
    assert ledger.block(opened, after_ms=1) == []
    assert isinstance(ledger.refuse(case.worker, replace(case.body, job=opened.id)), UnknownJob)


def test_a_settlement_is_what_all_agree_on() -> None:
    case = Case()
    body = case.body
    claim, digest = body.receipt.claim, body.receipt.output_digest
    mixed = SettleJob(case.job, claim, body.receipt.salt, digest, body.attestations, body.outputs)
    assert isinstance(case.ledger.refuse(case.worker, mixed), InvalidJobWork)
    assert digest != OTHER


def make_inexact(ledger: Ledger) -> None:
    models = dict(ledger.state.models) | {MODEL.digest: replace(MODEL, exact=0)}
    ledger.state = replace(ledger.state, models=models)
    ledger.state = replace(ledger.state, tree=ledger.rebuild())
