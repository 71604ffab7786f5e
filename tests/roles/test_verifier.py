"""A verifier re-runs what it is drawn for, says so once and blind, and opens only to a signed receipt."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from protocol.check import WINDOW_MS
from protocol.codec import decode
from protocol.content import format_cid
from protocol.jobs import ClaimedWork, Receipt, compute_attestation, compute_claim_id
from protocol.messages import Attestations, Claims, GetOpening, Opening, Refused
from protocol.proofs.bounds import read_shown
from protocol.signing import sign, verify_signed
from protocol.tensor import Tensor, compute_tensors_digest, decode_tensors, encode_tensors
from protocol.topics import proofs_topic
from roles.challenge import Challenge
from roles.packing import LEAVE_MS
from roles.role import (
    Compute,
    Computed,
    Context,
    Effect,
    Fetch,
    Fetched,
    Publish,
    Received,
    Record,
    Reply,
    Requested,
    SetTimer,
    Started,
    Store,
    TimerFired,
)
from roles.verifier import REPEAT_MS, Verifier
from testnet.found import load_model_files
from tests.protocol.ledger.test_models import CALIBRATION
from tests.roles.test_admission import make_ledger
from tests.support.jobs import OUTPUT, ROW, find_model, get_keys, make_receipt, make_request, pay

DIGEST = compute_tensors_digest((OUTPUT,))


class Story:
    """A verifier with its models at hand, and a worker that claims."""

    def __init__(self, name: str = "verifier-0") -> None:
        self.parts, self.state, self.channel, _ = make_ledger()
        self.node, self.account = get_keys(self.parts.foundation, name)
        self.worker, _ = get_keys(self.parts.foundation, "inference-0")
        self.now_ms = self.state.time_ms
        self.start({})

    def start(self, stored: dict[bytes, bytes]) -> None:
        self.verifier = Verifier(Context({}, self.node, self.account, random.Random(1)))
        self.verifier.handle(Started(self.state, {"attested": stored}), self.now_ms)
        for model in load_model_files():
            self.verifier.handle(Fetched(format_cid(model.record.digest), model.data), self.now_ms)

    def do(self, event: Any) -> list[Effect]:
        return self.verifier.handle(event, self.now_ms)

    def claim(self, seq: int = 1, nonce: int = 1, **changes: Any) -> tuple[ClaimedWork, Receipt]:
        request = make_request(self.state, self.parts.foundation, nonce, **changes)
        receipt = make_receipt(pay(request, self.parts.foundation, self.channel, seq), self.worker)
        return ClaimedWork(receipt.claim, request), receipt

    def hear(self, work: ClaimedWork) -> list[Effect]:
        return self.do(Received(self.worker.public, Claims((work,)), "claims"))

    def attest(self, work: ClaimedWork) -> list[Effect]:
        compute = find(self.hear(work), Compute)
        return self.do(Computed(compute.token, (OUTPUT,), "test"))

    def publish(self) -> Attestations:
        self.now_ms += LEAVE_MS
        return find(self.do(TimerFired("batch")), Publish).message


def find(effects: Iterable[Effect], kind: type) -> Any:
    return next(item for item in effects if isinstance(item, kind))


def has(effects: Iterable[Effect], kind: type) -> bool:
    return any(isinstance(item, kind) for item in effects)


def test_a_drawn_verifier_re_runs_the_claim_and_commits_to_its_own_digest():
    story = Story()
    work, _ = story.claim()
    story.attest(work)
    (attestation,) = story.publish().items

    claim_id = compute_claim_id(work.claim)
    verify_signed(attestation, story.node.public)
    assert attestation.value == compute_attestation(claim_id, story.node.public, DIGEST)
    assert DIGEST not in (attestation.value, attestation.claim_id)


def test_what_is_signed_is_on_disk_first():
    story = Story()
    work, _ = story.claim()
    attested = story.attest(work)

    assert [type(item) for item in attested if isinstance(item, Store | SetTimer)] == [Store, SetTimer, SetTimer]


def test_a_repeated_claim_is_answered_once_a_second_and_never_run_again():
    story = Story()
    work, _ = story.claim()
    story.attest(work)
    first = story.publish()

    assert story.hear(work) == []
    story.now_ms += REPEAT_MS
    assert not has(story.hear(work), Compute)

    assert story.publish() == first


def test_a_claim_is_repeated_for_its_own_worker_alone_and_not_when_it_is_over():
    story = Story()
    work, _ = story.claim()
    story.attest(work)
    story.publish()
    story.now_ms += REPEAT_MS

    assert story.do(Received(story.node.public, Claims((work,)), "claims")) == []
    story.now_ms = work.claim.deadline_ms + WINDOW_MS + 1
    assert story.hear(work) == []


def test_a_drawn_claim_that_its_worker_has_not_signed_is_not_run_and_stands_in_nobodys_way():
    story = Story()
    work, _ = story.claim()
    signature = work.claim.signature[:-1] + bytes([work.claim.signature[-1] ^ 1])
    forged = replace(work, claim=replace(work.claim, signature=signature))

    assert story.hear(forged) == []
    assert has(story.hear(work), Compute)


def test_a_second_claim_for_the_same_voucher_is_not_answered():
    story = Story()
    work, _ = story.claim()
    story.attest(work)
    story.publish()
    other, _ = story.claim(nonce=2)

    assert story.hear(other) == []


def test_a_verifier_that_was_not_drawn_does_nothing():
    story = Story()
    work, _ = story.claim()
    stranger, account = get_keys(story.parts.foundation, "storage-0")
    verifier = Verifier(Context({}, stranger, account, random.Random(1)))
    verifier.handle(Started(story.state, {}), story.now_ms)

    assert verifier.handle(Received(story.worker.public, Claims((work,)), "claims"), story.now_ms) == []


def test_a_claim_about_other_inputs_than_the_request_is_dropped():
    story = Story()
    work, _ = story.claim()
    other = replace(work, claim=replace(work.claim, input_digest=bytes(32)))

    assert story.hear(other) == []


def test_a_claim_that_is_not_fit_is_not_worked_on_because_one_beside_it_is():
    story = Story()
    good, _ = story.claim(1)
    unfit, _ = story.claim(2)
    unfit = replace(unfit, claim=sign(replace(unfit.claim, epoch=77), story.worker))
    unpaid = replace(good, claim=sign(replace(good.claim, channel=bytes(32), seq=3), story.worker))

    effects = story.do(Received(story.worker.public, Claims((unfit, unpaid, good)), "claims"))

    assert [effect.token for effect in effects if isinstance(effect, Compute)] == [compute_claim_id(good.claim).hex()]


def test_a_run_that_fails_leaves_nothing_to_sign():
    story = Story()
    work, _ = story.claim()
    compute = find(story.hear(work), Compute)

    effects = story.do(Computed(compute.token, None, "", "timed out"))

    assert not has(effects, Store)
    assert find(effects, Record).fields["reason"] == "timed out"
    assert has(story.hear(work), Compute), "a repeated claim gives it another try"


def test_an_attestation_is_opened_to_the_worker_s_signed_receipt_only():
    story = Story()
    work, receipt = story.claim()
    story.attest(work)
    client = work.request.client

    opened = find(story.do(Requested(client, GetOpening(receipt, ()), "proof", "s1")), Reply).message
    forged = replace(receipt, output_digest=bytes(32))
    refused = find(story.do(Requested(client, GetOpening(forged, ()), "proof", "s2")), Reply).message

    assert opened == Opening(compute_claim_id(receipt.claim), DIGEST)
    assert isinstance(refused, Refused)


def test_of_a_float_model_the_outputs_are_shown_with_the_attestation_and_to_the_receipt_alone():
    story = Story()
    model = find_model(story.state)
    story.state = replace(story.state, models={model.digest: replace(model, exact=0, calibration=(CALIBRATION,))})
    story.start({})
    work, receipt = lie(story)
    story.attest(work)
    (blind,) = story.publish().items
    assert not blind.shown

    told = find(story.do(Requested(work.request.client, GetOpening(receipt, ()), "proof", "s1")), Reply).message

    (shown,) = told.attestation
    assert decode_tensors(shown.shown) == read_shown(shown) == (OUTPUT,)
    assert replace(shown, shown=b"", signature=blind.signature) == blind
    verify_signed(shown, blind.verifier)


def test_a_restarted_verifier_says_and_opens_the_same():
    story = Story()
    work, receipt = story.claim()
    attested = story.attest(work)
    before = story.publish()
    kept = find(attested, Store)

    story.start({kept.key: kept.value})

    opened = find(story.do(Requested(work.request.client, GetOpening(receipt, ()), "proof", "s1")), Reply).message
    assert opened.output_digest == DIGEST
    story.now_ms += REPEAT_MS
    story.hear(work)
    assert story.publish() == before


def test_what_is_said_of_a_worker_travels_on_the_topic_of_its_shard():
    story = Story()
    story.attest(story.claim()[0])
    story.now_ms += LEAVE_MS

    published = [effect for effect in story.do(TimerFired("batch")) if isinstance(effect, Publish)]

    assert [effect.topic for effect in published] == [proofs_topic(story.worker.public)]
    assert not has(story.do(TimerFired("batch")), Publish)


LIE = Tensor("int32", (1, 10), bytes(39) + b"\1")


def lie(story: Story) -> tuple[ClaimedWork, Receipt]:
    """What a worker claims and signs for an output the verifier does not find."""
    request = make_request(story.state, story.parts.foundation, 1)
    receipt = make_receipt(pay(request, story.parts.foundation, story.channel, 1), story.worker, (LIE,))
    return ClaimedWork(receipt.claim, request), receipt


def test_a_receipt_over_another_output_is_disputed_and_one_over_the_same_is_not():
    story = Story()
    work, receipt = lie(story)
    story.attest(work)
    shown = Requested(work.request.client, GetOpening(receipt, ()), "proof", "s1")
    begun = story.do(shown)
    assert find(begun, Reply).message.output_digest == DIGEST
    kept = find(begun, Store)
    assert kept.bucket == "challenges"
    assert decode(Challenge, kept.value).inputs == (ROW,)
    assert [type(item) for item in story.do(shown)] == [Reply]

    honest = Story()
    work, receipt = honest.claim()
    honest.attest(work)
    shown = Requested(work.request.client, GetOpening(receipt, (ROW,)), "proof", "s1")
    assert [type(item) for item in honest.do(shown)] == [Reply]


def test_a_restarted_verifier_disputes_on_the_inputs_it_is_shown():
    story = Story()
    work, receipt = lie(story)
    kept = find(story.attest(work), Store)
    story.start({kept.key: kept.value})
    for inputs in ((), (OUTPUT,)):
        shown = Requested(work.request.client, GetOpening(receipt, inputs), "proof", "s1")
        assert [type(item) for item in story.do(shown)] == [Reply]
    shown = Requested(work.request.client, GetOpening(receipt, (ROW,)), "proof", "s2")
    assert find(story.do(shown), Store).bucket == "challenges"


def test_inputs_may_come_as_a_blob():
    story = Story()
    digest = bytes(31) + b"\7"
    work, _ = story.claim(inputs=(), inputs_blob=(digest,))
    claim = sign(replace(work.claim, input_digest=compute_tensors_digest((ROW,))), story.worker)
    fetch = find(story.hear(replace(work, claim=claim)), Fetch)

    assert fetch.source == format_cid(digest)
    assert find(story.do(Fetched(fetch.source, encode_tensors((ROW,)))), Compute).inputs == (ROW,)
