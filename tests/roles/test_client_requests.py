"""A client's requests over time: hedged, called off, gone on with after a crash, kept with what was said of them."""

import random
from collections.abc import Iterable

import pytest

from protocol.codec import decode
from protocol.content import format_cid
from protocol.errors import RemoteError
from protocol.jobs import Mode
from protocol.messages import Cancel, DirectRequest, Refusal, Result
from protocol.proofs.receipt_file import decode_receipt_file
from protocol.signing import verify_signed
from protocol.tensor import Tensor
from roles.attempts import Ask, AskAgain, CallOff, GetModel, ModelBytes, Outcome, Recall, Recalled, verify_result
from roles.client_role import ClientRole
from roles.debts import PRESS_MS
from roles.request_log import BUCKET, RequestLog, RequestRecord
from roles.role import (
    Commanded,
    Context,
    Deliver,
    Effect,
    Fetch,
    Fetched,
    PeerUp,
    Penalise,
    Publish,
    Record,
    Request,
    Requested,
    RequestFailed,
    Send,
    SetTimer,
    Started,
    Store,
    TimerFired,
)
from tests.roles.test_client_role import Story, find, find_all, find_sent, get_outcome
from tests.support.jobs import OUTPUT, PRICE, ROW, find_model, make_receipt

HEDGE_MS = 300


