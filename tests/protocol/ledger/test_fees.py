"""The fee market: what room costs, how the price moves, and who gets the money."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import InsufficientBalance
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, build_block, check_transaction
from protocol.ledger.errors import FeeBelowBase, FeeTooLow, InvalidSignature
from protocol.ledger.fees import (
    BLOCK_UNITS_MAX,
    UNITS_TARGET,
    compute_base_fee,
    compute_fee,
    compute_next_base_fee,
    count_units,
    split_transaction_fee,
    with_fee,
)
from protocol.ledger.params import Params
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction, Transfer
from protocol.signing import sign
from protocol.types import INT_MAX
from tests.support.ledgers import Ledger

PARAMS = Params()
FEE = PARAMS.base_fee_min
base_fees = st.integers(FEE, 2**50)


@given(fee=st.integers(0, INT_MAX))
def test_splitting_a_transaction_fee_never_creates_or_loses_a_grain(fee: int) -> None:
    validators, treasury, burn = split_transaction_fee(fee, PARAMS)
    assert validators + treasury + burn == fee
    assert validators == treasury == fee * 3 // 10


# go-ethereum, consensus/misc/eip1559, TestCalcBaseFee: 20,000,000 gas there is 1,000 units here.
@pytest.mark.parametrize(("units", "after"), [(500, 10**9), (450, 987_500_000), (550, 1_012_500_000)])
def test_the_base_fee_moves_as_that_of_eip_1559(units: int, after: int) -> None:
    assert compute_next_base_fee(10**9, units, PARAMS) == after


@given(base_fee=base_fees, units=st.integers(0, BLOCK_UNITS_MAX))
def test_a_block_moves_the_base_fee_by_an_eighth_at_most_and_never_below_its_minimum(base_fee: int, units: int) -> None:
    after = compute_next_base_fee(base_fee, units, PARAMS)
    assert max(FEE, base_fee - base_fee // 8) <= after <= base_fee + max(1, base_fee // 8)
    assert (after > base_fee) == (units > UNITS_TARGET)


@given(units=st.integers(UNITS_TARGET + 1, BLOCK_UNITS_MAX))
def test_the_smallest_base_fee_still_rises(units: int) -> None:
    assert compute_next_base_fee(1, units, replace(PARAMS, base_fee_min=1)) == 2


@given(base_fee=base_fees, first_ms=st.integers(0, 100_000), more_ms=st.integers(0, 10**12))
def test_a_sleeping_network_gets_cheaper_and_ends_at_the_minimum(base_fee: int, first_ms: int, more_ms: int) -> None:
    soon = compute_base_fee(base_fee, first_ms, PARAMS)
    assert FEE <= compute_base_fee(base_fee, first_ms + more_ms, PARAMS) <= soon <= base_fee
    assert compute_base_fee(base_fee, PARAMS.fee_idle_ms - 1, PARAMS) == base_fee
    assert compute_base_fee(base_fee, 10**6, PARAMS) == FEE


@given(
    size=st.integers(1, 65_000),
    base_fee=base_fees,
    fee=st.integers(0, INT_MAX),
    tip=st.integers(0, INT_MAX),
)
def test_nobody_pays_more_than_its_fee_and_its_tip(size: int, base_fee: int, fee: int, tip: int) -> None:
    transaction = replace(_unsigned(Ledger()), fee=fee, tip=tip)
    units = count_units(size)
    if fee < base_fee * units:
        with pytest.raises(FeeTooLow if fee < FEE * units else FeeBelowBase) as caught:
            compute_fee(transaction, units, base_fee, PARAMS)
        assert caught.value.offered == fee
        assert caught.value.need == (FEE if fee < FEE * units else base_fee) * units
        return
    base, tipped = compute_fee(transaction, units, base_fee, PARAMS)
    assert base == base_fee * units
    assert base + tipped <= fee
    assert tipped == min(tip, fee - base)


@given(base_fee=base_fees, tip=st.integers(0, 2**50), body=st.binary(max_size=60_000))
def test_a_quoted_fee_covers_five_full_blocks_and_the_tip(base_fee: int, tip: int, body: bytes) -> None:
    quoted = with_fee(replace(_unsigned(Ledger()), body=body), base_fee, tip)
    for _ in range(5):
        base_fee = compute_next_base_fee(base_fee, BLOCK_UNITS_MAX, PARAMS)
    assert compute_fee(quoted, count_units(len(encode(quoted))), base_fee, PARAMS)[1] == tip


def test_the_tip_is_the_builders_and_the_base_fee_is_divided() -> None:
    ledger = Ledger()
    payer, builder = ledger.spare(0), ledger.account("validator-0").public
    before = ledger.state
    assert ledger.block(_with(ledger, payer, fee=FEE + 70, tip=50), _with(ledger, payer, 1, fee=FEE + 30, tip=50)) == []
    after = ledger.state
    assert after.get_balance(payer.public) == before.get_balance(payer.public) - 2 - 2 * FEE - 80
    assert after.get_balance(builder) == before.get_balance(builder) + 60_000 + 80
    assert (after.treasury, after.burned) == (60_000, 80_000)


def test_a_transaction_pays_for_the_room_it_takes() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    work = ledger.work(channel)[2]
    worker = ledger.account("inference-0")
    settlement = ledger.settle(channel, work)
    assert count_units(len(encode(ledger.sign(worker, settlement)))) == 2
    before = ledger.state.get_balance(worker.public)
    ledger.do(worker, settlement)
    assert before - ledger.state.get_balance(worker.public) == 2 * FEE


def test_a_crowd_makes_room_dear_and_quiet_makes_it_cheap_again() -> None:
    state = _crowd(Ledger().state)
    assert state.base_fee == FEE + FEE * 100 // 500 // 8
    ledger = Ledger()
    ledger.state = state
    ledger.block(after_ms=1)
    assert ledger.state.base_fee == FEE  # an empty block takes an eighth
    ledger.state = replace(state, base_fee=10**9)
    ledger.block(after_ms=PARAMS.fee_idle_ms)
    assert ledger.state.base_fee == 10**9 * 7 // 8 * 7 // 8
    ledger.state = replace(state, base_fee=10**9)
    ledger.block(after_ms=3_600_000)
    assert ledger.state.base_fee == FEE


def test_a_fee_below_the_base_fee_waits_for_a_quieter_ledger() -> None:
    ledger = Ledger()
    ledger.state = replace(ledger.state, base_fee=2 * FEE)
    payer = ledger.spare()
    cheap = _with(ledger, payer, fee=2 * FEE - 1)
    assert ledger.block(cheap) == []
    assert ledger.state.get_nonce(payer.public) == 0
    ledger.state = replace(ledger.state, base_fee=2 * FEE)
    check_transaction(ledger.state, cheap)
    with pytest.raises(InvalidSignature):
        check_transaction(ledger.state, replace(cheap, signature=bytes(64)))
    assert ledger.block(cheap, after_ms=PARAMS.fee_idle_ms) == []
    assert ledger.state.get_nonce(payer.public) == 1


def test_a_refused_transaction_leaves_no_fee_behind() -> None:
    ledger = Ledger()
    payer = ledger.spare()
    much = ledger.state.get_balance(payer.public)
    errors = ledger.block(ledger.sign(payer, Transfer(bytes(32), much)))
    assert isinstance(errors[0], InsufficientBalance)
    assert (ledger.state.treasury, ledger.state.burned) == (0, 0)
    assert ledger.state.get_balance(payer.public) == much


def test_a_block_holds_so_many_units_and_the_rest_waits() -> None:
    ledger = Ledger(check_signatures=False)
    payer = ledger.spare()
    state = ledger.state
    many = [_with(ledger, payer, number) for number in range(BLOCK_UNITS_MAX + 5)]
    block, after, dropped = build_block(state, many, state.time_ms + 1, ledger.account("validator-0").public, False)
    assert len(block.transactions) == BLOCK_UNITS_MAX
    assert not dropped
    assert after.base_fee == FEE * 9 // 8
    assert apply_block(state, block, False) == after


def _unsigned(ledger: Ledger) -> Transaction:
    return ledger.sign(ledger.spare(), Transfer(b"\x01" * 32, 1))


def _with(ledger: Ledger, payer: PrivateKey, nonce: int = 0, fee: int = FEE, tip: int = 0) -> Transaction:
    return sign(replace(ledger.sign(payer, Transfer(b"\x01" * 32, 1), nonce), fee=fee, tip=tip), payer)


def _crowd(state: State) -> State:
    """The state after a block of 600 transfers, that is 100 above the target."""
    ledger = Ledger(check_signatures=False)
    payer = ledger.spare()
    transfers = [_with(ledger, payer, number) for number in range(600)]
    _, after, dropped = build_block(state, transfers, state.time_ms + 1, ledger.account("validator-0").public, False)
    assert not dropped
    return after
