"""A worker keeps what it claims before it says so, answers repeats, and settles only what was attested."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from protocol.content import format_cid
from protocol.jobs import Attestation, PaidRequest, compute_attestation
from protocol.keys import format_node
from protocol.ledger.state import State
from protocol.ledger.transactions import SettleIndividual, ZeroReason
from protocol.messages import (
    Accepted,
    Attestations,
    Cancel,
    Claims,
    DirectRequest,
    GetAttestations,
    Opening,
    Refusal,
    Refused,
    Requests,
    Result,
)
from protocol.signing import sign, verify_signed
from protocol.tensor import Tensor, compute_tensors_digest, encode_tensors
from roles.admission import FALLBACK_CODES, RefusalCode
from roles.claimant import ASK_MS
from roles.delivery import HOLD_MS, RESULT_AGAIN_MS
from roles.inference import TICK_MS, Inference
from roles.intake import EARLY_MS, JOBS_MAX
from roles.lateness import SINGLE
from roles.packing import LEAVE_MS
from roles.role import (
    Compute,
    Computed,
    Context,
    Effect,
    Fetch,
    Fetched,
    LedgerAdvanced,
    Publish,
    Received,
    Reply,
    Request,
    Requested,
    RequestFailed,
    Send,
    SetTimer,
    Started,
    Store,
    Submit,
    TimerFired,
    Withdraw,
)
from roles.settler import SETTLE_MS
from roles.workbook import VOID_GRACE_MS
from testnet.found import load_model_files
from tests.protocol.ledger.test_models import CALIBRATION
from tests.roles.test_admission import make_ledger
from tests.support.jobs import (
    OUTPUT,
    ROW,
    attest,
    find_model,
    get_keys,
    make_request,
    pay,
    sign_transaction,
)

OTHER = Tensor("int32", (1, 10), bytes(39) + b"\1")


class Story:
    """An inference node with its model at hand and a channel from client-0."""

    def __init__(self) -> None:
        self.parts, self.state, self.channel, _ = make_ledger()
        self.node, self.account = get_keys(self.parts.foundation, "inference-0")
        self.now_ms = self.state.time_ms
        self.worker = self.start({})

    def start(self, journal: dict[bytes, bytes]) -> Inference:
        context = Context({}, self.node, self.account, random.Random(1))
        worker = Inference(context)
        worker.handle(Started(self.state, {"jobs": journal}), self.now_ms)
        for model in load_model_files():
            worker.handle(Fetched(format_cid(model.record.digest), model.data), self.now_ms)
        assert worker.is_ready
        return worker

    def do(self, event: Any) -> list[Effect]:
        return self.worker.handle(event, self.now_ms)

    def later(self, wait_ms: int, timer: str = "tick") -> list[Effect]:
        self.now_ms += wait_ms
        return self.do(TimerFired(timer))

    def make_item(self, seq: int = 1, **changes: Any) -> PaidRequest:
        return pay(
            make_request(self.state, self.parts.foundation, seq, **changes), self.parts.foundation, self.channel, seq
        )

    def ask(self, item: PaidRequest) -> list[Effect]:
        return self.do(Received(item.request.client, Requests((item,)), "infer/0"))

    def ask_directly(self, item: PaidRequest, token: str) -> list[Effect]:
        return self.do(Requested(item.request.client, DirectRequest(item), "infer", token))

    def compute(self, taken: Iterable[Effect], output: Tensor = OUTPUT) -> list[Effect]:
        return self.do(Computed(find(taken, Compute).token, (output,), "test"))

    def attest(self, computed: Iterable[Effect], found: Tensor = OUTPUT) -> list[Effect]:
        receipt = get_result(computed).receipt
        items = attest(self.state, self.parts.foundation, receipt, compute_tensors_digest((found,)))
        effects: list[Effect] = []
        for item in items:
            effects += self.do(Received(item.verifier, Attestations((item,)), "proofs"))
        return effects


def find(effects: Iterable[Effect], kind: type) -> Any:
    return next(item for item in effects if isinstance(item, kind))


def find_all(effects: Iterable[Effect], kind: type) -> list[Any]:
    return [item for item in effects if isinstance(item, kind)]


def get_result(effects: Iterable[Effect]) -> Result:
    return next(item.message for item in find_all(effects, Send) if isinstance(item.message, Result))


def get_settlement(effects: Iterable[Effect]) -> SettleIndividual | None:
    bodies = [item.item for item in find_all(effects, Submit)]
    return bodies[0] if bodies else None


def apply(story: Story, body: SettleIndividual) -> State:
    parts = replace(story.parts, state=story.state)
    _, after = parts.build([sign_transaction(story.state, story.account, body)])
    return after


def test_a_claim_is_on_disk_before_result_or_claim_leave():
    story = Story()
    computed = story.compute(story.ask(story.make_item()))
    claimed = story.later(LEAVE_MS, "claims")

    assert [type(item) for item in computed if isinstance(item, Store | Send)] == [Store, Send]
    assert isinstance(find(claimed, Publish).message, Claims)


def test_the_claim_hides_the_output_and_the_result_goes_to_the_client_alone():
    story = Story()
    item = story.make_item()
    computed = story.compute(story.ask(item))
    claim = find(story.later(LEAVE_MS, "claims"), Publish).message.items[0].claim

    digest = compute_tensors_digest((OUTPUT,))
    assert digest not in (claim.commitment, claim.input_digest)
    assert [send.peer for send in find_all(computed, Send)] == [item.request.client]
    assert not find_all(computed, Publish)


def test_an_attested_job_settles_once():
    story = Story()
    story.attest(story.compute(story.ask(story.make_item())))
    body = get_settlement(story.later(SETTLE_MS))
    assert body is not None

    story.state = apply(story, body)
    forgotten = story.do(LedgerAdvanced(story.state))

    assert story.state.channels[story.channel].settled_seq == 1
    assert [item.value for item in find_all(forgotten, Store) if item.bucket == "jobs"] == [None]
    assert get_settlement(story.later(SETTLE_MS)) is None


def test_the_attestations_are_forwarded_to_the_client():
    story = Story()
    item = story.make_item()
    sends = find_all(story.attest(story.compute(story.ask(item))), Send)

    assert [send.peer for send in sends] == [item.request.client]
    assert len(sends[0].message.items) == 2


def test_a_job_the_verifiers_dissent_from_earns_nothing():
    story = Story()
    story.attest(story.compute(story.ask(story.make_item())), found=OTHER)

    body = get_settlement(story.later(SETTLE_MS))

    assert body is not None
    assert [leaf.reason for leaf in body.runs[0].leaves] == [ZeroReason.DISSENT]
    apply(story, body)


FLOATS = Tensor("float32", (1, 10), b"\0\0\xc8\x42" * 10)  # a hundred
CLOSE = Tensor("float32", (1, 10), b"\0\0\xc8\x42" * 9 + b"\4\0\xc8\x42")  # and its last number a bit more
DISTANT = Tensor("float32", (1, 10), b"\0\0\xc8\x42" * 9 + b"\0\1\xc8\x42")


def attest_floats(found: Tensor) -> tuple[Story, list[Request], dict[bytes, Attestation]]:
    """A float model's worker whose verifiers all found something else; what it asks them, and what they would show."""
    story = Story()
    model = find_model(story.state)
    models = dict(story.state.models) | {model.digest: replace(model, exact=0, calibration=(CALIBRATION,))}
    story.state = replace(story.state, models=models)
    story.worker = story.start({})
    computed = story.compute(story.ask(story.make_item()), FLOATS)
    receipt = get_result(computed).receipt
    asked = find_all(story.attest(computed, found), Request)
    items = attest(story.state, story.parts.foundation, receipt, compute_tensors_digest((found,)))
    keys = [get_keys(story.parts.foundation, name)[0] for name in story.parts.foundation.nodes]
    shown = {
        item.verifier: sign(
            replace(item, shown=encode_tensors((found,))), next(key for key in keys if key.public == item.verifier)
        )
        for item in items
    }
    return story, asked, shown


