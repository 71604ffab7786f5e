"""Verdicts on gossip: who is blamed, and who is only late."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocol.check import check_message, register_check
from protocol.codec import encode
from protocol.errors import LocalError
from protocol.jobs import Attestation, ClaimedWork, PaidRequest, compute_attestation, compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.transactions import RotateKeys, SignedObservation, Transaction, Transfer, prove_possession
from protocol.messages import Advert, Attestations, Claims, Head, ObservationMessage, Requests, Said, Transactions
from protocol.signing import sign
from protocol.types import Verdict
from tests.support.jobs import make_receipt, make_request, pay
from tests.support.ledgers import Ledger

A, I, R = Verdict.ACCEPT, Verdict.IGNORE, Verdict.REJECT  # noqa: E741


class Scene:
    """One honest message of each topic."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.channel = self.ledger.open_channel()
        self.state, self.now_ms = self.ledger.state, self.ledger.state.time_ms
        self.client, self.worker = self.ledger.node("client-0"), self.ledger.node("inference-0")
        self.verifier, self.oracle = self.ledger.node("verifier-0"), self.ledger.node("oracle-0")
        self.request = make_request(self.state, self.ledger.foundation)
        self.item = pay(self.request, self.ledger.foundation, self.channel)
        self.claim = make_receipt(self.item, self.worker).claim
        self.work = ClaimedWork(self.claim, self.request)
        claim_id, own = compute_claim_id(self.claim), self.verifier.public
        value = compute_attestation(claim_id, own, bytes(32))
        self.attestation = sign(Attestation(claim_id, own, value, b"", bytes(64)), self.verifier)
        self.feed = next(iter(self.state.feeds))
        round_number = self.now_ms // self.state.params.oracle_heartbeat_ms
        unsigned = SignedObservation(self.feed, round_number, 0, 5, self.now_ms, self.oracle.public, bytes(64))
        self.observation = sign(unsigned, self.oracle)
        self.transfer = self.ledger.sign(self.ledger.spare(), Transfer(bytes(32), 1))

    def say(self, topic: str, sender: Any, message: Any, now_ms: int | None = None) -> Verdict:
        now_ms = self.now_ms if now_ms is None else now_ms
        verdict, reason = check_message(topic, sender.public, message, self.state, now_ms)
        assert bool(reason) is (verdict is not A), (verdict, reason)
        return verdict

    def ask(self, item: PaidRequest, sender: Any = None, topic: str = "infer/0") -> Verdict:
        return self.say(topic, sender or self.client, Requests((item,)))

    def pay(self, **changes: object) -> PaidRequest:
        """A request with some fields changed, with a voucher that fits it."""
        return pay(replace(self.request, **changes), self.ledger.foundation, self.channel)

    def claims(self, work: ClaimedWork, sender: Any = None) -> Verdict:
        return self.say("claims", sender or self.worker, Claims((work,)))

    def reclaim(self, **changes: object) -> ClaimedWork:
        return ClaimedWork(sign(replace(self.claim, **changes), self.worker), self.request)

    def submit(self, transaction: Transaction) -> Verdict:
        return self.say("txs", self.client, Transactions((encode(transaction),)))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_honest_messages_are_accepted(scene: Scene) -> None:
    assert scene.ask(scene.item) is A
    assert scene.claims(scene.work) is A
    assert scene.say("proofs", scene.verifier, Attestations((scene.attestation,))) is A
    assert scene.say(f"oracle/{scene.feed}", scene.oracle, ObservationMessage(scene.observation)) is A
    assert scene.submit(scene.transfer) is A


