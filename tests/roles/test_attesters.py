"""Whom a client waits for in vain, and which workers it asks instead."""

from dataclasses import replace

import pytest

from protocol.committee import draw_committee
from protocol.jobs import Mode
from roles.admission import RefusalCode
from roles.attempts import Ask, Attempt, Job
from roles.attesters import WAIT_MS, WAIT_MS_MAX, WAITS, Attesters
from roles.client_jobs import DRAWS_MAX, HEDGE, PULL_MS, REPLY_MS
from roles.role import Record, Request, TimerFired
from roles.shunned import SHUN_MS
from tests.roles.test_client_role import Story, find_all, get_outcome
from tests.support.jobs import OUTPUT, PRICE, attest, draw

LONG_MS = 60_000
ROLES = {"validator": 1, "inference": 3, "verifier": 4, "storage": 1, "client": 1}


@pytest.fixture
def answered() -> tuple[Story, Job, Attempt]:
    """A request that its worker has answered a second ago, and no verifier has attested yet."""
    story = Story(step=64, roles=ROLES)
    story.answer(story.ask())
    [job] = story.client._jobs.under_way.values()
    story.now_ms += 1_000
    return story, job, job.attempts[0]


def hear(story: Story, attempt: Attempt, count: int) -> None:
    """So many of its verifiers have attested it."""
    assert attempt.receipt is not None
    items = attest(story.state, story.parts.foundation, attempt.receipt, attempt.receipt.output_digest)
    attempt.attestations = {item.verifier: item for item in items[:count]}


def find_shunned(attesters: Attesters, story: Story, attempt: Attempt, now_ms: int) -> bytes | None:
    return attesters._shunned.find(draw(story.state, attempt.receipt), now_ms)


def test_who_says_nothing_to_what_another_has_attested_is_shunned_for_a_while(answered):
    story, _, attempt = answered
    attesters = Attesters()
    hear(story, attempt, 1)

    attesters.blame(attempt, story.now_ms)

    silent = attempt.committee[1]
    assert find_shunned(attesters, story, attempt, story.now_ms) == silent
    assert find_shunned(attesters, story, attempt, story.now_ms + SHUN_MS) is None
    attesters.hear(silent, story.now_ms)
    assert find_shunned(attesters, story, attempt, story.now_ms) is None


def test_a_claim_that_nobody_has_attested_is_held_against_nobody(answered):
    story, _, attempt = answered
    attesters = Attesters()

    attesters.blame(attempt, story.now_ms)

    assert find_shunned(attesters, story, attempt, story.now_ms) is None


def test_who_has_attested_something_else_meanwhile_is_late_and_not_silent(answered):
    story, _, attempt = answered
    attesters = Attesters()
    hear(story, attempt, 1)
    attesters.hear(attempt.committee[1], attempt.answered_ms + 1)

    attesters.blame(attempt, story.now_ms)

    assert find_shunned(attesters, story, attempt, story.now_ms) is None


def test_whose_claim_no_verifier_attests_although_all_are_heard_is_shunned_itself(answered):
    story, job, attempt = answered
    attesters = Attesters()
    for verifier in attempt.committee:
        attesters.hear(verifier, attempt.answered_ms + 1)

    attesters.blame(attempt, story.now_ms)

    assert find_shunned(attesters, story, attempt, story.now_ms) is None
    assert attesters.choose(job, job.drawn, story.state, story.now_ms) == job.order
    attesters.note_attested(attempt, story.now_ms)
    assert attesters.choose(job, job.drawn, story.state, story.now_ms) == job.drawn


def draw_for(job: Job, worker: bytes, story: Story) -> tuple[bytes, ...]:
    epoch = story.state.get_epoch(job.request.epoch)
    assert epoch is not None
    return draw_committee(epoch, job.request_id, worker, job.request.verifiers)


def test_the_workers_to_choose_from_need_nobody_who_is_shunned(answered):
    story, job, attempt = answered
    attesters = Attesters()
    assert attesters.choose(job, job.drawn, story.state, story.now_ms) == job.drawn
    hear(story, attempt, 1)

    attesters.blame(attempt, story.now_ms)

    chosen = attesters.choose(job, job.drawn, story.state, story.now_ms)
    needed = [worker for worker in job.drawn if attempt.committee[1] in draw_for(job, worker, story)]
    assert attempt.worker in needed
    assert [*chosen, *needed] != needed
    assert {*chosen, *needed} == {*job.drawn}
    assert not {*chosen} & {*needed}
    batch = replace(job, request=replace(job.request, mode=Mode.BATCH))
    assert attesters.choose(batch, job.drawn, story.state, story.now_ms) == job.drawn


def test_how_long_to_wait_follows_what_is_usual_and_what_the_request_has():
    attesters = Attesters()
    assert attesters.compute_wait(LONG_MS) == WAIT_MS
    assert attesters.compute_wait(1_000) == 1_000 // WAITS
    for wait_ms in (1_000, 2_000, 3_000, 4_000):
        attesters.note_attested(Attempt(None, b"", 0, answered_ms=10), 10 + wait_ms)  # type: ignore[arg-type]
    assert attesters.compute_wait(LONG_MS) == WAIT_MS_MAX


