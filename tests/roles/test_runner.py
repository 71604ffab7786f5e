"""A worker does the runs it is drawn for, once, and goes on with them after a crash."""

import random

from protocol.codec import decode
from protocol.jobs import compute_claim_id
from protocol.ledger.escrow import SettleJob
from protocol.messages import Claims
from protocol.tensor import Tensor
from roles.committees import Committees
from roles.role import Compute, Computed, Effect, Publish, Record, Request, Store, Submit
from roles.runner import BUCKET, Runner
from roles.workbook import JournalEntry
from tests.support.jobs import attest
from tests.support.workflows import MODEL, find_worker, found, list_runs, start

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
        return self.runner.on_attestations(said)


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
    assert scene.kept == {}


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
    effects = scene.runner.chase(scene.now_ms)
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
    assert scene.runner.on_attestations(forged) == []
    assert scene.runner.on_attestations(said[:1]) == []
    assert len(scene.runner.on_attestations(said)) == 1


def test_a_run_that_fails_is_told_and_not_tried_again() -> None:
    scene = Scene()
    [asked] = [effect for effect in scene.look() if isinstance(effect, Compute)]
    told = scene.runner.on_computed(Computed(asked.token, None, "", "crashed"), scene.ledger.state, scene.now_ms)
    assert [effect.name for effect in told if isinstance(effect, Record)] == ["run.failed"]
    assert scene.look() == []