def answer_shown(story: Story, question: Request, item: Attestation) -> list[Effect]:
    opening = Opening(item.claim_id, compute_tensors_digest((CLOSE,)), (item,))
    return story.do(Received(question.peer, opening, token=question.token))


def test_verifiers_that_found_something_near_are_asked_for_it_and_the_job_is_settled_with_it():
    story, asked, shown = attest_floats(CLOSE)
    assert {question.peer for question in asked} == shown.keys()
    assert get_settlement(story.later(SETTLE_MS)) is None  # it has not ended yet
    first, second = asked
    answer_shown(story, first, shown[first.peer])
    again = find_all(story.later(ASK_MS), Request)
    assert [question.peer for question in again] == [second.peer]

    stored = find(answer_shown(story, second, shown[second.peer]), Store)
    story.worker = story.start({stored.key: stored.value})

    body = get_settlement(story.later(SETTLE_MS))
    assert body is not None
    (leaf,) = body.runs[0].leaves
    assert leaf.work[0].outputs == (FLOATS,)
    assert all(item.shown for item in leaf.work[0].attestations)


@pytest.mark.parametrize("said", ["nothing", "refused", "distant", "of another's", "not before"])
def test_a_verifier_that_shows_nothing_near_stays_in_dissent(said: str):
    story, asked, shown = attest_floats(DISTANT if said == "distant" else CLOSE)
    first, second = asked
    item = shown[first.peer]
    match said:
        case "nothing":
            story.do(RequestFailed(first.peer, first.token, "gone"))
        case "refused":
            story.do(Received(first.peer, Refused("no"), token=first.token))
        case "distant":
            answer_shown(story, first, item)
        case "of another's":
            answer_shown(story, first, shown[second.peer])
        case _:
            fresh = compute_attestation(item.claim_id, item.verifier, compute_tensors_digest((FLOATS,)))
            answer_shown(story, first, replace(item, value=fresh, shown=encode_tensors((FLOATS,))))

    body = get_settlement(story.later(SETTLE_MS))
    assert body is not None
    assert [leaf.reason for leaf in body.runs[0].leaves] == [ZeroReason.DISSENT]


