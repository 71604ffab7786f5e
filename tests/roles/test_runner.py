"""A worker does the runs it is drawn for, once, and goes on with them after a crash."""

import random
from dataclasses import replace

from protocol.codec import decode
from protocol.jobs import Receipt, compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.demands import DemandOpening, OpenClaim
from protocol.ledger.disputes import OpenDispute
from protocol.ledger.escrow import SettleJob
from protocol.messages import Claims, Opening
from protocol.proofs.trace import TraceModel
from protocol.signing import sign
from protocol.tensor import Tensor, compute_tensors_digest, encode_tensors
from roles.committees import Committees
from roles.inference import Inference
from roles.role import (
    Compute,
    Computed,
    Context,
    Effect,
    Inspect,
    LedgerAdvanced,
    Publish,
    Record,
    Request,
    Started,
    Store,
    Submit,
)
from roles.runner import BUCKET, CLAIM_AGAIN_MS, Runner
from roles.workbook import JournalEntry
from tests.protocol.ledger.test_models import CALIBRATION
from tests.support.jobs import attest, draw
from tests.support.workflows import MODEL, find_worker, found, go_to, list_runs, start

OUTPUTS = (Tensor("int64", (1, 1), (7).to_bytes(8, "little")),)
HELD = (MODEL.digest,)


class Scene:
    """A run on a ledger, and the worker it was drawn for."""

    def __init__(self) -> None:
        self.ledger = found()
        start(self.ledger)
        [(self.job, self.run)] = list_runs(self.ledger)
        self.name = find_worker(self.ledger, self.job)
        self.kept: dict[bytes, bytes] = {}
        self.runner = self.begin()

    @property
    def now_ms(self) -> int:
        return self.ledger.state.time_ms

    def begin(self) -> Runner:
        account, node = self.ledger.account(self.name).public, self.ledger.node(self.name)
        return Runner(account, node, random.Random(1), Committees(node.public))

    def look(self) -> list[Effect]:
        return self.keep(self.runner.look(self.ledger.state, HELD, self.now_ms))

    def keep(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Store):
                assert effect.bucket == BUCKET
                if effect.value is None:
                    self.kept.pop(effect.key)
                else:
                    self.kept[effect.key] = effect.value
        return effects

    def compute(self) -> list[Effect]:
        [asked] = [effect for effect in self.look() if isinstance(effect, Compute)]
        assert (asked.model, asked.inputs) == (MODEL.digest, self.run.request.inputs)
        computed = Computed(asked.token, OUTPUTS, "test")
        return self.keep(self.runner.on_computed(computed, self.ledger.state, self.now_ms))

    def attest(self) -> list[Effect]:
        entry = decode(JournalEntry, self.kept[self.job])
        [receipt] = entry.receipts
        said = attest(self.ledger.state, self.ledger.foundation, receipt, receipt.output_digest)
        return self.runner.on_attestations(said, self.ledger.state)

    @property
    def receipt(self) -> Receipt:
        [receipt] = decode(JournalEntry, self.kept[self.job]).receipts
        return receipt

    def settle(self) -> None:
        """The run is attested by everyone drawn and off the ledger."""
        [settlement] = [effect.item for effect in self.attest() if isinstance(effect, Submit)]
        self.ledger.do(self.account, settlement, after_ms=1)
        self.look()

    @property
    def account(self) -> PrivateKey:
        return self.ledger.account(self.name)

    @property
    def drawn(self) -> list[PrivateKey]:
        """The accounts of the verifiers drawn."""
        nodes = draw(self.ledger.state, self.receipt)
        names = {self.ledger.node(name).public: name for name in self.ledger.foundation.nodes}
        return [self.ledger.account(names[node]) for node in nodes]

    def start_role(self) -> Inference:
        """The whole role, started anew on what is on disk."""
        context = Context({}, self.ledger.node(self.name), self.account, random.Random(1))
        role = Inference(context)
        role.handle(Started(self.ledger.state, {BUCKET: self.kept}), self.now_ms)
        return role


