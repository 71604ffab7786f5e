"""Disputes: whose word is next, what silence costs, who judges, and where every grain goes in the end."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import InsufficientBalance
from protocol.jobs import compute_claim_id
from protocol.ledger.apply import next_due_ms
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import (
    CheckedLeaf,
    JudgeOperator,
    OpenDispute,
    PostExhibit,
    PostTrace,
    get_judges,
)
from protocol.ledger.errors import AlreadyProven, InvalidSignature, LimitReached, UnknownEpoch
from protocol.ledger.job_errors import AlreadyDisputed, AlreadySaid, InvalidDispute, UnknownDispute
from protocol.ledger.params import Params
from protocol.ledger.transactions import Delegate, Stake, Transfer, Unstake
from protocol.proofs.trace import Exhibit, Given, Judgement, pack_trace
from protocol.signing import sign
from tests.protocol.ledger.test_batches import ALL, SEVERAL, Batch
from tests.support.disputes import BETWEEN, FOUR, TRUTH, Quarrel
from tests.support.jobs import PRICE, ROW
from tests.support.ledgers import Ledger

PARAMS = Params()
BOND = PARAMS.dispute_bond
PLAIN = "ort=1.31.1;ep=cpu;isa=avx2;th=1;opt=disable;batch=1"
SOUND, WRONG, MISSING = Judgement.SOUND, Judgement.WRONG, Judgement.MISSING


def wait(ledger: Ledger) -> None:
    """A word's deadline passes, and the grace after it."""
    ledger.block(after_ms=PARAMS.dispute_ms)
    ledger.block(after_ms=PARAMS.grace_ms)


def test_a_worker_that_two_thirds_of_the_validators_find_wrong_is_slashed_and_the_challenger_rewarded() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger)
    start = ledger.state
    bond = start.nodes[quarrel.worker.public].bond
    quarrel.argue().vote(WRONG, 0, 1)
    assert not quarrel.is_over
    quarrel.vote(WRONG, 2)

    assert quarrel.is_over
    taken = bond * PARAMS.slash_bp // 10_000
    assert ledger.state.nodes[quarrel.worker.public].bond == bond - taken
    gained = ledger.state.get_balance(quarrel.challenger.public) - start.get_balance(quarrel.challenger.public)
    assert taken // 2 - 10**9 < gained <= taken // 2  # but for the fees of its transactions
    proven = ledger.state.wrong[compute_claim_id(quarrel.receipt.claim)]
    assert (proven.worker, proven.slashed) == (quarrel.worker.public, taken)
    assert ledger.state.work[quarrel.worker.public].wrong == 1
    assert isinstance(ledger.refuse(quarrel.challenger, quarrel.order()), AlreadyProven)


def test_a_challenger_that_is_found_wrong_loses_its_bond_half_to_the_worker_half_to_the_fire() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).argue()
    before = ledger.state
    quarrel.vote(SOUND, 0, 1, 2)

    assert quarrel.is_over
    worker = quarrel.worker.public
    assert ledger.state.get_balance(worker) - before.get_balance(worker) == BOND // 2
    assert ledger.state.burned - before.burned >= BOND // 2
    assert ledger.state.get_balance(quarrel.challenger.public) == before.get_balance(quarrel.challenger.public)
    assert ledger.state.nodes[worker].bond == before.nodes[worker].bond
    assert not ledger.state.wrong


