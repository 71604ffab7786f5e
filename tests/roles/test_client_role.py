"""A client pays, waits for the drawn verifiers, and shows them a liar's receipt; seen through `handle` alone."""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from protocol.codec import decode
from protocol.jobs import Attestation, Mode, Receipt, compute_attestation, compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.dispute_records import ProvenWrong
from protocol.ledger.model_records import TensorSpec
from protocol.ledger.state import State
from protocol.messages import (
    Attestations,
    DirectRequest,
    GetAttestations,
    GetOpening,
    Opening,
    Refusal,
    Requests,
    Result,
)
from protocol.proofs.receipt_file import ReceiptFile
from protocol.signing import sign
from protocol.tensor import Tensor, compute_tensors_digest, encode_tensors
from roles.attempts import GOSSIP_TRIES, RETRY_MS, Ask, Outcome
from roles.client_jobs import PULL_MS
from roles.client_role import ClientRole
from roles.dispatch import OPENED_MS
from roles.disputes import ASK_AGAIN_MS, REMIND_MS
from roles.promptness import WAIT_MS
from roles.role import (
    Commanded,
    Context,
    Deliver,
    Effect,
    LedgerAdvanced,
    Penalise,
    Publish,
    Received,
    Record,
    Reply,
    Request,
    Requested,
    RequestFailed,
    Started,
    Store,
    Submit,
    Submitted,
    TimerFired,
)
from tests.protocol.ledger.test_models import CALIBRATION
from tests.support.core_parts import make_parts
from tests.support.jobs import (
    OUTPUT,
    PRICE,
    ROW,
    attest,
    draw,
    find_model,
    get_keys,
    make_receipt,
    sign_transaction,
)

LIE = Tensor("int32", (1, 10), bytes(39) + b"\1")


class Story:
    """A client whose channels are open, and the moment it lives in."""

    is_known = True

    def __init__(self, step: int = 8, roles: Mapping[str, int] | None = None) -> None:
        self.parts = make_parts(roles=roles)
        context = Context({"voucher_step": step}, self.parts.node, self.parts.account, random.Random(1))
        self.client = ClientRole(context)
        self.state: State = self.parts.state
        self.now_ms = self.state.time_ms
        self.do(Started(self.state, {}))

    def do(self, event: object) -> list[Effect]:
        return self.client.handle(event, self.now_ms)  # type: ignore[arg-type]

    def later(self, wait_ms: int) -> list[Effect]:
        self.now_ms += wait_ms
        return self.do(TimerFired("tick"))

    def ask(self, token: str = "a", **options: object) -> list[Effect]:
        """Ask for one row; opens the channels when they are not there yet, as if everybody knew them."""
        ask = Ask(token, find_model(self.state).digest, (ROW,), PRICE, **options)  # type: ignore[arg-type]
        effects = self.do(Commanded(ask))
        opening = next((item for item in effects if isinstance(item, Submit)), None)
        if opening is None:
            return effects
        parts = replace(self.parts, state=self.state)
        _, self.state = parts.build([sign_transaction(self.state, self.parts.account, opening.item)])
        self.now_ms = self.state.time_ms
        self.client._dispatch._is_opening = not self.is_known
        return [*effects, *self.do(LedgerAdvanced(self.state))]

    def find_worker(self, node: bytes) -> PrivateKey:
        keys = [get_keys(self.parts.foundation, f"inference-{index}")[0] for index in range(3)]
        return next(key for key in keys if key.public == node)

    def answer(self, effects: Iterable[Effect], outputs: Tensor = OUTPUT) -> tuple[Receipt, PrivateKey, list[Effect]]:
        """The asked worker answers with these outputs."""
        item = find_sent(effects)
        worker = self.find_worker(find(effects, Record, lambda record: record.name == "request.sent").fields["worker"])
        receipt = make_receipt(item, worker, (outputs,))
        return receipt, worker, self.do(Requested(worker.public, Result(receipt, (outputs,)), "infer", "s1"))

    def refuse(self, worker: bytes, request_id: bytes, attempt: int, code: str) -> list[Effect]:
        """The worker says no, and why."""
        refusal = sign(Refusal(request_id, attempt, code, "because", bytes(64)), self.find_worker(worker))
        return self.do(Requested(worker, refusal, "infer", "s"))

    def attest(self, receipt: Receipt, worker: PrivateKey, found: Tensor) -> list[Effect]:
        items = attest(self.state, self.parts.foundation, receipt, compute_tensors_digest((found,)))
        return self.do(Requested(worker.public, Attestations(items), "infer", "s2"))


