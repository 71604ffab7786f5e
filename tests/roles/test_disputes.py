"""What worker, challenger and validator each do about a dispute."""

import random
from dataclasses import replace
from typing import Any

import pytest

from protocol.codec import decode, encode
from protocol.content import compute_digest, format_cid
from protocol.jobs import compute_claim_id
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import JudgeOperator, NameOperator, OpenDispute, PostExhibit
from protocol.messages import GetExhibit, GetTrace, Refused, ShownExhibit, ShownTrace
from protocol.proofs.trace import (
    Exhibit,
    Given,
    Judgement,
    OperatorRun,
    RunOperator,
    TracedRun,
    TraceModel,
    pack_trace,
)
from protocol.signing import sign
from protocol.tensor import Tensor
from roles.challenge import CHALLENGE, SPARE_MS, WAIT_MS, Challenge
from roles.challenger import Challenger
from roles.defender import AGAIN_MS, Defender
from roles.referee import EXHIBIT_TRIES, Referee
from roles.role import Fetch, Inspect, Record, Reply, Request, SetTimer, Store, Submit
from roles.workbook import Job
from tests.support.disputes import BETWEEN, FOUR, TRUTH, Quarrel
from tests.support.jobs import ROW, make_request, pay
from tests.support.ledgers import Ledger

PROFILE = "ort=1.31.1;ep=cpu;isa=avx2;th=1;opt=disable;batch=1"
LARGE = Exhibit((Given(1, (Tensor("uint8", (70_000,), bytes(70_000)),)),))


def find(effects: list[Any], kind: type) -> Any:
    return next(item for item in effects if isinstance(item, kind))


def find_all(effects: list[Any], kind: type) -> list[Any]:
    return [item for item in effects if isinstance(item, kind)]


class Scene:
    """A dispute on a ledger, and the worker that has kept the job."""

    def __init__(self) -> None:
        self.ledger = Ledger(FOUR)
        channel = self.ledger.open_channel()
        request = make_request(self.ledger.state, self.ledger.foundation, 1)
        item = pay(request, self.ledger.foundation, channel)
        self.quarrel = Quarrel(self.ledger, receipt=self.ledger.work(channel)[0])
        self.job = Job(item, receipt=self.quarrel.receipt, claim_id=compute_claim_id(self.quarrel.receipt.claim))
        self.jobs = {self.job.key: self.job}
        self.defender = Defender(self.quarrel.worker.public, lambda channel, seq: self.jobs.get((channel, seq)))

    @property
    def state(self) -> Any:
        return self.ledger.state

    @property
    def now_ms(self) -> int:
        return int(self.ledger.state.time_ms)

    def traced(self, exhibit: Exhibit | None = None) -> TracedRun:
        return TracedRun(pack_trace(self.quarrel.trace), exhibit or Exhibit(()), PROFILE)

    def ask(self, *, judge: str = "validator-0") -> tuple[Referee, Any]:
        """A validator that has been handed the model and asks its engine about the operator."""
        referee = Referee(self.ledger.account(judge).public)
        fetch = find(referee.look(self.state, self.now_ms), Fetch)
        assert fetch.source == format_cid(self.quarrel.receipt.claim.model)
        referee.on_fetched(fetch.source, b"model", "", self.now_ms)
        return referee, referee.look(self.state, self.now_ms)


# The worker


def test_a_worker_traces_its_job_again_and_posts_what_the_ledger_waits_for() -> None:
    scene = Scene()
    scene.quarrel.open()
    inspect = find(scene.defender.look(scene.state, scene.now_ms), Inspect)
    assert inspect.question == TraceModel((ROW,), 0)
    assert not scene.defender.look(scene.state, scene.now_ms)  # once
    body = find(scene.defender.on_inspected(inspect.token, scene.traced(), "", scene.now_ms), Submit).item
    assert body == scene.quarrel.post()
    scene.quarrel.trace_it()
    assert not scene.defender.look(scene.state, scene.now_ms)  # the challenger's turn
    scene.quarrel.name_it()
    inspect = find(scene.defender.look(scene.state, scene.now_ms), Inspect)
    assert inspect.question == TraceModel((ROW,), 2)
    shown = scene.quarrel.show()
    effects = scene.defender.on_inspected(inspect.token, scene.traced(shown.exhibit[0]), "", scene.now_ms)
    assert find(effects, Submit).item == shown