@pytest.mark.parametrize(
    ("argue", "loser"),
    [
        (lambda quarrel: quarrel.open(), "worker"),
        (lambda quarrel: quarrel.open().trace_it(), "challenger"),
        (lambda quarrel: quarrel.open().trace_it().name_it(), "worker"),
    ],
)
def test_who_is_silent_past_deadline_and_grace_has_lost(argue: Callable[[Quarrel], Quarrel], loser: str) -> None:
    ledger = Ledger(FOUR)
    quarrel = argue(Quarrel(ledger))
    before = ledger.state
    ledger.block(after_ms=PARAMS.dispute_ms)
    assert not quarrel.is_over  # the ledger may have been away itself
    ledger.block(after_ms=PARAMS.grace_ms - 1)
    assert not quarrel.is_over
    ledger.block(after_ms=1)

    assert quarrel.is_over
    is_slashed = ledger.state.nodes[quarrel.worker.public].bond < before.nodes[quarrel.worker.public].bond
    has_bond = (
        ledger.state.get_balance(quarrel.challenger.public) >= before.get_balance(quarrel.challenger.public) + BOND
    )
    assert (is_slashed, has_bond) == ((True, True) if loser == "worker" else (False, False))


def test_a_word_within_the_grace_after_an_outage_is_in_time() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).open()
    ledger.block(after_ms=10 * PARAMS.dispute_ms)
    quarrel.trace_it()
    ledger.block(after_ms=PARAMS.grace_ms)
    assert quarrel.held.phase == DisputePhase.NAME


def test_a_deadline_of_a_phase_that_is_over_ends_nothing() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).open()
    ledger.block(after_ms=PARAMS.dispute_ms - 200)
    quarrel.trace_it()
    ledger.block(after_ms=PARAMS.grace_ms + 200)
    ledger.block(after_ms=PARAMS.grace_ms)  # the first deadline is past its grace, the second in its own
    assert quarrel.held.phase == DisputePhase.NAME


@pytest.mark.parametrize("votes", [(), ((SOUND, 0, 1), (WRONG, 2, 3)), ((WRONG, 0, 1),)])
def test_without_a_quorum_both_go_as_they_came(votes: tuple[tuple[Judgement, int, int], ...]) -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).argue()
    before = ledger.state
    for judgement, *validators in votes:
        quarrel.vote(judgement, *validators)
    wait(ledger)

    assert quarrel.is_over
    challenger, worker = quarrel.challenger.public, quarrel.worker.public
    assert ledger.state.get_balance(challenger) - before.get_balance(challenger) == BOND
    assert ledger.state.nodes[worker] == before.nodes[worker]
    assert not ledger.state.wrong
    assert next_due_ms(ledger.state) is None


def test_a_party_leaves_vote_and_total() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger, challenger="validator-3").argue()
    judges = get_judges_of(quarrel)
    assert judges == {ledger.account(f"validator-{number}").public for number in range(3)}
    assert isinstance(ledger.refuse(quarrel.challenger, quarrel.judge(WRONG)), InvalidDispute)
    quarrel.vote(WRONG, 0, 1)
    assert not quarrel.is_over  # two of three are no more than two thirds
    quarrel.vote(WRONG, 2)
    assert quarrel.is_over


def get_judges_of(quarrel: Quarrel) -> set[bytes]:
    return set(get_judges(quarrel.ledger.state.get_epoch(quarrel.held.epoch), quarrel.held))


def test_validators_of_the_epoch_in_which_the_exhibit_came_judge_even_after_it() -> None:
    ledger = Ledger(FOUR, replace(PARAMS, epoch_ms=1_000))
    quarrel = Quarrel(ledger).argue()
    ledger.block(after_ms=3_000)
    quarrel.vote(WRONG, 0, 1, 2)
    assert quarrel.is_over


@pytest.mark.parametrize(("second", "is_over"), [(MISSING, True), (SOUND, False)])
def test_an_exhibit_in_a_blob_that_validators_cannot_have_condemns_the_worker_like_a_wrong_one(
    second: Judgement, is_over: bool
) -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).open().trace_it().name_it()
    ledger.do(quarrel.worker, PostExhibit(quarrel.id, (), (b"b" * 32,)))
    quarrel.vote(MISSING, 0).vote(WRONG, 1).vote(second, 2)
    assert quarrel.is_over is is_over
    assert bool(ledger.state.wrong) is is_over


# Who may say what