def find(effects: Iterable[Effect], kind, fits=lambda item: True):
    return next(item for item in effects if isinstance(item, kind) and fits(item))


def find_all(effects: Iterable[Effect], kind: type) -> list:
    return [item for item in effects if isinstance(item, kind)]


def find_sent(effects: Iterable[Effect]):
    """The request that was sent, by gossip or straight to its worker."""
    sent = find(effects, Publish | Request, lambda item: isinstance(item.message, Requests | DirectRequest))
    return sent.message.items[0] if isinstance(sent, Publish) else sent.message.item


def get_outcome(effects: Iterable[Effect]) -> Outcome | None:
    return next((item.outcome for item in effects if isinstance(item, Deliver)), None)


def test_voucher_and_request_are_on_disk_before_the_request_leaves():
    sent = Story().ask()

    kinds = [
        item.bucket if isinstance(item, Store) else type(item) for item in sent if isinstance(item, Store | Publish)
    ]

    assert kinds == ["vouchers", "requests", Publish]


def test_a_result_is_released_only_when_all_drawn_verifiers_found_the_same():
    story = Story()
    receipt, worker, answered = story.answer(story.ask())
    assert get_outcome(answered) is None

    outcome = get_outcome(story.attest(receipt, worker, OUTPUT))

    assert outcome is not None
    assert outcome.is_attested
    assert outcome.verifiers == draw(story.state, receipt)
    assert decode(ReceiptFile, outcome.receipt_file).receipt == receipt


def test_one_attestation_alone_releases_nothing_and_the_silent_verifier_is_asked():
    story = Story()
    receipt, worker, _ = story.answer(story.ask())
    one = attest(story.state, story.parts.foundation, receipt, receipt.output_digest)[:1]

    assert get_outcome(story.do(Requested(worker.public, Attestations(one), "infer", "s2"))) is None
    asked = find_all(story.later(PULL_MS), Request)

    assert [item.peer for item in asked] == [draw(story.state, receipt)[1]]
    assert isinstance(asked[0].message, GetAttestations)


def find_shown(effects: Iterable[Effect]) -> list[Request]:
    return [item for item in find_all(effects, Request) if isinstance(item.message, GetOpening)]


def decide(story: Story, receipt: Receipt) -> list[Effect]:
    """The ledger finds the claim wrong, as the verifiers' dispute has it."""
    wrong = ProvenWrong(receipt.claim.epoch, bytes(32), 5)
    story.state = replace(story.state, wrong={compute_claim_id(receipt.claim): wrong})
    return story.do(LedgerAdvanced(story.state))


def test_one_dissent_has_the_receipt_shown_to_the_verifiers_and_another_worker_asked():
    story = Story()
    receipt, worker, _ = story.answer(story.ask(), LIE)
    items = attest(story.state, story.parts.foundation, receipt, compute_tensors_digest((OUTPUT,)))
    disputed = story.do(Requested(worker.public, Attestations(items[1:]), "infer", "s2"))

    shown = find_shown(disputed)
    assert [item.peer for item in shown] == list(draw(story.state, receipt))
    assert {item.message for item in shown} == {GetOpening(receipt, (ROW,))}
    assert find_sent(disputed).voucher.attempt == 2
    assert not find_all(disputed, Submit)  # it stakes nothing on what verifiers say
    assert not find_shown(story.do(Requested(worker.public, Attestations(items), "infer", "s3")))


FLOATS = Tensor("float32", (1, 10), b"\0\0\xc8\x42" * 10)  # a hundred
CLOSE = Tensor("float32", (1, 10), b"\0\0\xc8\x42" * 9 + b"\4\0\xc8\x42")  # and its last number a bit more
DISTANT = Tensor("float32", (1, 10), b"\0\0\xc8\x42" * 9 + b"\0\1\xc8\x42")


