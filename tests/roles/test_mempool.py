"""A validator's mempool: what the ledger would refuse does not come in, and blocks are made of what pays best."""

from dataclasses import replace

import pytest

from protocol.codec import encode
from protocol.ledger.transactions import Transfer
from protocol.signing import sign
from roles.mempool import TRIAL_MS, Mempool
from tests.support.ledgers import Ledger

PAYEE = bytes([9]) * 32


@pytest.fixture
def ledger():
    return Ledger()


def make(ledger, who=0, nonce=0, fee=0, amount=1, longer_ms=0):
    payer = ledger.spare(who)
    transfer = ledger.sign(payer, Transfer(PAYEE, amount), nonce=nonce)
    longer = transfer.valid_until_ms + longer_ms
    return sign(replace(transfer, fee=transfer.fee + fee, tip=fee, valid_until_ms=longer), payer)


def take(pool, ledger, *transactions):
    return ["".join(pool.take((encode(item),), ledger.state, ledger.state.time_ms + 1)) for item in transactions]


def test_accounts_are_served_by_fee_and_each_in_order(ledger):
    pool = Mempool()
    first, second = make(ledger, 0, 0), make(ledger, 0, 1, fee=900_000)
    dear, behind_a_gap = make(ledger, 1, 0, fee=500_000), make(ledger, 2, 1)

    assert take(pool, ledger, second, dear, behind_a_gap, first, first) == [""] * 5

    assert list(pool.list_in_order(ledger.state)) == [dear, first, second]
    assert pool.get_cause(ledger.state) == (encode(dear),)
    assert len(pool) == 4


def test_a_draft_that_transactions_are_tried_on_is_of_the_newest_state_and_not_old(ledger):
    pool, begun_ms = Mempool(), ledger.state.time_ms + 1
    poor, rich = ledger.spare(0), ledger.spare(1)
    wanted = encode(ledger.sign(poor, Transfer(PAYEE, ledger.state.accounts[poor.public].balance)))
    late = encode(sign(replace(make(ledger, 2), valid_until_ms=begun_ms + TRIAL_MS - 1), ledger.spare(2)))

    assert pool.take((wanted,), ledger.state, begun_ms)[0].startswith("InsufficientBalance")
    assert pool.take((late,), ledger.state, begun_ms + TRIAL_MS)[0].startswith("ExpiredTransaction")
    assert ledger.block(ledger.sign(rich, Transfer(poor.public, 10**9))) == []

    assert pool.take((wanted,), ledger.state, begun_ms + TRIAL_MS) == []


def test_what_the_ledger_would_refuse_does_not_come_in_and_the_reason_has_its_numbers(ledger):
    pool = Mempool()
    payer = ledger.spare(0)
    junk = replace(make(ledger), signature=bytes(64))

    reasons = take(pool, ledger, ledger.sign(payer, Transfer(PAYEE, 10**18)), junk, make(ledger, nonce=64))

    assert [reason.partition(":")[0] for reason in reasons] == [
        "InsufficientBalance",
        "InvalidSignature",
        "NonceTooFar",
    ]
    assert reasons[0].endswith(f"needs {10**18}")
    assert pool.take((b"junk",), ledger.state, 0)[0].startswith("MalformedMessage")
    assert len(pool) == 0


def test_another_order_under_a_number_pays_more_or_is_refused_and_the_same_one_signed_anew_is_not(ledger):
    pool = Mempool()
    assert take(pool, ledger, make(ledger)) == [""]

    refused, same = take(pool, ledger, make(ledger, amount=2), make(ledger, longer_ms=5_000))
    replaced = take(pool, ledger, make(ledger, amount=2, fee=50_000))

    assert refused.startswith("ReplacementTooCheap")
    assert same == ""
    assert replaced == [""]
    assert [item.fee for item in pool.list_in_order(ledger.state)] == [make(ledger, fee=50_000).fee]


def test_what_a_block_took_leaves_and_an_old_number_is_nobodys_fault(ledger):
    pool = Mempool()
    first, second = make(ledger, 0, 0), make(ledger, 0, 1)
    take(pool, ledger, first, second)
    assert pool.is_reason(ledger.state, ledger.state.time_ms + 1)

    ledger.block(first)
    pool.advance(ledger.state, (first,))

    assert list(pool.list_in_order(ledger.state)) == [second]
    assert pool.get(b"\0" * 32) is None
    assert take(pool, ledger, first) == [""]
    assert len(pool) == 1


def test_what_has_expired_leaves_with_the_next_block(ledger):
    pool = Mempool()
    take(pool, ledger, make(ledger, 0))

    ledger.block(make(ledger, 1), after_ms=61_000)
    pool.advance(ledger.state, ())

    assert len(pool) == 0


def test_what_no_block_could_hold_is_no_reason_for_one_and_is_dropped(ledger):
    pool = Mempool()
    spends_it_all = make(ledger, 0, 0, amount=9_999 * 10**9)
    take(pool, ledger, make(ledger, 0, 1, amount=9_000 * 10**9))
    assert list(pool.list_in_order(ledger.state)) == []

    ledger.block(spends_it_all)
    pool.advance(ledger.state, (spends_it_all,))
    assert len(list(pool.list_in_order(ledger.state))) == 1

    assert not pool.is_reason(ledger.state, ledger.state.time_ms + 1)
    assert len(pool) == 0


def test_a_transfer_is_waited_for_and_wakes_others_before_a_settlement_that_is_worth_more(ledger):
    pool = Mempool()
    channel = ledger.open_channel()
    _, _, work = ledger.work(channel)
    settlement = ledger.sign(ledger.account("inference-0"), ledger.settle(channel, work))
    dear = sign(replace(settlement, fee=settlement.fee + 900_000, tip=900_000), ledger.account("inference-0"))

    assert take(pool, ledger, dear) == [""]
    assert not pool.is_pressing(ledger.state)
    assert pool.get_cause(ledger.state) == (encode(dear),)

    behind_a_gap, transfer = make(ledger, 1, 1), make(ledger, 0)
    assert take(pool, ledger, behind_a_gap) == [""]
    assert not pool.is_pressing(ledger.state), "no block could hold it"
    assert take(pool, ledger, transfer) == [""]
    assert pool.is_pressing(ledger.state)
    assert pool.get_cause(ledger.state) == (encode(transfer),)
    assert list(pool.list_in_order(ledger.state)) == [dear, transfer]
