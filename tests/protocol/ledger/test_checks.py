"""Drawn leaves under the eyes of verifiers: what they say, what their silence does, and what a lie costs."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee import compute_committee
from protocol.jobs import Mode, compute_attestation, compute_claim_id
from protocol.ledger.batches import BATCH_PAYOUT_KIND, RunOfBatch, SettlePrivate, compute_check_key
from protocol.ledger.checks import (
    REPLACEMENTS_MAX,
    AttestLeaves,
    LeafAttestation,
    RevealDigests,
)
from protocol.ledger.job_errors import AlreadySaid, InvalidBatch, InvalidMode, UnknownBatch
from protocol.ledger.job_records import BatchPhase, Check, Checker
from tests.protocol.ledger.test_batches import ALL, PARAMS, SEVERAL, TRUTH, Batch
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger


def wait(ledger: Ledger, after_ms: int) -> None:
    """A deadline passes, and the grace after it."""
    ledger.block(after_ms=after_ms)
    ledger.block(after_ms=PARAMS.grace_ms)


def test_verifiers_are_drawn_of_other_accounts_once_the_batch_is_fixed() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE] * 12).open_all()
    committees = {tuple(checker.node for checker in check.checkers) for check in batch.checks.values()}
    assert len(committees) > 1  # each leaf has its own
    assert all(len(set(committee)) == 2 for committee in committees)
    everyone = {checker.account for checker in batch.checkers()}
    verifiers = {ledger.account(name).public for name in ledger.foundation.nodes if name.startswith("verifier")}
    assert everyone <= verifiers


def test_verifiers_of_leaves_follow_from_the_batches_seed() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE] * 4).open_all()
    candidates = ledger.state.epochs[ledger.state.epoch].candidates
    for check in batch.checks.values():
        claim = check.claim
        drawn = compute_committee(batch.held.seed, claim.request_id, claim.worker, candidates, 2)
        assert tuple(checker.node for checker in check.checkers) == drawn


def test_each_verifier_speaks_once_and_only_about_its_own_leaves() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE] * 3).settle()
    early = AttestLeaves(batch.id, (LeafAttestation(0, bytes(32)),))
    assert isinstance(ledger.refuse(ledger.account("verifier-0"), early), InvalidBatch)
    ledger.do(batch.worker, batch.open(*batch.draw()))
    first = batch.checkers()[0]
    key, words = batch.key_of(first), batch.attest(first)
    assert isinstance(ledger.refuse(key, AttestLeaves(batch.id, ())), InvalidBatch)
    assert isinstance(ledger.refuse(key, AttestLeaves(bytes(32), words.items)), UnknownBatch)
    assert isinstance(ledger.refuse(batch.worker, words), AlreadySaid)
    assert isinstance(ledger.refuse(key, AttestLeaves(batch.id, (LeafAttestation(9, bytes(32)),))), AlreadySaid)
    assert isinstance(ledger.refuse(key, AttestLeaves(batch.id, words.items * 2)), AlreadySaid)
    ledger.do(key, words)
    assert isinstance(ledger.refuse(key, words), AlreadySaid)


def test_digests_are_opened_after_everyone_has_spoken_and_fit_the_claims() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE, None, PRICE]).open_all()
    assert isinstance(ledger.refuse(batch.worker, batch.reveal()), InvalidBatch)
    batch.attest_all()
    good = batch.reveal()
    other = RevealDigests(batch.id, (replace(good.items[0], output_digest=TRUTH),))
    assert isinstance(ledger.refuse(batch.worker, other), InvalidBatch)
    assert isinstance(ledger.refuse(batch.worker, RevealDigests(batch.id, ())), InvalidBatch)
    assert isinstance(ledger.refuse(batch.worker, batch.reveal(1)), InvalidBatch)  # earns nothing: nothing to open
    assert isinstance(ledger.refuse(ledger.account("verifier-0"), good), UnknownBatch)
    ledger.do(batch.worker, batch.reveal(0))
    assert isinstance(ledger.refuse(batch.worker, batch.reveal(0)), InvalidBatch)
    ledger.do(batch.worker, batch.reveal(2))
    assert batch.held.phase == BatchPhase.WINDOW


def test_digests_that_stay_closed_forfeit_the_batch() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE] * 3).open_all().attest_all()
    ledger.do(batch.worker, batch.reveal(0))
    wait(ledger, PARAMS.open_ms)
    assert not ledger.state.batches
    assert not ledger.state.checks
    assert ledger.state.channels[batch.channel].paid == 0
    assert ledger.state.work[batch.worker.public].void == 2


def test_who_is_silent_is_replaced_by_the_next_drawn() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE]).open_all()
    first, second = batch.checks[0].checkers
    ledger.do(batch.key_of(first), batch.attest(first))
    wait(ledger, PARAMS.attest_ms)
    check = batch.checks[0]
    assert (check.rounds, check.drawn, len(check.checkers)) == (1, 3, 2)
    assert check.checkers[0].node == first.node
    assert check.checkers[1].node not in (first.node, second.node)
    assert ledger.state.work[second.account].void == 1
    assert isinstance(
        ledger.refuse(batch.key_of(second), AttestLeaves(batch.id, check_words(batch, second))), AlreadySaid
    )
    ledger.do(batch.key_of(check.checkers[1]), batch.attest(check.checkers[1]))
    assert batch.held.phase == BatchPhase.DIGESTS


def check_words(batch: Batch, checker: Checker) -> tuple[LeafAttestation, ...]:
    value = compute_attestation(compute_claim_id(batch.checks[0].claim), checker.node, TRUTH)
    return (LeafAttestation(0, value),)


@pytest.mark.parametrize("roles", [SEVERAL | {"verifier": 9}, SEVERAL | {"verifier": 2}])
def test_a_leaf_nobody_could_check_is_given_back_and_the_rest_is_paid(roles: dict[str, int]) -> None:
    ledger = Ledger(roles, ALL)
    batch = Batch(ledger, [PRICE, 2 * PRICE]).open_all()
    asked = {checker.node for checker in batch.checks[1].checkers}
    for checker in batch.checkers():
        if checker.node in asked:
            words = tuple(item for item in batch.attest(checker).items if item.index == 1)
            ledger.do(batch.key_of(checker), AttestLeaves(batch.id, words))
    for _ in range(REPLACEMENTS_MAX + 1):
        if batch.held.phase == BatchPhase.ATTESTATIONS:
            wait(ledger, PARAMS.attest_ms)
    assert batch.checks[0].is_void
    assert batch.held.phase == BatchPhase.DIGESTS
    assert isinstance(ledger.refuse(batch.worker, batch.reveal(0)), InvalidBatch)
    ledger.do(batch.worker, batch.reveal(1))
    before = ledger.state.get_balance(batch.worker.public)
    ledger.block(after_ms=PARAMS.dispute_window_ms)
    assert ledger.state.channels[batch.channel].paid == 2 * PRICE
    assert ledger.state.get_balance(batch.worker.public) - before == 2 * PRICE * 8_000 // 10_000


@pytest.mark.parametrize("liars", [1, 2])
def test_a_dissent_nobody_disputes_loses_its_fee_and_holds_nothing_up(liars: int) -> None:
    """Not even that of everyone drawn: they may be in league."""
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE]).open_all()
    bond = ledger.state.nodes[batch.worker.public].bond
    checkers = batch.checks[0].checkers
    for number, checker in enumerate(checkers):
        ledger.do(batch.key_of(checker), batch.attest(checker, {0: TRUTH} if number < liars else None))
    ledger.do(batch.worker, batch.reveal())
    before = ledger.state
    ledger.block(after_ms=10 * PARAMS.dispute_window_ms)
    assert batch.id in ledger.state.batches  # the ledger may have been away itself
    ledger.block(after_ms=PARAMS.grace_ms - 1)
    assert batch.id in ledger.state.batches
    ledger.block(after_ms=1)
    assert ledger.state.channels[batch.channel].paid == PRICE
    assert ledger.state.nodes[batch.worker.public].bond == bond
    for number, checker in enumerate(checkers):
        gained = ledger.state.get_balance(checker.account) - before.get_balance(checker.account)
        assert gained == (0 if number < liars else PRICE * 800 // 10_000)


@pytest.mark.parametrize("dissents", [1, 2])
def test_of_a_float_model_a_dissent_gives_its_leaf_back(dissents: int) -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE]).open_all()
    model = batch.checks[0].claim.model
    inexact = replace(ledger.state.models[model], exact=0)
    ledger.state = replace(ledger.state, models=dict(ledger.state.models) | {model: inexact})
    ledger.state = replace(ledger.state, tree=ledger.rebuild())
    for number, checker in enumerate(batch.checkers()):
        ledger.do(batch.key_of(checker), batch.attest(checker, {0: TRUTH} if number < dissents else None))
    ledger.do(batch.worker, batch.reveal())
    bond = ledger.state.nodes[batch.worker.public].bond
    wait(ledger, PARAMS.dispute_window_ms)
    assert ledger.state.nodes[batch.worker.public].bond == bond
    assert not ledger.state.wrong
    assert ledger.state.channels[batch.channel].paid == 0


def test_a_channel_settles_in_its_own_mode_alone() -> None:
    ledger = Ledger(SEVERAL)
    batch = Batch(ledger, [PRICE])
    individual = ledger.open_channel()
    (run,) = batch.body.runs
    assert isinstance(ledger.refuse(batch.worker, SettlePrivate((run,), batch.root.root)), InvalidMode)
    work = ledger.work(individual)[2]
    other = replace(batch.body, runs=(RunOfBatch(1, PRICE, work.voucher),))
    assert isinstance(ledger.refuse(batch.worker, other), InvalidMode)
    assert isinstance(
        ledger.refuse(batch.worker, ledger.settle(batch.channel, ledger.work(batch.channel)[2])), InvalidMode
    )
    with pytest.raises(AssertionError):
        ledger.open_channel(mode="free")


def test_a_request_of_another_mode_cannot_be_opened_in_a_batch() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE], mode=Mode.INDIVIDUAL)
    batch.settle()
    batch.draw()
    assert "mode 'individual'" in str(ledger.refuse(batch.worker, batch.open(0)))


def test_private_work_is_paid_at_once_and_nobody_has_checked_it() -> None:
    ledger = Ledger(SEVERAL)
    channel = ledger.open_channel(mode=Mode.PRIVATE)
    voucher = ledger.work(channel, seq=4, cumulative=4 * PRICE)[2].voucher
    worker = ledger.account("inference-0")
    body = SettlePrivate((RunOfBatch(1, 3 * PRICE, voucher),), b"r" * 32)
    assert isinstance(ledger.refuse(worker, SettlePrivate((), b"r" * 32)), InvalidBatch)
    before = ledger.state
    ledger.builder = "validator-0"
    ledger.do(worker, body)
    held = ledger.state.channels[channel]
    assert (held.paid, held.settled_seq, held.cumulative) == (3 * PRICE, 4, 4 * PRICE)
    gained = ledger.state.get_balance(worker.public) - before.get_balance(worker.public)
    assert gained > 3 * PRICE * 8_000 // 10_000 - 10_000_000  # less the transaction's own fee
    assert not ledger.state.batches
    assert not ledger.state.pending


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_said_or_not_the_batch_ends_and_pays_what_was_agreed(data: st.DataObject) -> None:
    """Money in is money out, grain by grain (the ledger of the tests looks after each block)."""
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, data.draw(st.lists(st.one_of(st.none(), st.integers(0, PRICE)), min_size=1, max_size=4)))
    batch.open_all()
    for _ in range(3):
        if batch.id not in ledger.state.batches or batch.held.phase != BatchPhase.ATTESTATIONS:
            break
        for checker in batch.checkers():
            words = batch.attest(checker, {0: TRUTH} if data.draw(st.booleans()) else None)
            fresh = tuple(item for item in words.items if not said(batch.checks[item.index], checker))
            if fresh and data.draw(st.booleans()):
                ledger.do(batch.key_of(checker), AttestLeaves(batch.id, fresh))
        if batch.held.phase == BatchPhase.ATTESTATIONS:
            wait(ledger, PARAMS.attest_ms)
    for _ in range(REPLACEMENTS_MAX + 1):
        wait(ledger, PARAMS.attest_ms)
    if batch.id in ledger.state.batches and batch.held.phase == BatchPhase.DIGESTS:
        ledger.do(batch.worker, batch.reveal(*[index for index, check in batch.checks.items() if not check.is_void]))
    for _ in range(3):
        ledger.block(after_ms=20_000)
    assert not ledger.state.batches
    assert not ledger.state.checks
    assert not [item for item in ledger.state.due.values() if item.kind == BATCH_PAYOUT_KIND]
    assert ledger.state.channels[batch.channel].paid <= batch.root.total


def said(check: Check, checker: Checker) -> bool:
    return any(item.node == checker.node and item.value for item in check.checkers)


def test_checks_are_kept_by_batch_and_leaf() -> None:
    assert compute_check_key(b"b" * 32, 258) == b"b" * 32 + bytes((0, 0, 1, 2))