def attest_floats(found: Tensor) -> tuple[Story, list[Request], dict[bytes, Attestation]]:
    """A float model's answer whose verifiers found something else; what they are asked, and what they would show."""
    story = Story()
    model = find_model(story.state)
    inexact = replace(model, exact=0, calibration=(CALIBRATION,), outputs=(TensorSpec("float32", (0, 10)),))
    story.state = replace(story.state, models=dict(story.state.models) | {model.digest: inexact})
    story.do(LedgerAdvanced(story.state))
    asked = story.ask()
    story.state = replace(story.state, models=dict(story.state.models) | {model.digest: inexact})
    story.do(LedgerAdvanced(story.state))
    receipt, worker, _ = story.answer(asked, FLOATS)
    effects = story.attest(receipt, worker, found)
    assert get_outcome(effects) is None
    names = story.parts.foundation.nodes
    keys = {
        get_keys(story.parts.foundation, name)[0].public: get_keys(story.parts.foundation, name)[0] for name in names
    }
    items = attest(story.state, story.parts.foundation, receipt, compute_tensors_digest((found,)))
    shown = {item.verifier: sign(replace(item, shown=encode_tensors((found,))), keys[item.verifier]) for item in items}
    return story, find_shown(effects), shown


def show(story: Story, question: Request, item: Attestation) -> list[Effect]:
    opening = Opening(item.claim_id, compute_tensors_digest((CLOSE,)), (item,))
    return story.do(Received(question.peer, opening, token=question.token))


def test_an_answer_is_released_when_every_verifier_has_shown_something_near():
    story, asked, shown = attest_floats(CLOSE)
    assert {question.peer for question in asked} == shown.keys()
    first, second = asked
    assert get_outcome(show(story, first, shown[first.peer])) is None
    outcome = get_outcome(show(story, second, shown[second.peer]))
    assert outcome is not None
    assert outcome.outputs == (FLOATS,)
    assert outcome.is_attested
    assert all(item.shown for item in decode(ReceiptFile, outcome.receipt_file).attestations)


@pytest.mark.parametrize("said", ["nothing", "distant", "not before", "blind"])
def test_a_verifier_that_shows_nothing_near_has_another_worker_asked(said: str):
    story, asked, shown = attest_floats(DISTANT if said == "distant" else CLOSE)
    first = asked[0]
    item = shown[first.peer]
    match said:
        case "nothing":
            effects = story.do(RequestFailed(first.peer, first.token, "gone"))
        case "distant":
            effects = show(story, first, item)
        case "blind":
            effects = show(story, first, replace(item, shown=b""))
        case _:
            fresh = compute_attestation(item.claim_id, item.verifier, compute_tensors_digest((FLOATS,)))
            effects = show(story, first, replace(item, value=fresh, shown=encode_tensors((FLOATS,))))
    assert get_outcome(effects) is None
    assert find_sent(effects).voucher.attempt == 2


def test_a_client_killed_in_a_dispute_goes_on_with_it_until_the_ledger_has_decided():
    story = Story()
    receipt, worker, _ = story.answer(story.ask(), LIE)
    kept = find(story.attest(receipt, worker, OUTPUT), Store, lambda item: item.bucket == "disputes")

    story.client = ClientRole(Context({}, story.parts.node, story.parts.account, random.Random(2)))
    story.do(Started(story.state, {"disputes": {kept.key: kept.value}}))
    assert len(find_shown(story.later(PULL_MS))) == 2

    done = decide(story, receipt)
    assert find(done, Store).value is None
    assert find(done, Record).name == "wrong.proven"
    assert not find_shown(story.later(PULL_MS))


def test_a_verifier_that_found_what_the_worker_says_is_asked_no_more_and_a_dissenter_seldom():
    story = Story()
    receipt, worker, _ = story.answer(story.ask(), LIE)
    story.attest(receipt, worker, OUTPUT)
    friend, dissenter = draw(story.state, receipt)
    for verifier, found in ((friend, LIE), (dissenter, OUTPUT)):
        opening = Opening(compute_claim_id(receipt.claim), compute_tensors_digest((found,)))
        story.do(Received(verifier, opening, token="opening"))
    assert not find_shown(story.later(ASK_AGAIN_MS))
    assert [item.peer for item in find_shown(story.later(REMIND_MS))] == [dissenter]


def test_a_client_gives_a_case_up_when_the_ledger_takes_no_dispute_about_it_any_more():
    story = Story()
    receipt, worker, _ = story.answer(story.ask(), LIE)
    story.attest(receipt, worker, OUTPUT)
    latest_ms = receipt.claim.deadline_ms + story.state.params.challenge_ms
    assert find_shown(story.later(latest_ms - story.now_ms))
    story.state = replace(story.state, time_ms=latest_ms + 1)
    story.do(LedgerAdvanced(story.state))
    ended = story.later(ASK_AGAIN_MS)
    assert not find_shown(ended)
    assert "dispute.void" in [item.name for item in find_all(ended, Record)]