def test_every_word_is_its_senders_to_say_and_only_then() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger)
    worker, challenger, judge = quarrel.worker, quarrel.challenger, ledger.account("validator-0")
    assert isinstance(ledger.refuse(worker, PostTrace(bytes(32), pack_trace(quarrel.trace))), UnknownDispute)
    quarrel.open()
    for body in (quarrel.name(), quarrel.show(), quarrel.judge(WRONG)):
        assert "waits for its trace" in str(ledger.refuse(worker, body))
    assert "the worker posts" in str(ledger.refuse(challenger, quarrel.post()))
    quarrel.trace_it()
    assert "waits for its name" in str(ledger.refuse(worker, quarrel.post()))
    assert "the challenger names" in str(ledger.refuse(worker, quarrel.name()))
    for operator in (0, 4):
        assert "not one of 1 to 3" in str(ledger.refuse(challenger, quarrel.name(operator)))
    quarrel.name_it()
    assert "the worker publishes" in str(ledger.refuse(challenger, quarrel.show()))
    assert "waits for its exhibit" in str(ledger.refuse(judge, quarrel.judge(WRONG)))
    quarrel.show_it()
    assert "none of them a party" in str(ledger.refuse(worker, quarrel.judge(SOUND)))
    assert "none of them a party" in str(ledger.refuse(ledger.account("verifier-1"), quarrel.judge(SOUND)))
    for number in (0, 4, MISSING):
        assert "is no judgement" in str(ledger.refuse(judge, JudgeOperator(quarrel.id, number)))
    quarrel.vote(SOUND, 0)
    assert isinstance(ledger.refuse(judge, quarrel.judge(WRONG)), AlreadySaid)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda trace: trace[:1] + trace[:1] + trace[1:], ""),
        (lambda trace: (b"x" * 32, *trace[1:]), "begins with"),
        (lambda trace: (*trace[:-1], TRUTH), "ends with"),
        (lambda trace: trace[:1], "a trace of 32 bytes"),
        (lambda trace: (), "a trace of 0 bytes"),
    ],
)
def test_a_trace_leads_from_the_claimed_inputs_to_the_opened_output(
    change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]], why: str
) -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).open()
    body = PostTrace(quarrel.id, pack_trace(change(quarrel.trace)))
    if why:
        assert why in str(ledger.refuse(quarrel.worker, body))
    else:
        ledger.do(quarrel.worker, body)  # how many operators there are, only validators know


@pytest.mark.parametrize(
    ("exhibit", "why"),
    [
        ((), "either here or in a blob"),
        ((Exhibit((Given(1, (ROW,)),)),), "not what the trace says"),
        ((Exhibit((Given(2, BETWEEN),)),), "takes nothing from operator 2"),
    ],
)
def test_what_is_published_for_an_operator_is_what_the_trace_says(exhibit: tuple[Exhibit, ...], why: str) -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).open().trace_it().name_it()
    assert why in str(ledger.refuse(quarrel.worker, PostExhibit(quarrel.id, exhibit, ())))
    both = PostExhibit(quarrel.id, quarrel.show().exhibit, (bytes(32),))
    assert "either here or in a blob" in str(ledger.refuse(quarrel.worker, both))


# What can be disputed


@pytest.mark.parametrize("late", [False, True])
def test_a_receipt_can_be_disputed_as_long_as_its_worker_keeps_what_it_needs_to_answer(late: bool) -> None:
    ledger = Ledger(FOUR, replace(PARAMS, epoch_ms=60_000, unbonding_ms=10**6))
    quarrel = Quarrel(ledger)
    latest_ms = quarrel.receipt.claim.deadline_ms + PARAMS.challenge_ms
    ledger.block(after_ms=latest_ms - ledger.state.time_ms)
    if late:
        ledger.block(after_ms=1)
        assert f"until {latest_ms}" in str(ledger.refuse(quarrel.challenger, quarrel.order()))
    else:  # the first block after an outage still takes it
        ledger.do(quarrel.challenger, quarrel.order(), after_ms=50_000)