def test_a_verifier_is_asked_for_a_late_attestation_before_its_claim_is_said_again_or_it_is_shunned():
    story = Story()
    story.compute(story.ask(story.make_item()))

    asked = story.later(ASK_MS)

    committee = {effect.peer for effect in find_all(asked, Request)}
    assert len(committee) == 2
    assert all(isinstance(effect.message, GetAttestations) for effect in find_all(asked, Request))
    assert not find_all(asked, Publish)
    assert find_all(story.ask(story.make_item(2)), Compute), "nobody is shunned yet"
    again = story.later(2 * ASK_MS)
    assert {effect.peer for effect in find_all(again, Request)} == committee
    assert isinstance(find(again, Publish).message, Claims)
    assert not find_all(story.ask(story.make_item(3)), Compute)


def test_a_verifier_that_attests_is_shunned_no_longer_though_another_is_silent():
    story = Story()
    receipt = get_result(story.compute(story.ask(story.make_item()))).receipt
    first, second = attest(story.state, story.parts.foundation, receipt, compute_tensors_digest((OUTPUT,)))
    story.later(ASK_MS)
    story.later(2 * ASK_MS)

    def refuse(seq: int) -> str:
        return str(find(story.ask(story.make_item(seq)), Send).message.reason)

    refused = refuse(2)
    heard, silent = sorted((first, second), key=lambda item: format_node(item.verifier) not in refused)
    story.do(Received(heard.verifier, Attestations((heard,)), "proofs"))

    assert format_node(heard.verifier) in refused
    assert format_node(silent.verifier) in refuse(3)


def test_what_is_said_of_claims_of_an_earlier_process_tells_nothing_about_how_long_that_takes():
    story = Story()
    computed = story.compute(story.ask(story.make_item()))
    stored = find(computed, Store)
    story.worker = story.start({stored.key: stored.value})
    story.attest(computed)

    story.compute(story.ask(story.make_item(2)))

    assert find_all(story.later(ASK_MS), Request)