def test_verifiers_that_do_not_open_are_asked_again():
    story = Story()
    receipt, worker, _ = story.answer(story.ask(), LIE)
    story.attest(receipt, worker, OUTPUT)

    pressed = [item for item in find_all(story.later(PULL_MS), Request) if isinstance(item.message, GetOpening)]

    assert len(pressed) == 2


def test_outputs_that_are_not_those_of_the_receipt_are_refused():
    story = Story()
    sent = story.ask()
    worker = story.find_worker(find(sent, Record).fields["worker"])
    receipt = make_receipt(find_sent(sent), worker)

    effects = story.do(Requested(worker.public, Result(receipt, (LIE,)), "infer", "s1"))

    assert [item.peer for item in find_all(effects, Penalise)] == [worker.public]
    assert get_outcome(story.attest(receipt, worker, OUTPUT)) is None


def test_another_worker_is_asked_once_when_a_result_does_not_fit():
    story = Story()
    sent = story.ask()
    worker = story.find_worker(find(sent, Record, lambda record: record.name == "request.sent").fields["worker"])
    bad = Result(make_receipt(find_sent(sent), worker, (OUTPUT,)), (LIE,))

    first, again = (story.do(Requested(worker.public, bad, "infer", "s1")) for _ in range(2))

    (other,) = [record for record in find_all(first, Record) if record.name == "request.sent"]
    assert other.fields["worker"] != worker.public
    assert [record.name for record in find_all(again, Record)] == ["result.malformed"]


def test_a_receipt_of_another_node_is_refused():
    story = Story()
    sent = story.ask()
    worker = story.find_worker(find(sent, Record).fields["worker"])
    other = next(key for key in map(story.find_worker, list_workers(story)) if key.public != worker.public)
    receipt = make_receipt(find_sent(sent), other)

    assert find_all(story.do(Requested(worker.public, Result(receipt, (OUTPUT,)), "infer", "s1")), Penalise)


def list_workers(story: Story) -> list[bytes]:
    return [record.node for record in story.state.get_nodes("inference")]


def test_what_is_paid_from_a_new_channel_goes_to_its_worker_who_waits_for_the_block():
    story = Story()
    story.is_known = False
    first = story.ask("first")
    story.do(Submitted("open", 1))
    story.now_ms += OPENED_MS - 1
    second = story.ask("second")
    story.now_ms += 1

    third = story.ask("third")

    assert [bool(find_all(each, Publish)) for each in (first, second, third)] == [False, False, True]
    assert all(isinstance(find(each, Request).message, DirectRequest) for each in (first, second))


def find_worker_asked(effects: Iterable[Effect]) -> bytes:
    worker: bytes = find(effects, Record, lambda record: record.name == "request.sent").fields["worker"]
    return worker


def test_a_worker_that_has_not_answered_for_a_third_of_the_time_is_asked_beside_another_and_then_no_more():
    story = Story()
    first = story.ask(timeout_ms=9_000)
    silent = find_worker_asked(first)
    assert not find_hedged(story.later(2_900))

    hedged = story.later(200)

    assert find_hedged(hedged) == [silent]
    assert find_worker_asked(hedged) != silent
    assert find_sent(hedged).voucher.attempt == 2
    receipt, worker, _ = story.answer(hedged)
    assert get_outcome(story.attest(receipt, worker, OUTPUT))
    later = [story.ask(f"later {number}") for number in range(12)]
    assert all(find_worker_asked(each) != silent for each in later)


def test_how_long_is_late_is_told_by_how_soon_workers_have_answered():
    story = Story()
    for number in range(8):
        effects = story.ask(f"t{number}")
        story.now_ms += 50
        story.attest(*story.answer(effects)[:2], OUTPUT)
    story.ask("late", timeout_ms=30_000)

    assert not find_hedged(story.later(WAIT_MS - 100))
    assert find_hedged(story.later(200))


def find_hedged(effects: Iterable[Effect]) -> list[bytes]:
    """The workers beside whom others are asked."""
    return [item.fields["worker"] for item in find_all(effects, Record) if item.name == "request.hedged"]