def test_a_leaf_of_a_batch_under_way_can_be_disputed_whenever_its_receipt_is_from() -> None:
    ledger = Ledger(SEVERAL, replace(ALL, dispute_window_ms=200_000))
    batch = Batch(ledger, [PRICE] * 3).check_all()
    ledger.block(after_ms=100_000)
    Quarrel(ledger, "client-0", batch.receipts[1]).open()


def test_a_dispute_needs_a_bond_and_a_receipt_of_somebody_else_that_says_another_thing() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger)
    receipt, order = quarrel.receipt, quarrel.order()

    def refuse(body: OpenDispute, name: str = "verifier-0") -> Exception:
        return ledger.refuse(ledger.account(name), body)

    assert "its own claim" in str(refuse(order, "inference-0"))
    assert "found what the worker says" in str(refuse(quarrel.order(found=receipt.output_digest)))
    assert "either a receipt or a leaf" in str(refuse(replace(order, receipt=())))
    assert "either a receipt or a leaf" in str(refuse(replace(order, leaf=(CheckedLeaf(bytes(32), 0),))))
    assert "does not open" in str(refuse(replace(order, receipt=(replace(receipt, salt=bytes(32)),))))
    forged = replace(receipt, claim=replace(receipt.claim, signature=bytes(64)))
    assert isinstance(refuse(replace(order, receipt=(forged,))), InvalidSignature)
    old = sign(replace(receipt.claim, epoch=99), ledger.node("inference-0"))
    assert isinstance(refuse(replace(order, receipt=(replace(receipt, claim=old),))), UnknownEpoch)
    stranger = sign(replace(receipt.claim, worker=ledger.node("verifier-1").public), ledger.node("verifier-1"))
    assert "did not serve" in str(refuse(replace(order, receipt=(replace(receipt, claim=stranger),))))
    balance = ledger.state.get_balance(ledger.account("verifier-2").public)
    ledger.do(ledger.account("verifier-2"), Transfer(ledger.account("client-0").public, balance - BOND))
    assert isinstance(refuse(order, "verifier-2"), InsufficientBalance)
    quarrel.open()
    assert isinstance(refuse(order), AlreadyDisputed)


def test_no_more_disputes_are_open_at_a_time_than_the_ledger_has_room_for() -> None:
    ledger = Ledger(FOUR, replace(PARAMS, disputes_max=2))
    first = [Quarrel(ledger).open() for _ in range(2)]
    third = Quarrel(ledger)
    assert isinstance(ledger.refuse(third.challenger, third.order()), LimitReached)
    wait(ledger)
    assert all(quarrel.is_over for quarrel in first)
    third.open()


@pytest.mark.parametrize(
    ("mine", "theirs", "is_taken"),
    [
        (PLAIN, PLAIN, True),
        (PLAIN, PLAIN.replace("batch=1", "batch=2"), False),
        (PLAIN.replace("disable", "all"), PLAIN.replace("disable", "all"), False),
        ("opt=disable", "opt=disable", False),
    ],
)
def test_models_that_are_not_exact_are_disputed_only_under_one_profile_without_optimisation(
    mine: str, theirs: str, is_taken: bool
) -> None:
    ledger = Ledger(FOUR)
    fp32 = next(model for model in ledger.state.models.values() if not model.exact)
    receipt = ledger.work(ledger.open_channel())[0]
    node = ledger.node("inference-0")
    claim = sign(replace(receipt.claim, model=fp32.digest, profile=theirs), node)
    quarrel = Quarrel(ledger, receipt=replace(receipt, claim=claim))
    body = quarrel.order(profile=mine)
    if is_taken:
        ledger.do(quarrel.challenger, body)
    else:
        assert "honest outputs may differ" in str(ledger.refuse(quarrel.challenger, body))