def test_an_exhibit_that_fits_no_transaction_is_posted_by_its_digest_and_shown_on_streams() -> None:
    scene = Scene()
    scene.quarrel.open().trace_it().name_it()
    inspect = find(scene.defender.look(scene.state, scene.now_ms), Inspect)
    body = find(scene.defender.on_inspected(inspect.token, scene.traced(LARGE), "", scene.now_ms), Submit).item
    assert body == PostExhibit(scene.quarrel.id, (), (compute_digest(encode(LARGE)),))
    question = GetExhibit((), (scene.quarrel.id,), 2)
    inspect = find(scene.defender.on_requested(question, "r1", scene.state, scene.now_ms), Inspect)
    reply = find(scene.defender.on_inspected(inspect.token, scene.traced(LARGE), "", scene.now_ms), Reply)
    assert reply == Reply("r1", ShownExhibit(2, LARGE))


def test_a_worker_shows_its_trace_to_whoever_holds_its_receipt_and_nobody_else() -> None:
    scene = Scene()
    receipt = scene.quarrel.receipt
    other = replace(receipt, salt=bytes(32))
    for question in (GetTrace(other), GetExhibit((), (bytes(32),), 2), GetExhibit((), (), 2)):
        refused = find(scene.defender.on_requested(question, "r", scene.state, scene.now_ms), Reply)
        assert isinstance(refused.message, Refused)
    inspect = find(scene.defender.on_requested(GetTrace(receipt), "r", scene.state, scene.now_ms), Inspect)
    reply = find(scene.defender.on_inspected(inspect.token, scene.traced(), "", scene.now_ms), Reply)
    assert reply.message == ShownTrace(scene.job.claim_id, pack_trace(scene.quarrel.trace))


def test_what_could_not_be_traced_or_was_refused_is_tried_again_while_it_is_wanted() -> None:
    scene = Scene()
    scene.quarrel.open()
    inspect = find(scene.defender.look(scene.state, scene.now_ms), Inspect)
    failed = scene.defender.on_inspected(inspect.token, None, "busy", scene.now_ms)
    assert find(failed, SetTimer).at_ms == scene.now_ms + AGAIN_MS
    inspect = find(scene.defender.look(scene.state, scene.now_ms), Inspect)
    submit = find(scene.defender.on_inspected(inspect.token, scene.traced(), "", scene.now_ms), Submit)
    assert find(scene.defender.on_submitted(submit.token, "no", scene.now_ms), SetTimer)
    assert find(scene.defender.look(scene.state, scene.now_ms), Inspect)
    scene.jobs.clear()
    scene.quarrel.trace_it().name_it()
    assert [item.name for item in scene.defender.look(scene.state, scene.now_ms)] == ["defence.impossible"]


# The validator


@pytest.mark.parametrize(("digest", "judgement"), [(b"2" * 32, Judgement.SOUND), (TRUTH, Judgement.WRONG)])
def test_a_validator_judges_by_what_the_operator_gives_once(digest: bytes, judgement: Judgement) -> None:
    scene = Scene()
    scene.quarrel.argue()
    referee, effects = scene.ask()
    inspect = find(effects, Inspect)
    assert inspect.question == RunOperator(2, scene.quarrel.show().exhibit[0])
    assert not referee.look(scene.state, scene.now_ms)
    run = OperatorRun(3, digest, "", PROFILE)
    submit = find(referee.on_inspected(inspect.token, run, "", scene.state, scene.now_ms), Submit)
    assert submit.item == JudgeOperator(scene.quarrel.id, judgement)
    assert not referee.look(scene.state, scene.now_ms)
    scene.quarrel.vote(judgement, 0)
    assert not referee.look(scene.state, scene.now_ms)
    assert referee.load == 0


