"""Runs settled, refused, contested and disputed in any order: each ends once, and its money goes one way."""

import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.jobs import compute_claim_id
from protocol.ledger.contests import CONTEST_KIND
from protocol.ledger.escrow import JOB_KIND, RefuseJob
from protocol.proofs.trace import Judgement
from protocol.workflow import Outcome
from tests.support.activity import verify_activity
from tests.support.disputes import Quarrel
from tests.support.jobs import PRICE, draw
from tests.support.workflows import (
    EVERY_MS,
    contest,
    find_worker,
    found,
    get_workflow,
    keep_fresh,
    settle,
    start,
)


class ContestMachine(RuleBasedStateMachine):
    """One workflow whose worker, verifiers and validator do as they please."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.ledger = found(dispute_ms=2_000, dispute_window_ms=2_000, unbonding_ms=10**7)
        start(self.ledger, ticks=60, timeout_ms=1_500)
        self.first, self.count = self.ledger.state, len(self.ledger.blocks)
        self.quarrels: list[Quarrel] = []
        self.open: set[bytes] = set()
        self.ended: Counter[bytes] = Counter()
        self.look()

    def look(self) -> None:
        runs = set(self.ledger.state.runs)
        self.ended.update(self.open - runs)
        self.open = runs

    def pick(self, number: int) -> bytes:
        return sorted(self.ledger.state.runs)[number % len(self.ledger.state.runs)]

    def send(self, name: str, body: object) -> bool:
        taken = not self.ledger.block(self.ledger.sign(self.ledger.account(name), body), after_ms=1)
        self.look()
        return taken

    @rule(after_ms=st.sampled_from((100, 700, 2_200, 2_300, 9_000)))
    def wait(self, after_ms: int) -> None:
        self.ledger.block(after_ms=after_ms)
        self.look()

    @rule()
    def fire(self) -> None:
        """The next tick, on fresh inputs."""
        tick = get_workflow(self.ledger).next_tick
        if tick and tick * EVERY_MS - self.ledger.state.time_ms < 10_000:
            keep_fresh(self.ledger, tick * EVERY_MS)
            self.look()

    @rule(number=st.integers(0, 9), deed=st.sampled_from(("settle", "refuse", "contest", "contest", "contest")))
    def end(self, number: int, deed: str) -> None:
        if not self.ledger.state.runs:
            self.fire()
        if not self.ledger.state.runs:
            return
        job = self.pick(number)
        is_contested = bool(self.ledger.state.runs[job].contest)
        name = find_worker(self.ledger, job)
        match deed:
            case "settle":
                body: object = settle(self.ledger, job, number, fee=PRICE // (number + 1))
            case "refuse":
                body = RefuseJob(job)
            case _:
                body = contest(self.ledger, job, number, dissenting=(number % 2,))
        assert self.send(name, body) != is_contested

    @precondition(lambda self: any(run.contest for run in self.ledger.state.runs.values()))
    @rule(number=st.integers(0, 9))
    def dispute(self, number: int) -> None:
        contests = [contest for run in self.ledger.state.runs.values() for contest in run.contest]
        receipt = contests[number % len(contests)].receipt
        nodes = {self.ledger.node(name).public: name for name in self.ledger.foundation.nodes}
        challenger = nodes[self.rng.choice(draw(self.ledger.state, receipt))]
        quarrel = Quarrel(self.ledger, challenger, receipt)
        signed = self.ledger.sign(quarrel.challenger, quarrel.order())
        if not self.ledger.block(signed, after_ms=1):
            quarrel.id = signed.id
            self.quarrels.append(quarrel)
        self.look()

    @precondition(lambda self: any(not quarrel.is_over for quarrel in self.quarrels))
    @rule(judgement=st.sampled_from((Judgement.SOUND, Judgement.WRONG)), steps=st.integers(1, 4))
    def argue(self, judgement: Judgement, steps: int) -> None:
        """The next words of a dispute."""
        quarrel = next(item for item in self.quarrels if not item.is_over)
        nodes = {self.ledger.account(name).public: name for name in self.ledger.foundation.nodes}
        worker, challenger = nodes[quarrel.worker.public], nodes[quarrel.challenger.public]
        for _ in range(steps):
            if not quarrel.is_over:
                words = (quarrel.post(), quarrel.name(), quarrel.show(), quarrel.judge(judgement))
                phase = quarrel.held.phase
                self.send((worker, challenger, worker, "validator-0")[phase], words[phase])

    @invariant()
    def each_run_ends_once_and_is_on_the_record_until_then(self) -> None:
        state, workflow = self.ledger.state, get_workflow(self.ledger)
        assert all(count == 1 for count in self.ended.values())
        assert state.runs.keys() == state.jobs.keys()
        running = {tick.job for tick in workflow.past if tick.outcome == Outcome.RUNNING}
        assert running == state.runs.keys()
        assert workflow.done <= workflow.fired

    @invariant()
    def each_run_has_a_time_by_which_it_ends(self) -> None:
        due = {(item.id, item.kind) for item in self.ledger.state.due.values()}
        for job, run in self.ledger.state.runs.items():
            assert (job, CONTEST_KIND if run.contest else JOB_KIND) in due

    @invariant()
    def what_is_proven_wrong_is_paid_by_no_run(self) -> None:
        wrong = self.ledger.state.wrong.keys()
        contests = [contest for run in self.ledger.state.runs.values() for contest in run.contest]
        assert not [item for item in contests if compute_claim_id(item.receipt.claim) in wrong]

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            verify_activity(self.first, self.ledger.blocks[self.count :])


TestContestMachine = ContestMachine.TestCase
TestContestMachine.settings = settings(max_examples=8, stateful_step_count=30, deadline=None)
