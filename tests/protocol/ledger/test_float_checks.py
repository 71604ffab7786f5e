"""Drawn leaves of calibrated float models: honest nodes of any kind are paid, and a lie costs what a lie costs."""

from dataclasses import replace

import numpy as np
import pytest

from protocol.codec import decode
from protocol.ledger.checks import LeafOutputs, RevealDigests, ShowOutputs
from protocol.ledger.dispute_records import Dispute, DisputePhase
from protocol.ledger.disputes import CheckedLeaf, JudgeOperator, OpenDispute
from protocol.ledger.job_errors import AlreadySaid, InvalidBatch, InvalidDispute, UnknownBatch
from protocol.ledger.job_records import BatchPhase, Checker
from protocol.ledger.transactions import compute_transaction_id
from protocol.proofs.bounds import WholeRun
from protocol.proofs.trace import Judgement
from protocol.tensor import Tensor, compute_tensors_digest
from tests.protocol.ledger.test_batches import ALL, PARAMS, SEVERAL, Batch
from tests.protocol.ledger.test_checks import wait
from tests.protocol.ledger.test_models import CALIBRATION
from tests.support.jobs import PRICE, ROW, find_model
from tests.support.ledgers import Ledger


def outputs_at(bounds: float) -> tuple[Tensor, ...]:
    """Outputs so many bounds away from those at 0, but for rounding to float32."""
    values = np.full((1, 10), 100.0, "<f4")
    values[0, 3] += np.float32(bounds * CALIBRATION.bound_ppt / 1e12 * 100)
    return (Tensor("float32", (1, 10), values.tobytes()),)


SAID = outputs_at(0)
NEAR = outputs_at(0.6)
FAR = outputs_at(20)


def calibrate(ledger: Ledger) -> None:
    """The model of the tests is a float one from now on."""
    model = find_model(ledger.state)
    inexact = replace(model, exact=0, calibration=(CALIBRATION,))
    ledger.state = replace(ledger.state, models=dict(ledger.state.models) | {model.digest: inexact})
    ledger.state = replace(ledger.state, tree=ledger.rebuild())


class FloatBatch(Batch):
    """A batch of a model that is calibrated. Its worker says SAID; `found` is what verifiers found, in their order."""

    def __init__(self, ledger: Ledger, amounts: list[int | None]) -> None:
        calibrate(ledger)
        super().__init__(ledger, amounts, outputs=SAID)

    def attest_as(self, *found: tuple[Tensor, ...]) -> "FloatBatch":
        self.open_all()
        for checker, outputs in zip(self.drawn(), found, strict=True):
            digests = dict.fromkeys(self.checks, compute_tensors_digest(outputs))
            self.ledger.do(self.key_of(checker), self.attest(checker, digests))
        return self

    def drawn(self) -> tuple[Checker, ...]:
        """The verifiers of the first leaf."""
        return self.checks[0].checkers

    def reveal_with(self, outputs: tuple[Tensor, ...]) -> RevealDigests:
        body = self.reveal()
        return replace(body, items=tuple(replace(item, outputs=outputs) for item in body.items))

    def show(self, outputs: tuple[Tensor, ...]) -> ShowOutputs:
        return ShowOutputs(self.id, (LeafOutputs(0, outputs),))

    def dispute(self, outputs: tuple[Tensor, ...]) -> OpenDispute:
        return OpenDispute((), (CheckedLeaf(self.id, 0),), compute_tensors_digest(outputs), "ort-of-another-kind")

    def open_dispute(self, number: int, outputs: tuple[Tensor, ...]) -> bytes:
        transaction = self.ledger.sign(self.key_of(self.drawn()[number]), self.dispute(outputs))
        assert self.ledger.block(transaction) == []
        return compute_transaction_id(transaction)

    def vote(self, key: bytes, judgement: Judgement) -> None:
        self.ledger.do(self.ledger.account("validator-0"), JudgeOperator(key, judgement))

    @property
    def bond(self) -> int:
        return self.ledger.state.nodes[self.worker.public].bond

    @property
    def paid(self) -> int:
        return self.ledger.state.channels[self.channel].paid


def test_a_worker_shows_outputs_where_a_verifier_found_others_and_nowhere_else() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(SAID, NEAR)
    ledger = batch.ledger
    for body in (batch.reveal(), batch.reveal_with(NEAR)):
        assert isinstance(ledger.refuse(batch.worker, body), InvalidBatch)
    ledger.do(batch.worker, batch.reveal_with(SAID))
    assert batch.held.phase == BatchPhase.WINDOW
    assert batch.checks[0].outputs == SAID

    agreed = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(SAID, SAID)
    assert isinstance(agreed.ledger.refuse(agreed.worker, agreed.reveal_with(SAID)), InvalidBatch)
    agreed.ledger.do(agreed.worker, agreed.reveal())
    assert not agreed.checks[0].outputs


def test_outputs_that_are_not_shown_forfeit_the_batch() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(SAID, NEAR)
    wait(batch.ledger, PARAMS.open_ms)
    assert batch.id not in batch.ledger.state.batches
    assert (batch.paid, bool(batch.ledger.state.checks)) == (0, False)