def test_an_unattested_job_is_chased_and_then_void():
    story = Story()
    item = story.make_item()
    story.compute(story.ask(item))

    story.later(ASK_MS)
    chased = story.later(2 * ASK_MS)
    assert isinstance(find(chased, Publish).message, Claims)
    story.now_ms = item.request.deadline_ms + VOID_GRACE_MS
    body = get_settlement(story.later(TICK_MS))

    assert body is not None
    assert [leaf.reason for leaf in body.runs[0].leaves] == [ZeroReason.UNATTESTED]


def test_a_result_the_client_did_not_take_is_sent_again():
    story = Story()
    computed = story.compute(story.ask(story.make_item()))
    token = find(computed, Send).token

    timer = find(story.do(RequestFailed(b"c" * 32, token, "reset")), SetTimer)
    assert timer.at_ms > story.now_ms
    again = story.later(2 * RESULT_AGAIN_MS, timer.name)

    assert get_result(again) == get_result(computed)


def test_a_repeated_request_is_answered_again_and_run_once_even_after_it_has_settled():
    story = Story()
    item = story.make_item()
    computed = story.compute(story.ask(item))
    assert get_result(story.ask(item)) == get_result(computed)
    story.attest(computed)
    body = get_settlement(story.later(SETTLE_MS))
    assert body is not None
    story.state = apply(story, body)
    story.do(LedgerAdvanced(story.state))

    again = story.ask_directly(item, "s")

    assert find_all(again, Reply) == [Reply("s", get_result(computed))]
    assert not find_all(again, Compute)


def test_who_asks_on_a_stream_hears_there_what_came_of_it():
    story = Story()
    item = story.make_item()

    computed = story.compute(story.ask_directly(item, "s"))

    kept, reply = (computed.index(find(computed, kind)) for kind in (Store, Reply))
    assert kept < reply
    assert computed[reply].token == "s"
    assert computed[reply].message.receipt.claim.request_id == item.voucher.request_id
    assert not [send for send in find_all(computed, Send) if isinstance(send.message, Result)]
    assert not find_all(story.later(HOLD_MS), Reply)


def test_who_asks_on_a_stream_hears_a_refusal_there():
    story = Story()
    item = story.make_item(deadline_ms=story.now_ms)

    refused = story.ask_directly(item, "s")

    (reply,) = find_all(refused, Reply)
    assert reply.token == "s"
    verify_signed(reply.message, story.node.public)
    assert not find_all(refused, Send)


def test_a_result_that_takes_long_is_promised_first_and_sent_later():
    story = Story()
    taken = story.ask_directly(story.make_item(), "s")
    assert not find_all(story.later(HOLD_MS - 1), Reply)

    assert find_all(story.later(1), Reply) == [Reply("s", Accepted())]

    computed = story.compute(taken)
    assert get_result(computed)
    assert not find_all(computed, Reply)


def test_who_asks_twice_is_answered_once_where_it_asked_last():
    story = Story()
    item = story.make_item()
    taken = story.ask_directly(item, "s1")

    again = story.ask_directly(item, "s2")

    assert again == [Reply("s1", Accepted())]
    assert [reply.token for reply in find_all(story.compute(taken), Reply)] == ["s2"]


def test_a_voucher_pays_one_request_only():
    story = Story()
    story.ask(story.make_item())
    other = pay(make_request(story.state, story.parts.foundation, 99), story.parts.foundation, story.channel, 1)

    refused = story.ask(other)

    assert [send.message.code for send in find_all(refused, Send)] == ["voucher_reused"]


def test_a_request_whose_voucher_names_another_worker_is_none_of_our_business():
    story = Story()
    item = story.make_item()
    _, other = get_keys(story.parts.foundation, "inference-1")
    context = Context({}, story.node, other, random.Random(1))
    stranger = Inference(context)
    stranger.handle(Started(story.state, {}), story.now_ms)

    assert stranger.handle(Received(item.request.client, Requests((item,)), "infer/0"), story.now_ms) == []