def test_a_run_is_computed_claimed_attested_and_settled() -> None:
    scene = Scene()
    effects = scene.compute()
    kept, said = (next(at for at, item in enumerate(effects) if isinstance(item, kind)) for kind in (Store, Publish))
    assert kept < said
    [claims] = [effect.message for effect in effects if isinstance(effect, Publish)]
    assert isinstance(claims, Claims)
    assert claims.items[0].request == scene.run.request
    [settlement] = [effect.item for effect in scene.attest() if isinstance(effect, Submit)]
    assert isinstance(settlement, SettleJob)
    scene.ledger.do(scene.ledger.account(scene.name), settlement, after_ms=1)
    assert scene.ledger.state.feeds["mean"].value == 7
    scene.look()
    assert scene.runner.load == 0


def test_a_run_is_begun_once_and_by_nobody_else() -> None:
    scene = Scene()
    assert [effect for effect in scene.look() if isinstance(effect, Compute)]
    assert scene.look() == []
    others = [name for name in ("inference-0", "inference-1", "inference-2") if name != scene.name]
    for scene.name in others:
        assert scene.begin().look(scene.ledger.state, HELD, scene.now_ms) == []


def test_a_run_of_a_model_that_is_not_here_waits() -> None:
    scene = Scene()
    assert scene.runner.look(scene.ledger.state, (), scene.now_ms) == []
    assert scene.look()


def test_a_worker_that_was_killed_goes_on_with_its_claim() -> None:
    scene = Scene()
    [published] = [effect for effect in scene.compute() if isinstance(effect, Publish)]
    before = compute_claim_id(published.message.items[0].claim)
    scene.runner = scene.begin()
    scene.runner.restore(scene.kept, scene.ledger.state)
    assert not [effect for effect in scene.look() if isinstance(effect, Compute)]
    effects = scene.runner.chase(scene.ledger.state, scene.now_ms)
    [again] = [effect.message for effect in effects if isinstance(effect, Publish)]
    assert [compute_claim_id(item.claim) for item in again.items] == [before]
    assert len([effect for effect in effects if isinstance(effect, Request)]) == 2
    assert [effect.item for effect in scene.attest() if isinstance(effect, Submit)]


def test_an_attestation_of_nobody_drawn_or_forged_counts_for_nothing() -> None:
    scene = Scene()
    scene.compute()
    [receipt] = decode(JournalEntry, scene.kept[scene.job]).receipts
    said = attest(scene.ledger.state, scene.ledger.foundation, receipt, receipt.output_digest)
    forged = tuple(type(item)(item.claim_id, item.verifier, item.value, b"", bytes(64)) for item in said)
    assert scene.runner.on_attestations(forged, scene.ledger.state) == []
    assert scene.runner.on_attestations(said[:1], scene.ledger.state) == []
    assert len(scene.runner.on_attestations(said, scene.ledger.state)) == 1


def test_a_run_that_fails_is_told_and_not_tried_again() -> None:
    scene = Scene()
    [asked] = [effect for effect in scene.look() if isinstance(effect, Compute)]
    told = scene.runner.on_computed(Computed(asked.token, None, "", "crashed"), scene.ledger.state, scene.now_ms)
    assert [effect.name for effect in told if isinstance(effect, Record)] == ["run.failed"]
    assert scene.look() == []


