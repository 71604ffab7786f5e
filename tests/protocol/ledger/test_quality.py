"""Quality: what moves it, what it moves, and what it costs to buy."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger.batches import compute_drawn, compute_pending_max, get_sample_bp
from protocol.ledger.epochs import compute_epoch_seed, take_snapshot
from protocol.ledger.money import split_inference_fee
from protocol.ledger.params import LOST_TIMES_MAX, Params, verify_params
from protocol.ledger.quality import (
    compute_burnt,
    compute_draw_weight,
    compute_quality,
    compute_sample_bp,
    may_verify,
)
from protocol.ledger.records import WorkCount
from protocol.types import BP, GRAINS_PER_ROLE, INT_MAX
from tests.protocol.ledger.test_batches import ALL, SEVERAL, Batch
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger

PARAMS = Params()
LIE = b"\x09" * 32
counts = st.builds(WorkCount, *[st.integers(0, INT_MAX)] * len(fields(WorkCount)))
params = st.builds(
    lambda half, floor, rate, rate_floor, times: replace(
        PARAMS,
        quality_half=half,
        quality_floor_bp=floor,
        sample_bp=max(rate, rate_floor),
        sample_floor_bp=min(rate, rate_floor),
        lost_times=times,
    ),
    st.integers(1, INT_MAX),
    st.integers(1, BP),
    st.integers(1, BP),
    st.integers(1, BP),
    st.integers(0, LOST_TIMES_MAX),
)


@given(work=counts, params=params, more=st.integers(0, INT_MAX))
def test_what_is_lost_never_raises_quality_and_what_is_burnt_never_lowers_it(
    work: WorkCount, params: Params, more: int
) -> None:
    quality = compute_quality(work, params)

    assert 0 <= quality <= BP
    assert compute_quality(replace(work, lost=work.lost + more), params) <= quality
    assert compute_quality(replace(work, burnt=work.burnt + more), params) >= quality


def test_a_loss_weighs_ten_times_what_was_burnt() -> None:
    half = PARAMS.quality_half

    assert compute_quality(WorkCount(0, 0, 0, 0, burnt=half, lost=half), PARAMS) == BP // 12


@given(work=counts, params=params)
def test_nobody_gains_by_leaving_a_record_behind(work: WorkCount, params: Params) -> None:
    assert compute_quality(None, params) == 0 <= compute_quality(work, params)


@given(quality=st.integers(0, BP), more=st.integers(0, BP), params=params, bond=st.integers(0, INT_MAX))
def test_weight_rises_and_the_rate_falls_with_quality_and_neither_leaves_its_bounds(
    quality: int, more: int, params: Params, bond: int
) -> None:
    better = min(BP, quality + more)
    weight, rate = compute_draw_weight(bond, quality, params), compute_sample_bp(quality, params)

    assert bond * params.quality_floor_bp // BP <= weight <= compute_draw_weight(bond, better, params) <= bond
    assert params.sample_bp >= rate >= compute_sample_bp(better, params) >= params.sample_floor_bp
    gain, loss = compute_pending_max(bond, rate, params), bond * params.slash_bp // BP
    assert rate * loss >= (BP - rate) * gain  # whoever is looked at less has less to win


@given(work=counts, agreed=st.integers(0, INT_MAX), minority=st.integers(0, INT_MAX))
def test_dissents_in_vain_only_bar_a_verifier_and_agreement_only_helps_it(
    work: WorkCount, agreed: int, minority: int
) -> None:
    if may_verify(work, PARAMS):
        assert may_verify(replace(work, agreed=max(work.agreed, agreed)), PARAMS)
    else:
        assert not may_verify(replace(work, minority=max(work.minority, minority)), PARAMS)


def test_quality_is_dearer_to_buy_than_the_same_weight_in_stake() -> None:
    """Who pays itself, and even is all of its verifiers, loses burn and treasury's part of every fee."""
    bond = PARAMS.get_bond_min("inference")
    half = PARAMS.quality_half
    fee = half * BP // (BP - 8_000 - 800 - 1_000)
    _, _, treasury, burn = split_inference_fee(fee, 1, PARAMS)
    before = compute_draw_weight(bond, 0, PARAMS)

    after = compute_draw_weight(bond, compute_quality(WorkCount(0, 0, 0, 0, burnt=burn), PARAMS), PARAMS)

    assert (before, after) == (bond // 2, bond * 3 // 4)
    assert (treasury + burn) // GRAINS_PER_ROLE == 600  # gone for half of all quality
    stake = bond * after // before - bond  # what weighs as much, and comes back
    assert stake // GRAINS_PER_ROLE == 50
    assert (treasury + burn) >= 12 * stake


def test_a_snapshot_can_be_made_anew_by_anyone_and_quality_counts_from_the_next_epoch_on() -> None:
    ledger = Ledger(SEVERAL, replace(ALL, quality_half=1_000, sample_floor_bp=5_000))
    worker = ledger.account("inference-0").public
    batch = Batch(ledger, [PRICE, PRICE]).open_all().attest_all()
    ledger.do(batch.worker, batch.reveal(0, 1))
    ledger.block(after_ms=PARAMS.dispute_window_ms)
    burnt = compute_burnt(2 * PRICE, PARAMS)
    assert ledger.state.work[worker].burnt == burnt
    first = ledger.state.epochs[ledger.state.epoch].find_account(worker)
    assert first is not None
    assert (first.quality, first.draw_weight) == (0, first.weight // 2)

    before = ledger.state
    ledger.block(after_ms=PARAMS.epoch_ms)

    state = ledger.state
    then = state.epochs[state.epoch]
    candidate = then.find_account(worker)
    assert candidate is not None
    assert candidate.quality == BP * burnt // (burnt + 1_000) > 9_000
    assert candidate.draw_weight == compute_draw_weight(candidate.weight, candidate.quality, state.params)
    seed = compute_epoch_seed(state.seed, state.epoch)
    nodes, work = state.nodes, state.work
    assert then == take_snapshot(state.height + 1, seed, nodes, state.pools, (), work, state.params)
    assert get_sample_bp(then, worker, state.params) == 10_000 - 5_000 * candidate.quality // BP
    assert get_sample_bp(before.epochs[before.epoch], worker, state.params) == 10_000
    later = Batch(ledger, [PRICE] * 10).settle()
    drawn = later.draw()
    assert later.held.sample_bp == get_sample_bp(then, worker, state.params)
    assert drawn == compute_drawn(later.held.seed, later.id, 10, later.held.sample_bp)
    assert len(drawn) == -(-10 * later.held.sample_bp // BP) < 10


def test_a_forfeit_batch_weighs_against_its_worker_as_much_as_it_would_have_burnt() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = Batch(ledger, [PRICE, PRICE, None]).settle()
    batch.draw()
    ledger.block(after_ms=PARAMS.open_ms)
    ledger.block(after_ms=PARAMS.grace_ms)

    count = ledger.state.work[batch.worker.public]

    assert batch.id not in ledger.state.batches
    assert (count.burnt, count.lost) == (0, compute_burnt(2 * PRICE, PARAMS))


def test_a_verifier_that_dissents_in_vain_again_and_again_is_drawn_no_more() -> None:
    params = replace(ALL, minorities_max=1, minority_bp=0, epoch_ms=10**6, unbonding_ms=10**8)
    ledger = Ledger(SEVERAL, replace(params, channel_close_delay_ms=10**6))
    loud = b""
    for number in range(20):
        batch = Batch(ledger, [PRICE]).open_all()
        checkers = batch.checkers()
        loud = loud or checkers[0].account
        for checker in checkers:
            wrong = dict.fromkeys(batch.checks, LIE) if checker.account == loud else None
            ledger.do(batch.key_of(checker), batch.attest(checker, wrong))
        ledger.do(batch.worker, batch.reveal(0))
        ledger.block(after_ms=PARAMS.dispute_window_ms)
        ledger.block(after_ms=PARAMS.grace_ms)  # who dissents may still dispute
        if ledger.state.work[loud].minority > 1:
            break
        ledger.block(after_ms=number + 1)
    assert ledger.state.work[loud].minority == 2
    agreed = sum(count.agreed for count in ledger.state.work.values())
    assert agreed > 0
    assert ledger.state.epochs[ledger.state.epoch].find_account(loud) is not None

    ledger.block(after_ms=params.epoch_ms)

    assert ledger.state.epochs[ledger.state.epoch].find_account(loud) is None
    assert len(ledger.state.epochs[ledger.state.epoch].get_candidates("verifier")) == SEVERAL["verifier"] - 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sample_floor_bp": 0}, "sample_floor_bp"),
        ({"sample_floor_bp": 1_001}, "sample_floor_bp"),
        ({"quality_half": 0}, "quality_half"),
        ({"quality_floor_bp": 0}, "quality_floor_bp"),
        ({"lost_times": LOST_TIMES_MAX + 1}, "lost_times"),
    ],
)
def test_parameters_of_quality_have_ranges(changes: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        verify_params(replace(PARAMS, **changes))  # type: ignore[arg-type]