def test_a_failed_run_is_refused_and_settles_as_nothing():
    story = Story()
    taken = story.ask(story.make_item())
    failed = story.do(Computed(find(taken, Compute).token, None, "", "the worker process died"))

    refusal = find(failed, Send).message
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.reason) == ("failed", "the worker process died")
    body = get_settlement(story.later(SETTLE_MS))
    assert body is not None
    assert [leaf.reason for leaf in body.runs[0].leaves] == [ZeroReason.FAILED]


def test_a_killed_worker_settles_what_it_had_claimed():
    story = Story()
    computed = story.compute(story.ask(story.make_item()))
    attested = story.attest(computed)
    journal = {item.key: item.value for item in find_all([*computed, *attested], Store) if item.bucket == "jobs"}
    expected = get_settlement(story.later(SETTLE_MS))

    story.worker = story.start(journal)

    assert get_settlement(story.later(SETTLE_MS)) == expected


@pytest.mark.parametrize(("blob", "code"), [(encode_tensors((ROW,)), ""), (b"junk", "bad_input"), (None, "bad_input")])
def test_inputs_may_come_as_a_blob(blob: bytes | None, code: str):
    story = Story()
    digest = bytes(31) + b"\7"
    item = story.make_item(inputs=(), inputs_blob=(digest,))
    fetch = find(story.ask(item), Fetch)
    assert fetch.source == format_cid(digest)

    fetched = story.do(Fetched(fetch.source, blob, "" if blob else "no storage node has it"))

    if code:
        assert [send.message.code for send in find_all(fetched, Send)] == [code]
    else:
        assert find(fetched, Compute).inputs == (ROW,)
        receipt = get_result(story.compute(fetched)).receipt
        assert receipt.claim.input_digest == compute_tensors_digest((ROW,))


def test_models_that_are_not_held_are_not_promised():
    story = Story()
    worker = Inference(Context({}, story.node, story.account, random.Random(1)))
    worker.handle(Started(story.state, {}), story.now_ms)
    item = story.make_item()

    refused = worker.handle(Received(item.request.client, Requests((item,)), "infer/0"), story.now_ms)

    assert not worker.is_ready
    assert [send.message.code for send in find_all(refused, Send)] == ["no_model"]
    assert find_model(story.state).digest not in worker.models


def call_off(story: Story, item: PaidRequest, client: bytes = b"") -> list[Effect]:
    voucher = item.voucher
    wish = Cancel(voucher.request_id, voucher.attempt, voucher.channel, voucher.seq)
    return story.do(Requested(client or item.request.client, wish, "infer", "c"))


def list_refusals(effects: Iterable[Effect]) -> list[str]:
    return [send.message.code for send in find_all(effects, Send) if isinstance(send.message, Refusal)]


def settle(story: Story) -> list[int]:
    """The reasons of the next settlement's leaves, which the ledger takes."""
    body = get_settlement(story.later(SETTLE_MS))
    assert body is not None
    story.state = apply(story, body)
    return [leaf.reason for run in body.runs for leaf in run.leaves]


def test_a_job_called_off_before_it_began_is_refused_and_settles_as_nothing():
    story = Story()
    item = story.make_item()
    taken = story.ask(item)

    called_off = call_off(story, item)
    assert isinstance(find(called_off, Reply).message, Accepted)
    assert find(called_off, Withdraw).token == find(taken, Compute).token
    ended = story.do(Computed(find(taken, Compute).token, None, "", "withdrawn: taken back before it began"))

    assert list_refusals(ended) == ["cancelled"]
    assert settle(story) == [ZeroReason.CANCELLED]
    assert story.state.channels[story.channel].paid == 0


def test_a_job_called_off_while_it_runs_counts_and_its_result_follows():
    story = Story()
    item = story.make_item()
    taken = story.ask(item)
    call_off(story, item)

    computed = story.compute(taken)
    again = call_off(story, item)

    assert get_result(again) == get_result(computed)
    assert not find_all(again, Withdraw)
    story.attest(computed)
    assert settle(story) == [0]


def test_a_job_called_off_while_its_inputs_are_fetched_is_never_run():
    story = Story()
    item = story.make_item(inputs=(), inputs_blob=(bytes(31) + b"\7",))
    fetch = find(story.ask(item), Fetch)

    assert list_refusals(call_off(story, item)) == ["cancelled"]
    assert not find_all(story.do(Fetched(fetch.source, encode_tensors((ROW,)))), Compute)


