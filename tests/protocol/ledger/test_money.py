"""Transfers, fees, nonces: what every transaction has to get right."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import InsufficientBalance, InvalidBlock, InvalidTransaction, NonceMismatch
from protocol.ledger.apply import apply_block, build_block, check_transaction
from protocol.ledger.block import Block, compute_transactions_root
from protocol.ledger.errors import (
    ExpiredTransaction,
    FeeTooLow,
    InvalidAmount,
    InvalidSignature,
    MalformedBody,
    UnknownTransactionKind,
    WrongChainTransaction,
)
from protocol.ledger.money import split_inference_fee
from protocol.ledger.params import Params
from protocol.ledger.rows import list_state_rows
from protocol.ledger.state import compute_state_root
from protocol.ledger.transactions import Transaction, Transfer
from protocol.signing import sign
from protocol.types import INT_MAX
from tests.support.ledgers import Ledger

FEE = Params().base_fee_min


@given(fee=st.integers(0, INT_MAX), verifiers=st.integers(2, 7))
def test_splitting_an_inference_fee_never_creates_or_loses_a_grain(fee: int, verifiers: int) -> None:
    worker, each, treasury, burn = split_inference_fee(fee, verifiers, Params())
    assert worker + each * verifiers + treasury + burn == fee
    assert min(worker, each, treasury, burn) >= 0


def test_a_transfer_moves_its_amount_and_its_fee_is_divided() -> None:
    ledger = Ledger()
    payer, payee, builder = ledger.spare(0), ledger.spare(1), ledger.account("validator-0").public
    before = ledger.state
    ledger.do(payer, Transfer(payee.public, 1_234))
    after = ledger.state
    assert after.get_balance(payer.public) == before.get_balance(payer.public) - 1_234 - FEE
    assert after.get_balance(payee.public) == before.get_balance(payee.public) + 1_234
    assert after.get_balance(builder) == before.get_balance(builder) + 30_000
    assert (after.treasury, after.burned) == (30_000, 40_000)
    assert after.get_nonce(payer.public) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"chain": b"another1"}, WrongChainTransaction),
        ({"nonce": 3, "account": None}, InvalidSignature),
        ({"kind": 4_000}, UnknownTransactionKind),
        ({"body": b"\x93\x01"}, MalformedBody),
        ({"fee": FEE - 1}, FeeTooLow),
        ({"valid_until_ms": 5}, ExpiredTransaction),
    ],
)
def test_a_transaction_that_breaks_a_rule_is_refused_with_its_error(
    changes: dict[str, object], error: type[InvalidTransaction]
) -> None:
    ledger = Ledger()
    payer = ledger.spare()
    good = ledger.sign(payer, Transfer(ledger.spare(1).public, 1))
    if "account" in changes:
        bad = replace(good, account=ledger.spare(2).public)
    else:
        bad = sign(replace(good, **changes), payer)  # type: ignore[arg-type]
    with pytest.raises(error):
        check_transaction(ledger.state, bad)
    assert [type(item) for item in ledger.block(bad)] == [error]
    assert ledger.state.get_nonce(payer.public) == 0


def test_an_account_cannot_spend_what_it_does_not_have() -> None:
    ledger = Ledger()
    payer = ledger.spare()
    have = ledger.state.get_balance(payer.public)
    error = ledger.refuse(payer, Transfer(ledger.spare(1).public, have))
    assert isinstance(error, InsufficientBalance)
    assert (error.have, error.need) == (have - FEE, have)
    assert isinstance(ledger.refuse(payer, Transfer(payer.public, 0)), InvalidAmount)


def test_a_transaction_ahead_of_its_nonce_waits_and_is_not_dropped() -> None:
    ledger = Ledger()
    payer, payee = ledger.spare(0), ledger.spare(1).public
    ahead = ledger.sign(payer, Transfer(payee, 2), nonce=1)
    check_transaction(ledger.state, ahead)
    assert ledger.block(ahead) == []
    assert ledger.state.get_nonce(payer.public) == 0
    assert ledger.block(ahead, ledger.sign(payer, Transfer(payee, 1), nonce=0)) == []
    assert ledger.state.get_nonce(payer.public) == 2
    late = ledger.block(ahead)[0]
    assert isinstance(late, NonceMismatch)
    assert (late.expected, late.got) == (2, 1)


def test_a_transaction_applies_once() -> None:
    ledger = Ledger()
    once = ledger.sign(ledger.spare(0), Transfer(ledger.spare(1).public, 1))
    assert ledger.block(once, once) != []
    assert isinstance(ledger.block(once)[0], NonceMismatch)


def test_applying_a_block_leaves_the_state_before_it_as_it_was() -> None:
    ledger = Ledger()
    before, rows = ledger.state, list(list_state_rows(ledger.state))
    ledger.do(ledger.spare(0), Transfer(b"\x05" * 32, 1))
    assert list(list_state_rows(before)) == rows
    assert compute_state_root(before) == compute_state_root(Ledger().state)
    assert ledger.state.get_balance(b"\x05" * 32) == 1


def test_a_block_that_does_not_follow_is_refused_with_the_numbers() -> None:
    ledger = Ledger()
    builder = ledger.account("validator-0").public
    payment = ledger.sign(ledger.spare(0), Transfer(ledger.spare(1).public, 1))
    block, _, _ = build_block(ledger.state, [payment], ledger.state.time_ms + 1, builder)
    wrong = {
        "chain": b"another1",
        "height": 2,
        "parent": bytes(32),
        "time_ms": ledger.state.time_ms,
        "state_root": bytes(32),
        "builder": ledger.account("client-0").public,
        "transactions_root": bytes(32),
    }
    for name, value in wrong.items():
        with pytest.raises(InvalidBlock):
            apply_block(ledger.state, replace(block, header=replace(block.header, **{name: value})))  # type: ignore[arg-type]
    with pytest.raises(InvalidBlock, match="is beyond"):
        apply_block(ledger.state, replace(block, header=replace(block.header, time_ms=INT_MAX)))
    later = replace(block.header, time_ms=block.header.time_ms + 1)
    with pytest.raises(InvalidBlock, match="state root is"):
        apply_block(ledger.state, replace(block, header=later))


def test_a_block_with_an_invalid_transaction_is_refused_and_so_is_one_too_large() -> None:
    ledger = Ledger()
    builder = ledger.account("validator-0").public
    payment = ledger.sign(ledger.spare(0), Transfer(ledger.spare(1).public, 1))
    block, _, _ = build_block(ledger.state, [payment], ledger.state.time_ms + 1, builder)
    forged = _with_transactions(block, sign(replace(payment, fee=1), ledger.spare(0)))
    with pytest.raises(InvalidBlock, match=f"FeeTooLow: offers a fee of 1 grains, needs {FEE}"):
        apply_block(ledger.state, forged)
    unsigned = _with_transactions(block, replace(payment, signature=bytes(64)))
    with pytest.raises(InvalidBlock, match="InvalidSignature"):
        apply_block(ledger.state, unsigned)
    large = _with_raw(block, (bytes(65_000),) * 17)
    with pytest.raises(InvalidBlock, match="17 transactions of 1088 units"):
        apply_block(ledger.state, large)


def test_without_signature_checks_nothing_but_signatures_goes_unchecked() -> None:
    ledger = Ledger(check_signatures=False)
    payer = ledger.spare(0)
    unsigned = replace(ledger.sign(payer, Transfer(ledger.spare(1).public, 1)), signature=bytes(64))
    assert ledger.block(unsigned) == []
    with pytest.raises(InvalidBlock):
        apply_block(ledger.state, ledger.blocks[0][0], check_signatures=False)


def test_the_root_after_a_block_is_that_of_the_header() -> None:
    ledger = Ledger()
    ledger.do(ledger.spare(0), Transfer(ledger.spare(1).public, 1))
    assert compute_state_root(ledger.state) == ledger.blocks[0][0].header.state_root


def _with_transactions(block: Block, *transactions: Transaction) -> Block:
    return _with_raw(block, tuple(map(encode, transactions)))


def _with_raw(block: Block, raw: tuple[bytes, ...]) -> Block:
    return Block(replace(block.header, transactions_root=compute_transactions_root(raw)), raw)