def test_a_validator_says_nothing_it_has_not_found_out() -> None:
    scene = Scene()
    scene.quarrel.argue()
    assert not Referee(scene.ledger.account("verifier-0").public).look(scene.state, scene.now_ms)
    referee = Referee(scene.ledger.account("validator-0").public)
    fetch = find(referee.look(scene.state, scene.now_ms), Fetch)
    gone = referee.on_fetched(fetch.source, None, "no storage node has it", scene.now_ms)
    assert not find_all(gone, Submit)
    assert find(gone, SetTimer)
    referee, effects = scene.ask()
    failed = referee.on_inspected(find(effects, Inspect).token, None, "timed_out", scene.state, scene.now_ms)
    assert not find_all(failed, Submit)
    assert find(referee.look(scene.state, scene.now_ms), Inspect)  # it tries again


@pytest.mark.parametrize(("isa", "speaks"), [("avx2", True), ("sse", False)])
def test_about_a_float_model_only_validators_with_the_profile_in_dispute_speak(isa: str, speaks: bool) -> None:
    ledger = Ledger(FOUR)
    fp32 = next(model for model in ledger.state.models.values() if not model.exact)
    receipt, node = ledger.work(ledger.open_channel())[0], ledger.node("inference-0")
    claim = sign(replace(receipt.claim, model=fp32.digest, profile=PROFILE), node)
    quarrel = Quarrel(ledger, receipt=replace(receipt, claim=claim))
    ledger.do(quarrel.challenger, quarrel.order(profile=PROFILE))
    (quarrel.id,) = ledger.state.disputes
    quarrel.trace_it().name_it().show_it()
    referee = Referee(ledger.account("validator-0").public)
    now_ms = ledger.state.time_ms
    referee.on_fetched(find(referee.look(ledger.state, now_ms), Fetch).source, b"model", "", now_ms)
    token = find(referee.look(ledger.state, now_ms), Inspect).token
    run = OperatorRun(3, TRUTH, "", PROFILE.replace("avx2", isa).replace("batch=1", "batch=64"))
    effects = referee.on_inspected(token, run, "", ledger.state, now_ms)
    assert bool(find_all(effects, Submit)) is speaks


def test_an_exhibit_in_a_blob_is_asked_of_the_worker_and_missed_only_after_some_tries() -> None:
    scene = Scene()
    quarrel = scene.quarrel.open().trace_it().name_it()
    exhibit = quarrel.show().exhibit[0]
    scene.ledger.do(quarrel.worker, PostExhibit(quarrel.id, (), (compute_digest(encode(exhibit)),)))
    referee, effects = scene.ask()
    request = find(effects, Request)
    assert (request.peer, request.message) == (quarrel.receipt.claim.worker, GetExhibit((), (quarrel.id,), 2))
    for _ in range(EXHIBIT_TRIES - 1):
        other = ShownExhibit(2, Exhibit(()))
        assert not find_all(referee.on_exhibit(request.token, other, scene.state, scene.now_ms), Submit)
        request = find(referee.look(scene.state, scene.now_ms), Request)
    missing = referee.on_exhibit(request.token, "no answer", scene.state, scene.now_ms)
    assert find(missing, Submit).item == JudgeOperator(quarrel.id, Judgement.MISSING)

    referee, effects = scene.ask(judge="validator-1")
    shown = ShownExhibit(2, exhibit)
    effects = referee.on_exhibit(find(effects, Request).token, shown, scene.state, scene.now_ms)
    assert find(effects, Inspect).question == RunOperator(2, exhibit)


# The challenger