def test_a_settled_run_is_kept_and_opened_on_demand_and_forgotten_when_nobody_may_ask_any_more() -> None:
    scene = Scene()
    scene.compute()
    scene.settle()
    ledger, bond = scene.ledger, scene.ledger.state.nodes[scene.account.public].bond
    go_to(ledger, scene.run.request.deadline_ms)
    claim_id = compute_claim_id(scene.receipt.claim)
    ledger.do(scene.drawn[0], DemandOpening(scene.receipt.claim))

    asked = scene.start_role().handle(LedgerAdvanced(ledger.state), scene.now_ms)

    [opening] = [effect.item for effect in asked if isinstance(effect, Submit)]
    assert opening == OpenClaim(claim_id, (scene.receipt,))
    ledger.do(scene.account, opening)
    assert ledger.state.nodes[scene.account.public].bond == bond
    go_to(ledger, scene.run.request.deadline_ms + ledger.state.params.challenge_ms + 1)
    scene.look()
    assert scene.kept  # what was opened may still be disputed
    ledger.block(after_ms=ledger.state.params.challenge_ms)
    scene.look()
    assert scene.kept == {}


def test_a_disputed_run_is_defended_after_it_has_settled() -> None:
    scene = Scene()
    scene.compute()
    scene.settle()
    role = scene.start_role()
    scene.ledger.do(scene.drawn[0], OpenDispute((scene.receipt,), (), b"\x09" * 32, "test"))

    defence = role.handle(LedgerAdvanced(scene.ledger.state), scene.now_ms)

    [traced] = [effect for effect in defence if isinstance(effect, Inspect)]
    assert traced.question == TraceModel(scene.run.request.inputs, 0)


FLOATS, CLOSE, DISTANT = (
    (Tensor("float32", (1, 1), data),) for data in (b"\0\0\xc8\x42", b"\4\0\xc8\x42", b"\0\1\xc8\x42")
)


class FloatScene(Scene):
    """A run of a calibrated float model whose verifiers have found something else than its worker."""

    def __init__(self, found: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.found = found
        models = dict(self.ledger.state.models)
        models[MODEL.digest] = replace(MODEL, exact=0, calibration=(CALIBRATION,))
        self.ledger.state = replace(self.ledger.state, models=models)
        self.ledger.state = replace(self.ledger.state, tree=self.ledger.rebuild())
        [asked] = [effect for effect in self.look() if isinstance(effect, Compute)]
        self.keep(self.runner.on_computed(Computed(asked.token, FLOATS, "test"), self.ledger.state, self.now_ms))
        digest = compute_tensors_digest(found)
        self.said = attest(self.ledger.state, self.ledger.foundation, self.receipt, digest)

    def ask(self) -> list[Request]:
        effects = self.runner.on_attestations(self.said, self.ledger.state)
        return [effect for effect in effects if isinstance(effect, Request)]

    def show(self, question: Request) -> list[Effect]:
        """What the verifier that is asked shows."""
        blind = next(item for item in self.said if item.verifier == question.peer)
        names = self.ledger.foundation.nodes
        key = next(self.ledger.node(name) for name in names if self.ledger.node(name).public == question.peer)
        item = sign(replace(blind, shown=encode_tensors(self.found)), key)
        opening = Opening(blind.claim_id, compute_tensors_digest(self.found), (item,))
        return self.runner.on_opening(question.peer, question.token, opening, self.ledger.state)


def test_verifiers_that_found_something_near_are_asked_for_it_and_the_run_is_settled_with_it() -> None:
    scene = FloatScene(CLOSE)
    first, second = scene.ask()
    assert scene.runner.on_opening(first.peer, first.token, None, scene.ledger.state) == []  # it is asked again
    assert [effect.peer for effect in scene.runner.chase(scene.ledger.state, scene.now_ms + CLAIM_AGAIN_MS)] == [
        first.peer,
        second.peer,
    ]

    [settlement] = [effect.item for asked in (first, second) for effect in scene.show(asked) if type(effect) is Submit]

    scene.ledger.do(scene.account, settlement, after_ms=1)
    assert scene.ledger.state.feeds["mean"].value == 100


def test_a_run_whose_verifier_shows_something_far_is_given_up() -> None:
    scene = FloatScene(DISTANT)
    first, _ = scene.ask()
    [told] = scene.show(first)
    assert isinstance(told, Record)
    assert told.name == "run.failed"
    assert scene.runner.chase(scene.ledger.state, scene.now_ms + CLAIM_AGAIN_MS) == []