class Kept:
    """What a story's effects have put on disk."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[bytes, bytes]] = {}

    def note(self, effects: Iterable[Effect]) -> list[Effect]:
        effects = list(effects)
        for item in find_all(effects, Store):
            bucket = self.buckets.setdefault(item.bucket, {})
            if item.value is None:
                bucket.pop(item.key, None)
            else:
                bucket[item.key] = item.value
        return effects

    def read(self, request_id: bytes) -> RequestRecord:
        return decode(RequestRecord, self.buckets[BUCKET][request_id])


def restart(story: Story, kept: Kept) -> list[Effect]:
    context = Context({"voucher_step": 1}, story.parts.node, story.parts.account, random.Random(2))
    story.client = ClientRole(context)
    return kept.note(story.do(Started(story.state, kept.buckets)))


def hedge(story: Story, sent: Iterable[Effect]) -> list[Effect]:
    timer = find(sent, SetTimer, lambda item: item.name.startswith("hedge|"))
    story.now_ms = timer.at_ms
    return story.do(TimerFired(timer.name))


def get_worker(effects: Iterable[Effect]) -> bytes:
    worker: bytes = find(effects, Record, lambda item: item.name == "request.sent").fields["worker"]
    return worker


def list_cancels(effects: Iterable[Effect]) -> list[tuple[bytes, Cancel]]:
    return [(item.peer, item.message) for item in find_all(effects, Send) if isinstance(item.message, Cancel)]


# Hedging


def test_without_an_answer_the_next_worker_is_asked_too_under_its_own_voucher():
    story = Story()
    sent = story.ask(hedge_ms=HEDGE_MS)

    hedged = hedge(story, sent)

    assert not find_all(hedged, Publish), "straight to its worker"
    first, second = find_sent(sent), find_sent(hedged)
    assert second.request == first.request
    assert second.voucher.attempt == 2
    assert second.voucher.channel != first.voucher.channel
    assert not find_all(story.do(TimerFired(f"hedge|{first.voucher.request_id.hex()}")), Publish), "once"


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_answer_that_can_be_released_wins_and_the_other_worker_is_told_to_leave_it(winner: int):
    story = Story()
    sent = story.ask(hedge_ms=HEDGE_MS, mode=Mode.BATCH)
    tries = [sent, hedge(story, sent)]

    _, worker, answered = story.answer(tries[winner])

    outcome = get_outcome(answered)
    assert outcome is not None
    assert (outcome.worker, outcome.fee, outcome.attempts) == (worker.public, PRICE, 2)
    assert [peer for peer, _ in list_cancels(answered)] == [get_worker(tries[1 - winner])]


def test_a_loser_holds_its_place_until_it_has_spoken_so_that_no_more_vouchers_are_out_than_the_step_allows():
    story = Story(step=1)
    sent = story.ask(hedge_ms=HEDGE_MS, mode=Mode.BATCH)
    loser, voucher = get_worker(sent), find_sent(sent).voucher
    story.answer(hedge(story, sent))
    busy = [get_worker(story.ask(f"b{number}", mode=Mode.BATCH)) for number in range(2)]
    assert loser not in busy
    waiting = story.ask("c", mode=Mode.BATCH)
    assert not find_all(waiting, Publish)

    spoken = story.refuse(loser, voucher.request_id, 1, "cancelled")

    assert get_worker(spoken) == loser


def test_a_loser_that_says_nothing_is_told_again_when_it_is_wanted_and_gets_no_voucher_even_after_the_deadline():
    story = Story(step=1)
    sent = story.ask(hedge_ms=HEDGE_MS, mode=Mode.BATCH, timeout_ms=5_000)
    story.answer(hedge(story, sent))
    for number in range(3):
        story.ask(f"b{number}", mode=Mode.BATCH)

    assert [peer for peer, _ in list_cancels(story.later(PRESS_MS))] == [get_worker(sent)]
    workers = [item.fields["worker"] for item in find_all(story.later(5_000), Record) if item.name == "request.sent"]
    assert get_worker(sent) not in workers


def test_an_answer_in_time_is_not_hedged():
    story = Story()
    sent = story.ask(hedge_ms=HEDGE_MS, mode=Mode.BATCH)
    story.answer(sent)

    assert hedge(story, sent) == []


def test_what_a_loser_computed_is_kept_beside_the_request():
    story, kept = Story(), Kept()
    sent = kept.note(story.ask(hedge_ms=HEDGE_MS, mode=Mode.BATCH))
    kept.note(story.answer(kept.note(hedge(story, sent)))[2])
    item = find_sent(sent)
    receipt = make_receipt(item, story.find_worker(get_worker(sent)))

    late = kept.note(story.do(Requested(get_worker(sent), Result(receipt, (OUTPUT,)), "infer", "s")))

    assert get_outcome(late) is None, "the winner was released already"
    record = kept.read(item.voucher.request_id)
    assert record.winner == 2
    assert record.attempts[0].receipts == (receipt,)


# Calling off


def test_calling_off_tells_the_worker_and_delivers_nothing():
    story = Story()
    voucher = find_sent(story.ask("a")).voucher

    called_off = story.do(Commanded(CallOff("a")))

    wish = Cancel(voucher.request_id, 1, voucher.channel, voucher.seq)
    assert [message for _, message in list_cancels(called_off)] == [wish]
    assert get_outcome(called_off) is None
    assert story.do(Commanded(CallOff("a"))) == []


def test_a_request_two_wait_for_goes_on_when_one_of_them_leaves():
    story = Story()
    sent = story.ask("a", mode=Mode.BATCH)
    story.do(Commanded(AskAgain("b", find_sent(sent).voucher.request_id)))

    assert list_cancels(story.do(Commanded(CallOff("a")))) == []
    _, _, answered = story.answer(sent)

    assert [item.outcome.token for item in find_all(answered, Deliver)] == ["b"]


# A crash, and after


def test_a_client_killed_before_the_answer_asks_the_same_worker_with_the_same_voucher_again():
    story, kept = Story(step=1), Kept()
    sent = kept.note(story.ask(mode=Mode.BATCH))
    item, worker = find_sent(sent), get_worker(sent)

    resumed = restart(story, kept)
    assert find(resumed, Record, lambda record: record.name == "request.resumed")
    story.do(Commanded(AskAgain("again", item.voucher.request_id)))
    story.do(PeerUp(worker))
    asked = find(story.later(200), Request)

    assert (asked.peer, asked.message) == (worker, DirectRequest(item))
    receipt = make_receipt(item, story.find_worker(worker))
    answered = kept.note(story.do(Requested(worker, Result(receipt, (OUTPUT,)), "infer", "s")))
    outcome = get_outcome(answered)
    assert outcome is not None
    assert (outcome.token, outcome.outputs, outcome.fee) == ("again", (OUTPUT,), PRICE)
    assert decode_receipt_file(outcome.receipt_file).voucher == item.voucher


def test_a_restarted_client_gives_a_worker_it_waits_for_no_second_voucher():
    story, kept = Story(step=1), Kept()
    worker = get_worker(kept.note(story.ask()))
    restart(story, kept)

    sent = [story.ask(f"b{number}") for number in range(2)]

    assert worker not in [get_worker(effects) for effects in sent]
    assert not find_all(story.ask("c"), Publish)


def test_a_worker_that_stays_away_after_a_restart_is_fallen_back_from():
    story, kept = Story(step=1), Kept()
    item = find_sent(kept.note(story.ask()))
    restart(story, kept)

    asked = find(story.later(5_000), Request)
    fallen_back = story.do(RequestFailed(asked.peer, asked.token, "no route"))

    assert find_sent(fallen_back).voucher.attempt == 2
    assert find_sent(fallen_back).request == item.request


def test_a_request_whose_deadline_passed_while_the_client_was_away_has_ended_and_says_so():
    story, kept = Story(), Kept()
    request_id = find_sent(kept.note(story.ask(timeout_ms=5_000))).voucher.request_id
    story.now_ms += 6_000

    assert not find_all(restart(story, kept), Request)
    outcome = get_outcome(story.do(Commanded(AskAgain("again", request_id))))

    assert outcome is not None
    assert outcome.code == "expired"
    assert kept.read(request_id).ended_ms


def test_asking_again_for_what_has_ended_or_never_was_says_so_at_once():
    story, kept = Story(), Kept()
    sent = kept.note(story.ask(mode=Mode.BATCH))
    request_id = find_sent(sent).voucher.request_id
    kept.note(story.answer(sent)[2])
    refused = kept.note(story.ask("r", mode=Mode.BATCH))
    refused_id = find_sent(refused).voucher.request_id
    kept.note(story.refuse(get_worker(refused), refused_id, 1, "bad_input"))
    restart(story, kept)

    said = [get_outcome(story.do(Commanded(AskAgain("x", each)))) for each in (request_id, refused_id, bytes(32))]

    assert [outcome.code for outcome in said if outcome] == ["no_receipt", "bad_input", "unknown_request"]


# What a request costs

NONCE = bytes(range(16))


def recall(story: Story, nonce: bytes = NONCE) -> Recalled:
    return find(story.do(Commanded(Recall("r", nonce))), Deliver).outcome


def test_what_a_request_costs_is_recalled_by_its_nonce_from_before_it_leaves_until_it_is_paid():
    story = Story()
    assert recall(story) == Recalled("r"), "nothing has ever left"
    sent = story.ask(mode=Mode.BATCH, nonce=NONCE)
    assert find_sent(sent).request.nonce == NONCE
    assert recall(story) == Recalled("r", PRICE, is_open=True, is_known=True)

    story.answer(sent)

    assert recall(story) == Recalled("r", PRICE, is_open=False, is_known=True)
    assert not recall(story, bytes(16)).is_known


def test_a_request_that_waits_for_a_worker_is_known_and_owes_nothing_yet():
    story = Story(step=1)
    for number in range(3):
        story.ask(f"b{number}")

    story.ask(nonce=NONCE)

    assert recall(story) == Recalled("r", 0, is_open=True, is_known=True)


def test_what_a_worker_may_have_done_is_owed_until_it_refuses_or_the_deadline_has_passed():
    story = Story()
    sent = [story.ask(token, mode=Mode.BATCH, timeout_ms=5_000, nonce=bytes(15) + token.encode()) for token in "ab"]
    for token in "ab":
        story.do(Commanded(CallOff(token)))
    assert [recall(story, bytes(15) + each).is_open for each in (b"a", b"b")] == [True, True]

    story.refuse(get_worker(sent[0]), find_sent(sent[0]).voucher.request_id, 1, "cancelled")
    story.later(5_001)

    assert recall(story, bytes(15) + b"a") == Recalled("r", 0, is_open=False, is_known=True)
    assert recall(story, bytes(15) + b"b") == Recalled("r", PRICE, is_open=False, is_known=True), "it may have done it"


def test_no_second_voucher_goes_beyond_what_a_request_may_spend():
    story = Story()
    sent = story.ask(hedge_ms=HEDGE_MS, nonce=NONCE, spend_max=2 * PRICE - 1)

    hedged = hedge(story, sent)

    assert not find_all(hedged, Request), "the first may be owed still"
    assert recall(story).owed == PRICE


def test_what_a_worker_has_refused_may_be_spent_on_another():
    story = Story()
    sent = story.ask(nonce=NONCE, spend_max=PRICE)

    refused = story.refuse(get_worker(sent), find_sent(sent).voucher.request_id, 1, "busy")

    assert find_sent(refused).voucher.attempt == 2
    assert recall(story) == Recalled("r", PRICE, is_open=True, is_known=True)


@pytest.mark.parametrize("spend_max", [0, PRICE])
def test_a_restarted_client_knows_what_a_request_costs_and_spends_no_more_on_it_than_it_might_before(spend_max: int):
    story, kept = Story(), Kept()
    kept.note(story.ask(nonce=NONCE, spend_max=spend_max))

    restart(story, kept)
    assert recall(story) == Recalled("r", PRICE, is_open=True, is_known=True)
    asked = find(story.later(5_000), Request)
    fallen_back = kept.note(story.do(RequestFailed(asked.peer, asked.token, "no route")))

    asks_another = any(item.name == "request.sent" for item in find_all(fallen_back, Record))
    assert asks_another == (spend_max == 0)
    assert recall(story).owed == (PRICE if spend_max else 2 * PRICE)


# A model's file


def test_a_models_file_is_fetched_once_for_all_who_want_it_and_why_it_is_not_there_is_said():
    story = Story()
    cid = format_cid(bytes(32))

    assert story.do(Commanded(GetModel("a", bytes(32)))) == [Fetch(cid)]
    assert story.do(Commanded(GetModel("b", bytes(32)))) == []
    assert story.do(Fetched(cid, b"bytes")) == [Deliver(ModelBytes(token, b"bytes")) for token in "ab"]
    assert story.do(Commanded(GetModel("c", bytes(32)))) == [Fetch(cid)]
    assert story.do(Fetched(cid, None, "nobody")) == [Deliver(ModelBytes("c", b"", "nobody"))]


def test_files_that_are_fetched_at_once_are_bounded(monkeypatch):
    monkeypatch.setattr("roles.client_role.MODELS_WANTED_MAX", 1)
    story = Story()
    story.do(Commanded(GetModel("a", bytes(32))))

    assert find(story.do(Commanded(GetModel("b", bytes(32)))), Deliver).outcome.error


# What is kept


def test_a_refusal_is_kept_as_its_worker_signed_it():
    story, kept = Story(), Kept()
    sent = kept.note(story.ask())
    request_id = find_sent(sent).voucher.request_id

    kept.note(story.refuse(get_worker(sent), request_id, 1, "busy"))

    record = kept.read(request_id)
    (refusal,) = record.attempts[0].refusals
    verify_signed(refusal, get_worker(sent))
    assert (refusal.code, refusal.reason) == ("busy", "because")
    assert record.attempts[0].note == "busy: because"
    assert record.order[:2] == tuple(attempt.worker for attempt in record.attempts)
    assert record.seed == story.state.epochs[record.request.epoch].seed


def test_a_log_forgets_the_oldest_that_have_ended_and_never_what_is_under_way(monkeypatch):
    monkeypatch.setattr("roles.request_log.RECORDS_MAX", 3)
    story, kept = Story(), Kept()
    ids = []
    for number in range(5):
        sent = kept.note(story.ask(f"a{number}", mode=Mode.BATCH))
        ids.append(find_sent(sent).voucher.request_id)
        if number:
            kept.note(story.answer(sent)[2])

    assert set(kept.buckets[BUCKET]) == {ids[0], *ids[-2:]}
    restored = RequestLog()
    assert [record.ended_ms for record in restored.restore(kept.buckets[BUCKET])] == [0]
    assert restored.find(ids[1]) is None


# What is no answer


@pytest.mark.parametrize(
    "outputs",
    [(), (OUTPUT, OUTPUT), (Tensor("int32", (0, 10), b""),), (Tensor("uint8", (1, 10), bytes(10)),)],
    ids=["empty", "too many", "no rows", "another type"],
)
def test_outputs_the_model_cannot_give_are_no_answer_however_well_signed(outputs: tuple[Tensor, ...]):
    story = Story()
    sent = story.ask(mode=Mode.BATCH)
    worker = story.find_worker(get_worker(sent))
    receipt = make_receipt(find_sent(sent), worker, outputs)

    said = story.do(Requested(worker.public, Result(receipt, outputs), "infer", "s"))

    assert get_outcome(said) is None
    assert [item.peer for item in find_all(said, Penalise)] == [worker.public]
    with pytest.raises(RemoteError):
        verify_result(
            story.client._jobs.under_way[receipt.claim.request_id].attempts[0],
            Result(receipt, outputs),
            find_model(story.state),
        )


def test_an_error_or_an_empty_body_never_reads_as_a_receipt_or_a_result():
    from protocol.codec import encode
    from protocol.jobs import Receipt
    from protocol.messages import Accepted, Refused

    bodies = [b"", b"\x90", b"\xc0", b"{}", b'{"error":{"code":"busy"}}', encode(Accepted()), encode(Refused("busy"))]
    bodies.append(encode(Refusal(bytes(32), 1, "failed", "boom", bytes(64))))

    for body in bodies:
        for kind in (Result, Receipt):
            with pytest.raises(RemoteError):
                decode(kind, body)
        with pytest.raises(RemoteError):
            decode_receipt_file(body)


def test_a_refusal_ends_as_a_failure_with_its_code_and_no_outputs():
    story = Story()
    sent = story.ask()

    outcome = get_outcome(story.refuse(get_worker(sent), find_sent(sent).voucher.request_id, 1, "bad_input"))

    assert isinstance(outcome, Outcome)
    assert not outcome.is_answered
    assert (outcome.code, outcome.outputs, outcome.receipt_file) == ("bad_input", (), b"")


def test_an_ask_that_fails_before_anything_is_sent_leaves_nothing_on_disk():
    story, kept = Story(), Kept()

    kept.note(story.do(Commanded(Ask("a", find_model(story.state).digest, (ROW,), PRICE - 1))))

    assert kept.buckets.get(BUCKET, {}) == {}