def test_a_request_that_comes_after_it_was_called_off_is_not_run():
    story = Story()
    item = story.make_item()

    assert list_refusals(call_off(story, item)) == ["cancelled"]
    taken = story.ask(item)

    assert not find_all(taken, Compute)
    assert list_refusals(taken) == ["cancelled"]
    assert list_refusals(story.ask(item)) == ["cancelled"], "and says so again to whoever repeats it"
    assert settle(story) == [ZeroReason.CANCELLED]


def test_nobody_calls_off_the_job_of_another_client():
    story = Story()
    item = story.make_item()
    story.ask(item)

    other = call_off(story, item, client=b"x" * 32)

    assert [type(effect) for effect in other] == [Reply]
    early = Story()
    later = early.make_item()
    call_off(early, later, client=b"x" * 32)
    assert find_all(early.ask(later), Compute)


def test_a_failed_job_is_refused_again_to_whoever_repeats_it():
    story = Story()
    item = story.make_item()
    story.do(Computed(find(story.ask(item), Compute).token, None, "", "the worker process died"))

    assert list_refusals(story.ask(item)) == ["failed"]


def test_a_worker_turns_requests_away_while_the_ledger_does_not_settle_what_it_has_done():
    story = Story()
    story.attest(story.compute(story.ask(story.make_item())))
    body = get_settlement(story.later(SETTLE_MS))
    assert body is not None
    story.later(SINGLE.all_ms)
    late, later = (story.make_item(seq, deadline_ms=story.now_ms + 5_000) for seq in (2, 3))

    assert list_refusals(story.ask(late)) == ["behind"]
    story.state = apply(story, body)
    story.do(LedgerAdvanced(story.state))
    story.later(1)
    assert find(story.ask(later), Compute)


def test_only_its_payer_can_have_a_voucher_turned_away_for_good():
    story = Story()
    for seq in range(1, JOBS_MAX + 1):
        story.ask(story.make_item(seq))
    item = story.make_item(JOBS_MAX + 1)
    others = story.make_item(1, nonce=bytes(16)).request
    signed_by_another = replace(item, voucher=replace(item.voucher, signature=bytes(64)))

    for forged in (replace(item, request=others), signed_by_another):
        assert list_refusals(story.ask(forged)) == ["busy"]
    assert not story.worker._book._turned_away
    assert list_refusals(story.ask(item)) == ["busy"]
    assert story.worker._book._turned_away == {story.channel: {JOBS_MAX + 1}}


def test_a_worker_with_its_hands_full_turns_the_next_away_at_once_and_is_not_held_to_it():
    story = Story()
    for seq in range(1, JOBS_MAX + 1):
        assert find(story.ask(story.make_item(seq)), Compute)

    (refused,) = story.ask(story.make_item(JOBS_MAX + 1))

    assert isinstance(refused, Send)
    assert isinstance(refused.message, Refusal)
    assert refused.message.code == "busy"


def test_a_request_of_an_epoch_that_has_not_begun_here_waits_for_its_block():
    story = Story()
    item = story.make_item(epoch=story.state.epoch + 1)
    held = story.ask_directly(item, "s1")
    assert not find_all(held, Compute)
    assert not find_refusals(held)

    _, story.state = replace(story.parts, state=story.state).build([], after_ms=story.state.params.epoch_ms)

    assert story.state.epoch == item.request.epoch
    assert find(story.do(LedgerAdvanced(story.state)), Compute).model == item.request.model


def test_one_of_an_epoch_that_does_not_begin_may_be_given_to_another_worker():
    story = Story()
    story.ask_directly(story.make_item(epoch=story.state.epoch + 1), "s1")

    [refusal] = find_refusals(story.later(EARLY_MS))

    assert refusal.code == RefusalCode.OTHER_EPOCH
    assert refusal.code in FALLBACK_CODES


def find_refusals(effects: Iterable[Effect]) -> list[Refusal]:
    return [item.message for item in find_all(effects, Send | Reply) if isinstance(item.message, Refusal)]