def test_silence_is_met_with_two_more_messages_then_a_stream_then_another_worker():
    story = Story()
    first = find_sent(story.ask())
    retries = [story.later(RETRY_MS) for _ in range(GOSSIP_TRIES)]

    for retry in retries[:-1]:
        again = find_sent(retry)
        assert again == first
    direct = find(retries[-1], Request)
    assert isinstance(direct.message, DirectRequest)
    assert any(item.name == "request.direct" and item.fields["reason"] for item in find_all(retries[-1], Record))

    fallen_back = story.do(RequestFailed(direct.peer, direct.token, "no route"))
    second = find_sent(fallen_back)
    assert second.request == first.request
    assert (second.voucher.attempt, second.voucher.channel != first.voucher.channel) == (2, True)


def give_up_first_worker(story: Story) -> tuple[list[Effect], Request]:
    """The first worker is asked in vain, by gossip and by stream; what was sent to it, and the question it missed."""
    sent = story.ask()
    for _ in range(GOSSIP_TRIES):
        retried = story.later(RETRY_MS)
    direct = find(retried, Request)
    story.do(RequestFailed(direct.peer, direct.token, "no route"))
    return sent, direct


def test_a_worker_out_of_reach_is_asked_again_until_it_answers_and_its_answer_counts():
    story = Story()
    sent, direct = give_up_first_worker(story)

    again = find(story.later(RETRY_MS), Request, lambda item: item.peer == direct.peer)
    assert isinstance(again.message, DirectRequest)
    assert not find_all(story.later(RETRY_MS - 1), Request), "one question at a time"
    story.do(RequestFailed(again.peer, again.token, "no route"))
    assert find(story.later(RETRY_MS), Request, lambda item: item.peer == direct.peer)
    receipt, worker, _ = story.answer(sent)
    outcome = get_outcome(story.attest(receipt, worker, OUTPUT))

    assert outcome is not None
    assert (outcome.is_attested, outcome.worker, outcome.attempts) == (True, worker.public, 2)


def test_a_late_lie_of_a_worker_out_of_reach_is_disputed_once_and_no_third_worker_is_asked_for_it():
    story = Story()
    sent, _ = give_up_first_worker(story)
    receipt, worker, _ = story.answer(sent, LIE)

    disputed = story.attest(receipt, worker, OUTPUT)

    assert len([item for item in find_all(disputed, Request) if isinstance(item.message, GetOpening)]) == 2
    assert not find_all(disputed, Publish)
    assert story.attest(receipt, worker, OUTPUT) == [find(disputed, Reply)]


def test_a_worker_that_is_asked_directly_may_answer_the_question_itself():
    story = Story()
    sent = story.ask(is_direct=True, mode=Mode.BATCH)
    item, question = find_sent(sent), find(sent, Request)
    receipt = make_receipt(item, story.find_worker(question.peer), (OUTPUT,))

    answered = story.do(Received(question.peer, Result(receipt, (OUTPUT,)), token=question.token))

    outcome = get_outcome(answered)
    assert outcome is not None
    assert (outcome.request_id, outcome.code) == (item.voucher.request_id, "")
    assert not find_all(answered, Reply)


def test_a_refusal_that_its_worker_has_not_signed_is_blamed_on_whoever_sent_it():
    story = Story()
    item = find_sent(sent := story.ask())
    worker = find(sent, Record).fields["worker"]
    forged = Refusal(item.voucher.request_id, 1, "bad_input", "because", bytes(64))

    told = story.do(Requested(worker, forged, "infer", "s"))

    assert find(told, Penalise).peer == worker
    assert get_outcome(told) is None


def test_a_busy_worker_is_passed_over_and_a_bad_input_is_not_tried_again():
    busy, bad = Story(), Story()
    for story, code in ((busy, "busy"), (bad, "bad_input")):
        sent = story.ask()
        item = find_sent(sent)
        worker = find(sent, Record).fields["worker"]
        story.last = story.refuse(worker, item.voucher.request_id, 1, code)  # type: ignore[attr-defined]

    assert find_sent(busy.last).voucher.attempt == 2  # type: ignore[attr-defined]
    outcome = get_outcome(bad.last)  # type: ignore[attr-defined]
    assert outcome is not None
    assert (outcome.code, outcome.reason) == ("bad_input", "because")