def test_who_is_found_wrong_is_slashed_bonded_and_unbonding_alike() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger)
    bond = ledger.state.nodes[quarrel.worker.public].bond
    ledger.do(quarrel.worker, Unstake(bond // 4))
    quarrel.condemn()
    assert ledger.state.nodes[quarrel.worker.public].bond == (bond - bond // 4) * 9 // 10
    assert sum(entry.amount for entry in ledger.state.unbonding.values()) == bond // 4 * 9 // 10


@pytest.mark.parametrize("is_batched", [False, True])
def test_stake_on_its_way_back_stays_while_a_dispute_or_a_batch_of_its_owner_is_open(is_batched: bool) -> None:
    ledger = Ledger(SEVERAL, replace(ALL, unbonding_ms=320_000, open_ms=10**9))
    quarrel = Quarrel(ledger)
    bond = ledger.state.nodes[quarrel.worker.public].bond
    ledger.do(quarrel.worker, Stake(bond))
    ledger.do(quarrel.worker, Unstake(bond))
    ledger.block(after_ms=300_000)
    later = Quarrel(ledger)
    if is_batched:
        Batch(ledger, [PRICE]).settle().draw()
    else:
        later.open()
    ledger.block(after_ms=25_000)
    assert ledger.state.unbonding  # its time is over
    if not is_batched:
        ledger.block(after_ms=PARAMS.grace_ms)
        assert later.is_over
        left = bond - bond * ALL.slash_bp // 10_000
        assert sum(entry.amount for entry in ledger.state.unbonding.values()) == left
        ledger.block(after_ms=PARAMS.grace_ms)
        assert not ledger.state.unbonding


def test_nobody_is_kept_from_disputing_a_claim_by_another_who_does_so_for_show() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger)
    bond = ledger.state.nodes[quarrel.worker.public].bond
    sham = Quarrel(ledger, "client-0", quarrel.receipt).open().trace_it()
    quarrel.argue()
    before = ledger.state
    quarrel.vote(WRONG, 0, 1, 2)
    assert sham.is_over
    assert ledger.state.get_balance(sham.challenger.public) == before.get_balance(sham.challenger.public) + BOND
    assert ledger.state.nodes[quarrel.worker.public].bond == bond * 9 // 10  # once
    assert ledger.state.work[quarrel.worker.public].wrong == 1


def test_a_show_of_a_dispute_that_is_lost_ends_no_other() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).argue()
    sham = Quarrel(ledger, "client-0", quarrel.receipt).argue().vote(SOUND, 0, 1, 2)
    assert sham.is_over
    assert not quarrel.is_over


def test_a_worker_with_stake_behind_the_challenger_gets_nothing_of_its_bond() -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger, challenger="validator-3")
    ledger.do(quarrel.worker, Delegate(quarrel.challenger.public, PARAMS.delegation_min))
    quarrel.argue()
    before = ledger.state
    quarrel.vote(SOUND, 0, 1, 2)
    assert ledger.state.get_balance(quarrel.worker.public) == before.get_balance(quarrel.worker.public)
    assert ledger.state.burned - before.burned >= BOND


# Leaves of batches


def test_the_batch_of_a_claim_in_dispute_is_frozen_and_forfeit_when_the_worker_is_wrong() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE] * 3).check_all()
    quarrel = Quarrel(ledger, "client-0", batch.receipts[1]).argue()
    for _ in range(3):
        ledger.block(after_ms=PARAMS.dispute_window_ms // 2)
    assert batch.id in ledger.state.batches
    quarrel.vote(WRONG, 0)
    assert batch.id not in ledger.state.batches
    assert ledger.state.channels[batch.channel].paid == 0


def test_the_batch_of_a_challenger_that_was_wrong_is_paid_whole() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE] * 3).check_all()
    quarrel = Quarrel(ledger, "client-0", batch.receipts[1]).argue()
    ledger.block(after_ms=PARAMS.dispute_window_ms)
    quarrel.vote(SOUND, 0)
    before = ledger.state.get_balance(batch.worker.public)
    ledger.block(after_ms=PARAMS.dispute_ms + PARAMS.grace_ms)
    assert batch.id not in ledger.state.batches
    assert ledger.state.get_balance(batch.worker.public) - before == 3 * PRICE * 8_000 // 10_000
    assert ledger.state.channels[batch.channel].paid == 3 * PRICE