class Doubt:
    """A verifier that has found something else than a worker, with a trace of its own."""

    def __init__(self) -> None:
        self.scene = Scene()
        quarrel = self.quarrel = self.scene.quarrel
        self.own = (*quarrel.trace[:2], b"3" * 32, TRUTH)
        self.challenger = Challenger(quarrel.challenger.public)
        receipt = quarrel.receipt
        self.challenge = Challenge(receipt.claim, (receipt,), (), receipt.output_digest, (ROW,), TRUTH, "mine")
        self.token = CHALLENGE + compute_claim_id(receipt.claim).hex()

    def begin(self, rank: int = 0) -> list[Any]:
        return self.challenger.begin(self.challenge, self.scene.state, self.scene.now_ms, rank)

    def wait(self, after_ms: int) -> list[Any]:
        self.scene.ledger.block(after_ms=after_ms)
        return self.challenger.on_timer(self.scene.state, self.scene.now_ms)

    def look(self) -> list[Any]:
        return self.challenger.look(self.scene.state, self.scene.now_ms)

    def said(self, error: str = "") -> list[Any]:
        return self.challenger.on_submitted(self.token, error, self.scene.state, self.scene.now_ms)

    def trace(self) -> list[Any]:
        run = TracedRun(pack_trace(self.own), Exhibit(()), PROFILE)
        return self.challenger.on_inspected(self.token, run, "", self.scene.state, self.scene.now_ms)

    def hear(self, message: Any) -> list[Any]:
        return self.challenger.on_answer(self.token, message, self.scene.state, self.scene.now_ms)

    def run(self, digest: bytes) -> list[Any]:
        run = OperatorRun(3, digest, "", PROFILE)
        return self.challenger.on_inspected(self.token, run, "", self.scene.state, self.scene.now_ms)

    @property
    def shown(self) -> ShownTrace:
        return ShownTrace(compute_claim_id(self.challenge.claim), pack_trace(self.quarrel.trace))


@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_challenger_runs_the_operator_it_would_name_before_it_risks_its_bond(is_wrong: bool) -> None:
    doubt = Doubt()
    begun = doubt.begin()
    assert find(begun, Store).bucket == "challenges"
    assert find(begun, Inspect).question == TraceModel((ROW,), 0)
    assert find(doubt.trace(), Request).message == GetTrace(doubt.quarrel.receipt)
    asked = doubt.hear(doubt.shown)
    assert find(asked, Request).message == GetExhibit((doubt.quarrel.receipt,), (), 2)
    exhibit = doubt.quarrel.show().exhibit[0]
    assert find(doubt.hear(ShownExhibit(2, exhibit)), Inspect).question == RunOperator(2, exhibit)
    effects = doubt.run(b"3" * 32 if is_wrong else b"2" * 32)
    assert bool(find_all(effects, Submit)) is is_wrong
    if is_wrong:
        body = find(effects, Submit).item
        assert body == OpenDispute((doubt.quarrel.receipt,), (), TRUTH, "mine")
        doubt.quarrel.open()
        doubt.said()
        doubt.quarrel.trace_it()
        named = NameOperator(doubt.quarrel.id, 2)
        assert find(doubt.look(), Submit).item == named
        assert not doubt.look()
        doubt.said("the block was full")
        assert find(doubt.look(), Submit).item == named
    else:
        assert find(effects, Store).value is None
        assert doubt.challenger.load == 0


@pytest.mark.parametrize("answer", ["no answer", Refused("no")])
@pytest.mark.parametrize("late", [False, True])
def test_a_worker_that_does_not_answer_is_made_to_on_the_ledger(answer: Any, late: bool) -> None:
    doubt = Doubt()
    doubt.begin()
    doubt.trace()
    if late:
        doubt.hear(doubt.shown)
    assert isinstance(find(doubt.hear(answer), Submit).item, OpenDispute)
    assert not doubt.hear(doubt.shown)  # too late


def test_a_challenger_that_does_not_find_its_own_digest_again_keeps_quiet() -> None:
    doubt = Doubt()
    doubt.begin()
    doubt.own = (*doubt.own[:-1], b"4" * 32)
    effects = doubt.trace()
    assert not find_all(effects, Request)
    assert "another digest" in find(effects, Record).fields["reason"]


def test_a_restarted_challenger_names_the_operator_of_a_dispute_it_has_opened() -> None:
    doubt = Doubt()
    kept = find(doubt.begin(), Store)
    doubt.quarrel.open().trace_it()
    doubt.challenger = Challenger(doubt.quarrel.challenger.public)
    doubt.challenger.restore({kept.bucket: {kept.key: kept.value}}, doubt.scene.now_ms)
    assert decode(Challenge, kept.value) == doubt.challenge
    assert find(doubt.look(), Inspect).question == TraceModel((ROW,), 0)
    assert find(doubt.trace(), Submit).item == NameOperator(doubt.quarrel.id, 2)