def test_a_worker_that_has_not_fetched_the_model_yet_is_passed_over():
    story = Story()
    sent = story.ask()
    told = story.refuse(find(sent, Record).fields["worker"], find_sent(sent).voucher.request_id, 1, "no_model")
    assert find_sent(told).voucher.attempt == 2


@pytest.mark.parametrize(("code", "is_given_less"), [("busy", True), ("behind", False)])
def test_a_worker_whose_ledger_is_late_is_asked_less_often_and_may_have_as_many_at_once(code: str, is_given_less: bool):
    story = Story()
    sent = story.ask()
    worker, request_id = find(sent, Record).fields["worker"], find_sent(sent).voucher.request_id
    dispatch = story.client._jobs.dispatch

    assert find_sent(story.refuse(worker, request_id, 1, code)).voucher.attempt == 2
    assert dispatch.throttle._counts[worker].taken == 0
    assert (dispatch._limits.get(worker, story.now_ms) < math.inf) == is_given_less


def test_what_every_worker_would_turn_away_is_refused_at_once_and_costs_nobody_anything():
    story = Story()
    throttle = story.client._jobs.dispatch.throttle
    for worker in [node.node for node in story.state.get_nodes("inference")]:
        for _ in range(10_000):
            throttle.note_asked(worker, story.now_ms)
            throttle.note_busy(worker, story.now_ms)

    outcome = get_outcome(story.ask())

    assert outcome is not None
    assert (outcome.code, outcome.attempts) == ("busy", 0)
    assert "turns away" in outcome.reason


def test_a_request_ends_at_its_deadline_with_a_reason():
    story = Story()
    story.ask(timeout_ms=5_000)

    outcome = get_outcome(story.later(6_000))

    assert outcome is not None
    assert not outcome.is_attested
    assert "deadline" in outcome.reason


def test_a_limit_below_every_price_fails_at_once():
    story = Story()
    ask = Ask("a", find_model(story.state).digest, (ROW,), PRICE - 1)

    outcome = get_outcome(story.do(Commanded(ask)))

    assert outcome is not None
    assert outcome.code == "price"
    assert str(PRICE) in outcome.reason


def test_no_more_vouchers_are_in_flight_with_a_worker_than_its_step():
    story = Story(step=1)
    sent = [effect for number in range(5) for effect in story.ask(f"a{number}")]

    workers = [item.fields["worker"] for item in find_all(sent, Record) if item.name == "request.sent"]

    assert sorted(workers) == sorted(list_workers(story))


def test_a_restarted_client_goes_on_counting_its_vouchers():
    story = Story()
    sent = story.ask()
    first = find_sent(sent)
    stored = {item.key: item.value for item in find_all(sent, Store) if item.bucket == "vouchers"}
    again = ClientRole(Context({}, story.parts.node, story.parts.account, random.Random(2)))
    again.handle(Started(story.state, {"vouchers": stored}), story.now_ms)
    seqs = []
    for number in range(3):
        ask = Ask(f"b{number}", find_model(story.state).digest, (ROW,), PRICE)
        seqs += [find_sent(again.handle(Commanded(ask), story.now_ms)).voucher]

    assert all(voucher.seq == 2 for voucher in seqs if voucher.channel == first.voucher.channel)
    assert len({(voucher.channel, voucher.seq) for voucher in [first.voucher, *seqs]}) == 4


def test_asks_that_cannot_be_met_fail_at_once_with_what_would_help():
    story = Story()
    unknown = get_outcome(story.do(Commanded(Ask("a", bytes(32), (ROW,), PRICE))))
    wrong = get_outcome(story.do(Commanded(Ask("b", find_model(story.state).digest, (OUTPUT,), PRICE))))
    large = Tensor("uint8", (1_000, 64), bytes(64_000))
    too_large = get_outcome(story.do(Commanded(Ask("c", find_model(story.state).digest, (large,), PRICE))))

    too_long = get_outcome(story.do(Commanded(Ask("d", find_model(story.state).digest, (ROW,), PRICE, 120_001))))

    assert too_long is not None
    assert too_long.code == "policy"
    assert unknown is not None
    assert "digits" in unknown.reason
    assert wrong is not None
    assert wrong.code == "bad_input"
    assert "uint8" in wrong.reason
    assert too_large is not None
    assert too_large.code == "too_large"
    assert "several requests" in too_large.reason