@pytest.mark.parametrize("is_drawn", [True, False])
@pytest.mark.parametrize("is_forfeit", [True, False])
def test_the_leaf_of_a_dispute_nobody_decides_goes_back_to_the_payer_and_the_rest_goes_on(
    is_drawn: bool, is_forfeit: bool
) -> None:
    ledger = Ledger(SEVERAL, ALL if is_drawn else replace(ALL, sample_bp=1, sample_floor_bp=1, slash_bp=10_000))
    batch = Batch(ledger, [PRICE, 2 * PRICE, 3 * PRICE]).check_all()
    index = 1 if is_drawn else next(number for number in range(3) if number not in batch.checks)
    lost = (index + 1) * PRICE
    Quarrel(ledger, "client-0", batch.receipts[index]).argue()
    before = ledger.state.get_balance(batch.worker.public)
    wait(ledger)
    assert batch.id in ledger.state.batches
    if is_forfeit:
        Quarrel(ledger, "client-0", batch.receipts[0 if index else 2]).argue().vote(WRONG, 0)
        lost = 6 * PRICE
    else:
        ledger.block(after_ms=PARAMS.dispute_ms + PARAMS.grace_ms)
        assert ledger.state.get_balance(batch.worker.public) - before == (6 * PRICE - lost) * 8_000 // 10_000
    assert batch.id not in ledger.state.batches
    assert ledger.state.channels[batch.channel].paid == 6 * PRICE - lost


@pytest.mark.parametrize(("judgement", "paid"), [(SOUND, 3 * PRICE), (WRONG, 0)])
def test_a_drawn_verifier_in_dissent_may_have_validators_decide(judgement: Judgement, paid: int) -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE] * 3).open_all()
    checker = batch.checks[1].checkers[0]
    name = next(name for name in ledger.foundation.nodes if ledger.account(name).public == checker.account)
    early = Quarrel(ledger, name, batch.receipts[1])
    leaf = CheckedLeaf(batch.id, 1)
    for other in batch.checkers():
        digests = {1: TRUTH} if other.node == checker.node else None
        ledger.do(batch.key_of(other), batch.attest(other, digests))
    assert "is not open" in str(ledger.refuse(early.challenger, early.order(leaf=leaf)))
    ledger.do(batch.worker, batch.reveal())
    assert "opens no attestation" in str(ledger.refuse(ledger.account("client-0"), early.order(leaf=leaf)))
    assert "opens no attestation" in str(ledger.refuse(early.challenger, early.order(leaf=leaf, found=b"3" * 32)))

    early.open(leaf).trace_it().name_it().show_it().vote(judgement, 0)

    ledger.block(after_ms=PARAMS.dispute_ms + PARAMS.grace_ms)
    ledger.block(after_ms=PARAMS.grace_ms)
    assert batch.id not in ledger.state.batches
    assert not ledger.state.checks
    assert ledger.state.channels[batch.channel].paid == paid


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from((SOUND, WRONG))), max_size=4, unique_by=lambda pair: pair[0])
)
def test_votes_decide_exactly_when_more_than_two_thirds_agree(votes: list[tuple[int, Judgement]]) -> None:
    ledger = Ledger(FOUR, check_signatures=False)
    quarrel = Quarrel(ledger).argue()
    for count, (number, judgement) in enumerate(votes, 1):
        quarrel.vote(judgement, number)
        told = [told for _, told in votes[:count]]
        assert quarrel.is_over is (max(told.count(SOUND), told.count(WRONG)) >= 3)
        if quarrel.is_over:
            return