def test_those_drawn_first_dispute_first_and_their_dispute_is_waited_for() -> None:
    doubt = Doubt()
    assert not find_all(doubt.begin(rank=1), Inspect)
    other = Quarrel(doubt.scene.ledger, "verifier-1", doubt.quarrel.receipt).open()
    assert not find_all(doubt.wait(WAIT_MS), Inspect)
    other.trace_it().name_it().show_it().vote(Judgement.WRONG, 0, 1, 2)
    assert [item.name for item in find_all(doubt.look(), Record)] == ["challenge.over"]
    assert not doubt.begin()


def test_if_nobody_drawn_before_disputes_it_the_next_one_does() -> None:
    doubt = Doubt()
    doubt.begin(rank=1)
    assert find(doubt.wait(WAIT_MS), Inspect).question == TraceModel((ROW,), 0)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_dispute_for_show_keeps_nobody_from_a_true_one(is_lost: bool) -> None:
    doubt = Doubt()
    doubt.begin(rank=1)
    sham = Quarrel(doubt.scene.ledger, "verifier-1", doubt.quarrel.receipt).open().trace_it()
    latest_ms = doubt.challenge.claim.deadline_ms + doubt.scene.state.params.challenge_ms
    if is_lost:
        sham.name_it(1).show_it(1).vote(Judgement.SOUND, 0, 1, 2)
    else:
        assert not find_all(doubt.wait(WAIT_MS), Inspect)
        doubt.wait(latest_ms - SPARE_MS - doubt.scene.now_ms)
    doubt.wait(WAIT_MS)
    doubt.trace()
    body = find(doubt.hear("silence"), Submit).item
    doubt.scene.ledger.do(doubt.quarrel.challenger, body)


def test_a_dispute_the_ledger_has_no_room_for_is_opened_again_while_there_is_time() -> None:
    doubt = Doubt()
    doubt.begin()
    doubt.trace()
    body = find(doubt.hear("silence"), Submit).item
    assert not find_all(doubt.said("disputes: 32 of 32"), Submit)
    assert not find_all(doubt.look(), Submit)
    assert find(doubt.wait(AGAIN_MS), Submit).item == body
    latest_ms = doubt.challenge.claim.deadline_ms + doubt.scene.state.params.challenge_ms
    doubt.wait(latest_ms - doubt.scene.now_ms)
    assert find(doubt.said("it could be disputed until then"), Store).value is None


def test_of_what_proves_nothing_no_challenge_is_made() -> None:
    doubt = Doubt()
    fp32 = next(model for model in doubt.scene.state.models.values() if not model.exact)
    doubt.challenge = replace(doubt.challenge, claim=replace(doubt.challenge.claim, model=fp32.digest))
    assert not doubt.begin()


def test_both_ends_mean_the_same_by_a_dispute() -> None:
    """The words that the roles say are those the ledger takes, from the bond to the verdict."""
    doubt = Doubt()
    scene, quarrel, rng = doubt.scene, doubt.quarrel, random.Random(1)
    doubt.begin()
    doubt.trace()
    scene.ledger.do(quarrel.challenger, find(doubt.hear("silence"), Submit).item)
    (quarrel.id,) = scene.state.disputes
    doubt.said()
    for phase, exhibit in ((DisputePhase.TRACE, None), (DisputePhase.EXHIBIT, Exhibit((Given(1, BETWEEN),)))):
        assert quarrel.held.phase == phase
        inspect = find(scene.defender.look(scene.state, scene.now_ms), Inspect)
        run = scene.traced(exhibit)
        scene.ledger.do(quarrel.worker, find(scene.defender.on_inspected(inspect.token, run, "", 0), Submit).item)
        for name in find_all(doubt.look(), Submit):
            scene.ledger.do(quarrel.challenger, name.item)
    judges = [f"validator-{number}" for number in range(4)]
    rng.shuffle(judges)
    for judge in judges[:3]:
        referee, effects = scene.ask(judge=judge)
        run = OperatorRun(3, b"3" * 32, "", PROFILE)
        said = referee.on_inspected(find(effects, Inspect).token, run, "", scene.state, scene.now_ms)
        scene.ledger.do(scene.ledger.account(judge), find(said, Submit).item)
    assert quarrel.is_over
    assert compute_claim_id(quarrel.receipt.claim) in scene.state.wrong