@pytest.mark.parametrize("nonce", [b"", b"n" * 16])
def test_a_request_is_drawn_until_its_first_worker_needs_nobody_who_is_shunned(answered, nonce: bytes):
    story, _, attempt = answered
    hear(story, attempt, 1)
    attesters = story.client._jobs.attesters
    attesters.blame(attempt, story.now_ms)

    for number in range(32):
        story.ask(f"later {number}", nonce=nonce and bytes([number]) * 16)
        job = list(story.client._jobs.under_way.values())[-1]
        assert attesters.choose(job, job.drawn[:1], story.state, story.now_ms)
        assert story.now_ms + Ask.timeout_ms - 16 <= job.request.deadline_ms <= story.now_ms + Ask.timeout_ms
        assert nonce == b"" or job.request.nonce == bytes([number]) * 16


def test_what_its_verifiers_do_not_attest_another_worker_is_asked_for(answered):
    story, job, attempt = answered
    asked = find_all(story.later(PULL_MS), Request)
    assert [item.peer for item in asked] == list(attempt.committee)

    hedged = story.later(REPLY_MS)

    assert list_sent(hedged) == [(job.request_id, job.attempts[1].worker)]
    assert not list_sent(story.later(REPLY_MS))  # once is enough
    receipt = attempt.receipt
    assert receipt is not None
    outcome = get_outcome(
        story.attest(receipt, story.find_worker(attempt.worker), OUTPUT)
    )  # late, and good all the same
    assert outcome is not None
    assert (outcome.is_attested, outcome.worker) == (True, attempt.worker)


def list_sent(effects) -> list[tuple[bytes, bytes]]:
    sent = (item.fields for item in find_all(effects, Record) if item.name == "request.sent")
    return [(fields["request_id"], fields["worker"]) for fields in sent]


def refuse_everywhere(story: Story, effects) -> list:
    """All three workers refuse what was sent, for the verifiers it would need; what is done at last."""
    for number in (1, 2, 3):
        [(request_id, worker)] = list_sent(effects)
        effects = story.refuse(worker, request_id, number, RefusalCode.COMMITTEE)
    return effects


def test_what_all_workers_refuse_for_its_verifiers_is_asked_again_with_others():
    story = Story()
    first = story.ask("mine")
    [job] = story.client._jobs.under_way.values()
    deadline_ms = job.request.deadline_ms
    story.now_ms += 1_000

    effects = refuse_everywhere(story, first)

    [(old, _)], [(new, _)] = list_sent(first), list_sent(effects)
    assert new != old
    assert get_outcome(effects) is None
    job = story.client._jobs.under_way[new]
    assert job.request.deadline_ms == deadline_ms
    ended = story.client._jobs.log.find(old)
    assert ended is not None
    assert ended.code == RefusalCode.COMMITTEE
    assert new.hex() in ended.reason
    outcome = get_outcome(story.attest(*story.answer(effects)[:2], OUTPUT))
    assert outcome is not None
    assert (outcome.token, outcome.request_id, outcome.is_attested) == ("mine", new, True)


@pytest.mark.parametrize("options", [{}, {"spend_max": 10 * PRICE, "nonce": b"n" * 16}])
def test_asking_again_ends_with_the_last_reason(options):
    story = Story()
    effects = story.ask("mine", **options)
    for _ in range(DRAWS_MAX - 1):
        effects = refuse_everywhere(story, effects)
        assert get_outcome(effects) is None

    outcome = get_outcome(refuse_everywhere(story, effects))

    assert outcome is not None
    assert (outcome.token, outcome.code) == ("mine", RefusalCode.COMMITTEE)
    assert not story.client._jobs.under_way


def test_a_request_that_may_cost_something_already_is_not_asked_again_beyond_its_limit():
    story = Story()
    effects = story.ask("mine", spend_max=10 * PRICE)
    story.answer(effects)
    [job] = story.client._jobs.under_way.values()
    job.order = ()

    story.later(PULL_MS)
    late = story.later(REPLY_MS)

    assert job.attempts[0].is_late
    assert not list_sent(late)
    assert list(story.client._jobs.under_way.values()) == [job]


def test_what_another_worker_is_still_at_is_not_asked_again():
    story = Story()
    [(request_id, first)] = list_sent(story.ask("mine", hedge_ms=300))
    effects = story.do(TimerFired(HEDGE + request_id.hex()))

    for number in (2, 3):
        [(_, worker)] = list_sent(effects)
        effects = story.refuse(worker, request_id, number, RefusalCode.COMMITTEE)

    [job] = story.client._jobs.under_way.values()
    assert (job.request_id, job.draws) == (request_id, 1)
    assert job.attempts[0].worker == first
    assert not list_sent(effects)