def test_a_verifier_within_the_bound_shows_what_it_attested_and_is_paid_like_one_that_agrees() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(SAID, NEAR)
    ledger, (first, second) = batch.ledger, batch.drawn()
    assert isinstance(ledger.refuse(batch.key_of(second), batch.show(NEAR)), InvalidBatch)  # too early
    ledger.do(batch.worker, batch.reveal_with(SAID))
    refused = [
        (second, ShowOutputs(batch.id, ()), InvalidBatch),
        (second, ShowOutputs(bytes(32), batch.show(NEAR).items), UnknownBatch),
        (second, ShowOutputs(batch.id, (LeafOutputs(7, NEAR),)), AlreadySaid),
        (second, batch.show(SAID), InvalidBatch),  # the worker's own, which it can read by now
        (first, batch.show(NEAR), InvalidBatch),
    ]
    for checker, body, kind in refused:
        assert isinstance(ledger.refuse(batch.key_of(checker), body), kind)
    ledger.do(batch.key_of(second), batch.show(NEAR))
    assert isinstance(ledger.refuse(batch.key_of(second), batch.show(NEAR)), AlreadySaid)
    before = ledger.state
    ledger.block(after_ms=PARAMS.dispute_window_ms)  # nobody is in dissent: no grace
    assert batch.paid == PRICE
    for checker in (first, second):
        gained = ledger.state.get_balance(checker.account) - before.get_balance(checker.account)
        assert gained == PRICE * 400 // 10_000
        assert ledger.state.work[checker.account].agreed == 1


def test_what_lies_beyond_the_bound_is_not_agreed_on() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(SAID, FAR)
    batch.ledger.do(batch.worker, batch.reveal_with(SAID))
    reason = str(batch.ledger.refuse(batch.key_of(batch.drawn()[1]), batch.show(FAR)))
    assert "not within the bound" in reason


@pytest.mark.parametrize("found", [(FAR, SAID), (FAR, FAR)])
def test_whoever_finds_something_else_and_does_not_stand_by_it_takes_nobodys_pay(
    found: tuple[tuple[Tensor, ...], ...],
) -> None:
    """Before, any verifier could have the leaf of a float model given back."""
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(*found)
    bond, ledger, drawn = batch.bond, batch.ledger, batch.drawn()
    ledger.do(batch.worker, batch.reveal_with(SAID))
    before = ledger.state
    wait(ledger, PARAMS.dispute_window_ms)
    assert (batch.paid, batch.bond) == (PRICE, bond)
    gained = {item.account: ledger.state.get_balance(item.account) - before.get_balance(item.account) for item in drawn}
    assert [gained[item.account] for item in drawn] == [0, 0 if found[1] == FAR else PRICE * 800 // 10_000]


def test_validators_that_find_a_worker_far_beyond_the_bound_have_it_slashed_and_its_batch_forfeit() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(FAR, FAR)
    ledger, bond = batch.ledger, batch.bond
    ledger.do(batch.worker, batch.reveal_with(SAID))
    key = batch.open_dispute(0, FAR)
    held: Dispute = ledger.state.disputes[key]
    assert (held.phase, held.operator, held.trace) == (DisputePhase.VERDICT, 0, b"")
    assert decode(WholeRun, held.exhibit) == WholeRun((ROW,), SAID)
    batch.vote(key, Judgement.WRONG)
    assert not ledger.state.disputes
    assert bond - batch.bond == bond * ALL.slash_bp // 10_000
    assert (batch.paid, batch.id in ledger.state.batches) == (0, False)
    assert ledger.state.work[batch.worker.public].wrong == 1


def test_a_challenger_validators_do_not_agree_with_loses_its_bond_and_the_leaf_is_paid() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(FAR, FAR)
    ledger, bond = batch.ledger, batch.bond
    ledger.do(batch.worker, batch.reveal_with(SAID))
    challenger = batch.drawn()[0].account
    before = ledger.state.get_balance(challenger)
    key = batch.open_dispute(0, FAR)
    batch.vote(key, Judgement.SOUND)
    assert before - ledger.state.get_balance(challenger) > PARAMS.dispute_bond
    for _ in range(2):
        wait(ledger, PARAMS.dispute_window_ms)
    assert (batch.paid, batch.bond) == (PRICE, bond)


def test_where_validators_cannot_know_the_leaf_is_given_back_and_nobody_loses_stake() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(FAR, FAR)
    ledger, bond = batch.ledger, batch.bond
    ledger.do(batch.worker, batch.reveal_with(SAID))
    challenger = batch.drawn()[0].account
    batch.open_dispute(0, FAR)
    before = ledger.state.get_balance(challenger)
    for _ in range(3):
        wait(ledger, PARAMS.dispute_ms)
    assert not ledger.state.disputes
    assert ledger.state.get_balance(challenger) - before >= PARAMS.dispute_bond
    assert (batch.paid, batch.bond) == (0, bond)


def test_a_whole_run_is_disputed_only_where_its_outputs_are_shown() -> None:
    batch = FloatBatch(Ledger(SEVERAL, ALL), [PRICE]).attest_as(SAID, NEAR)
    ledger, (_, second) = batch.ledger, batch.drawn()
    ledger.do(batch.worker, batch.reveal_with(SAID))
    by_receipt = OpenDispute((batch.receipts[0],), (), compute_tensors_digest(NEAR), "ort-of-another-kind")
    assert "honest outputs may differ" in str(ledger.refuse(batch.key_of(second), by_receipt))
    assert isinstance(ledger.refuse(batch.key_of(second), batch.dispute(FAR)), InvalidDispute)  # not what it attested