Case = Callable[[Scene], Verdict]
REQUESTS: dict[str, tuple[Verdict, Case]] = {
    "of another client": (R, lambda s: s.ask(s.item, s.worker)),
    "on another model's topic": (R, lambda s: s.ask(s.item, topic="infer/1")),
    "of another chain": (R, lambda s: s.ask(s.pay(chain=b"another1"))),
    "over its own limit": (R, lambda s: s.ask(s.pay(fee_max=1))),
    "with another's voucher": (R, lambda s: s.ask(replace(s.item, request=replace(s.request, nonce=b"x" * 16)))),
    "with an unsigned voucher": (
        R,
        lambda s: s.ask(replace(s.item, voucher=replace(s.item.voucher, signature=bytes(64)))),
    ),
    "with inputs that are no tensors": (
        R,
        lambda s: s.ask(s.pay(inputs=(replace(s.request.inputs[0], data=b""),))),
    ),
    "too late": (I, lambda s: s.ask(s.pay(deadline_ms=s.now_ms - 30_001))),
    "for too long": (I, lambda s: s.ask(s.pay(deadline_ms=s.now_ms + 150_001))),
    "of an epoch we do not know": (I, lambda s: s.ask(s.pay(epoch=1))),
    "for a model we do not know": (I, lambda s: s.ask(s.pay(model=b"\0" * 32))),
    "from a channel we do not know": (I, lambda s: s.ask(pay(s.request, s.ledger.foundation, bytes(32)))),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request(scene: Scene, name: str) -> None:
    verdict, case = REQUESTS[name]
    assert case(scene) is verdict


CLAIMS: dict[str, tuple[Verdict, Case]] = {
    "of another worker": (R, lambda s: s.claims(s.work, s.client)),
    "for another request": (R, lambda s: s.claims(replace(s.work, request=replace(s.request, nonce=b"x" * 16)))),
    "of another model": (R, lambda s: s.claims(s.reclaim(model=bytes(32)))),
    "of another epoch": (R, lambda s: s.claims(s.reclaim(epoch=1))),
    "of fewer verifiers": (R, lambda s: s.claims(s.reclaim(verifiers=1))),
    "of another deadline": (R, lambda s: s.claims(s.reclaim(deadline_ms=1))),
    "of other inputs": (R, lambda s: s.claims(s.reclaim(input_digest=bytes(32)))),
    "asking more than allowed": (R, lambda s: s.claims(s.reclaim(fee=s.request.fee_max + 1))),
    "unsigned": (R, lambda s: s.claims(replace(s.work, claim=replace(s.claim, signature=bytes(64))))),
    "from a channel we do not know": (I, lambda s: s.claims(s.reclaim(channel=bytes(32)))),
    "too late": (I, lambda s: s.say("claims", s.worker, Claims((s.work,)), s.now_ms + 60_001)),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim(scene: Scene, name: str) -> None:
    verdict, case = CLAIMS[name]
    assert case(scene) is verdict


def test_an_attestation(scene: Scene) -> None:
    good = scene.attestation
    assert scene.say("proofs", scene.worker, Attestations((good,))) is R
    assert scene.say("proofs", scene.verifier, Attestations((replace(good, value=bytes(32)),))) is R
    stranger = sign(replace(good, verifier=scene.worker.public), scene.worker)
    assert scene.say("proofs", scene.worker, Attestations((stranger,))) is I
    telling = sign(replace(good, shown=b"what all could copy"), scene.verifier)
    assert scene.say("proofs", scene.verifier, Attestations((telling,))) is R


def test_an_observation(scene: Scene) -> None:
    good, topic = scene.observation, f"oracle/{scene.feed}"
    assert scene.say(topic, scene.worker, ObservationMessage(good)) is R
    assert scene.say("oracle/other", scene.oracle, ObservationMessage(good)) is R
    assert scene.say(topic, scene.oracle, ObservationMessage(replace(good, value=6))) is R
    assert scene.say(topic, scene.oracle, ObservationMessage(replace(good, round=good.round + 1))) is R
    assert scene.say(topic, scene.oracle, ObservationMessage(good), scene.now_ms + 30_001) is I
    assert scene.say(topic, scene.oracle, ObservationMessage(good), scene.now_ms - 30_001) is I
    stranger = sign(replace(good, observer=scene.worker.public), scene.worker)
    assert scene.say(topic, scene.worker, ObservationMessage(stranger)) is I
    unknown = sign(replace(good, feed="none"), scene.oracle)
    assert scene.say("oracle/none", scene.oracle, ObservationMessage(unknown)) is I


def test_an_oracle_observes_with_the_key_its_epoch_knows() -> None:
    scene = Scene()
    following = PrivateKey.from_seed(b"following" + bytes(23))
    account = scene.ledger.account("oracle-0")
    body = RotateKeys(following.public, b"", bytes(64), b"")
    told = []
    scene.ledger.do(account, prove_possession(body, account.public, following))
    for after_ms in (0, scene.state.params.epoch_ms):
        if after_ms:
            scene.ledger.block(after_ms=after_ms)
        scene.state, scene.now_ms = scene.ledger.state, scene.ledger.state.time_ms
        round_number = scene.now_ms // scene.state.params.oracle_heartbeat_ms
        for key in (scene.oracle, following):
            said = replace(scene.observation, round=round_number, time_ms=scene.now_ms, observer=key.public)
            told.append(scene.say(f"oracle/{scene.feed}", key, ObservationMessage(sign(said, key))))
    assert told == [A, I, I, A]


def test_a_transaction(scene: Scene) -> None:
    good, payer = scene.transfer, scene.ledger.spare()
    assert scene.submit(replace(good, signature=bytes(64))) is R
    assert scene.submit(sign(replace(good, chain=b"another1"), payer)) is R
    assert scene.submit(sign(replace(good, body=b"\x91\x01"), payer)) is R
    assert scene.say("txs", scene.client, Transactions((b"junk",))) is R
    assert scene.submit(sign(replace(good, kind=4_000), payer)) is I
    assert scene.submit(sign(replace(good, fee=1), payer)) is I
    assert scene.submit(sign(replace(good, valid_until_ms=5), payer)) is I
    assert scene.submit(sign(replace(good, valid_until_ms=scene.now_ms + 150_001), payer)) is I
    assert scene.submit(sign(replace(good, nonce=9), payer)) is A
    used = scene.ledger.sign(scene.ledger.account("client-0"), Transfer(bytes(32), 1), nonce=0)
    assert scene.submit(used) is I
    poor = replace(good, account=scene.client.public)
    assert scene.submit(sign(poor, scene.client)) is I


def test_a_head() -> None:
    ledger = Ledger()
    states = [ledger.state]
    for _ in range(3):
        ledger.block()
        states.append(ledger.state)
    heads = [Head(block.header, certificate) for block, certificate, _ in ledger.blocks]
    anyone = ledger.node("client-0").public

    def say(head: Head, at: int) -> Verdict:
        return check_message("heads", anyone, head, states[at], ledger.state.time_ms)[0]

    assert say(heads[0], 0) is A
    assert say(heads[2], 0) is A  # ahead of us, decided by validators we know
    assert say(heads[0], 1) is I  # old
    assert say(Head(heads[0].header, heads[1].certificate), 0) is R
    unsigned = replace(heads[0].certificate, votes=())
    assert say(replace(heads[0], certificate=unsigned), 0) is R
    forged = replace(heads[0].certificate, votes=(replace(heads[0].certificate.votes[0], signature=bytes(64)),))
    assert say(replace(heads[0], certificate=forged), 0) is R
    assert (
        say(Head(heads[2].header, replace(forged, ballot=replace(forged.ballot, height=3))), 0) is I
    )  # who decides there we cannot know
    assert say(replace(heads[0], header=replace(heads[0].header, chain=b"another1")), 0) is R
    fork = replace(heads[0].header, parent=bytes(32))
    assert say(replace(heads[0], header=fork), 0) is I


def test_a_word_of_a_validator(scene: Scene) -> None:
    assert scene.say("consensus", scene.ledger.node("validator-0"), Said((), (), (), ())) is A
    assert scene.say("consensus", scene.worker, Said((), (), (), ())) is I
    assert scene.say("consensus", scene.ledger.spare(), Said((), (), (), ())) is I


def test_an_advert(scene: Scene) -> None:
    account = scene.ledger.account("client-0").public
    good = Advert(account, ("client",), "serving", (), ("/ip4/127.0.0.1/tcp/1",), 0, 0, 1)
    assert scene.say("node", scene.client, good) is A
    assert scene.say("node", scene.client, replace(good, state="dancing")) is R
    assert scene.say("node", scene.client, replace(good, roles=("client", "client"))) is R
    assert scene.say("node", scene.client, replace(good, addresses=("example.org",))) is R
    assert scene.say("node", scene.client, replace(good, account=bytes(32))) is I
    assert scene.say("node", scene.ledger.spare(3), replace(good, account=bytes(32))) is A  # not on the ledger yet


def test_a_list_is_judged_by_its_worst_item_and_passed_on_for_its_best(scene: Scene) -> None:
    late = scene.pay(deadline_ms=scene.now_ms - 30_001)
    forged = replace(scene.item, voucher=replace(scene.item.voucher, signature=bytes(64)))
    assert scene.say("infer/0", scene.client, Requests((late, scene.item))) is A
    assert scene.say("infer/0", scene.client, Requests((late, late))) is I
    assert scene.say("infer/0", scene.client, Requests((scene.item, forged))) is R
    assert scene.say("infer/0", scene.client, Requests(())) is R


def test_an_extensions_message_is_accepted_unless_it_has_a_check(scene: Scene) -> None:
    class Hello:
        pass

    def refuse(*_: object) -> tuple[Verdict, str]:
        return R, "no"

    assert scene.say("hello", scene.client, Hello()) is A
    register_check(Hello, refuse)
    assert scene.say("hello", scene.client, Hello()) is R
    with pytest.raises(LocalError):
        register_check(Requests, refuse)
