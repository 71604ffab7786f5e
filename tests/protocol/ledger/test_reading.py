"""A transaction is read once, and what is remembered of it is what its fields say."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import InvalidTransaction, MalformedMessage
from protocol.ledger.apply import Trial, check_transaction
from protocol.ledger.errors import UnknownTransactionKind
from protocol.ledger.transactions import (
    READ_BYTES_MAX,
    Transfer,
    compute_transaction_id,
    get_transaction_body,
    read_transaction,
)
from protocol.signing import compute_signing_bytes
from testnet.strategies import transactions
from tests.support.ledgers import Ledger


@given(transactions())
def test_what_is_remembered_is_what_the_fields_say(made):
    wire = encode(made)

    for transaction in (made, read_transaction(wire)):
        assert transaction == made
        assert transaction.wire == wire
        assert transaction.signing_bytes == compute_signing_bytes(made)
        assert transaction.id == compute_transaction_id(made)
        assert encode(transaction.content) == made.body
        assert type(transaction.content) is get_transaction_body(made.kind)


@given(transactions(), st.integers(0, 2**40))
def test_a_changed_copy_remembers_nothing_of_the_other(made, nonce):
    before = (made.wire, made.signing_bytes, made.id)

    other = replace(made, nonce=made.nonce + 1 + nonce)

    assert other.wire == encode(other)
    assert all(mine != its for mine, its in zip(before, (other.wire, other.signing_bytes, other.id), strict=True))


def test_a_small_transaction_is_one_object_however_often_it_comes_and_a_large_one_is_not_kept():
    ledger = Ledger()
    small = ledger.sign(ledger.spare(), Transfer(bytes(32), 1))
    large = replace(small, kind=0x7FFF, body=bytes(READ_BYTES_MAX))

    assert read_transaction(encode(small)) is read_transaction(encode(small))
    assert read_transaction(encode(large)) is not read_transaction(encode(large))
    with pytest.raises(UnknownTransactionKind):
        _ = large.content


def test_junk_is_refused_every_time():
    for _ in range(2):
        with pytest.raises(MalformedMessage):
            read_transaction(b"junk")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from((0, 1, 10**12, 10**18))), max_size=8))
def test_a_trial_says_of_each_transaction_what_it_would_say_of_it_alone(orders):
    ledger = Ledger()
    trial = Trial(ledger.state)

    for who, nonce, amount in orders:
        transaction = ledger.sign(ledger.spare(who), Transfer(bytes([9]) * 32, amount), nonce=nonce)

        assert _judge(trial.check, transaction) == _judge(
            lambda item: check_transaction(ledger.state, item), transaction
        )


def _judge(check, transaction):
    try:
        check(transaction)
    except InvalidTransaction as error:
        return type(error), str(error)
    return None
