"""Leases: who is drawn and accepts, what an audit pays or costs, how a lease is extended, mended and ended."""

from dataclasses import replace

import pytest

from protocol.audit import Contents
from protocol.errors import InsufficientBalance
from protocol.ledger.errors import (
    InsufficientBond,
    InvalidAmount,
    InvalidLease,
    InvalidNode,
    LimitReached,
    TooFewStores,
    UnknownLease,
    UnknownNode,
)
from protocol.ledger.fees import count_units, split_transaction_fee
from protocol.ledger.lease_places import BYTES_PER_MS, FACTOR_MAX
from protocol.ledger.lease_records import Offer
from protocol.ledger.leases import (
    HOUR_MS,
    MIB,
    PERIODS_MAX,
    KeepBlob,
    OfferSpace,
    compute_pay_max,
    compute_storage_pay,
    compute_term_cost,
)
from protocol.ledger.params import Params
from protocol.ledger.transactions import Stake, Unstake
from tests.support.leases import PRICE, ROOM, Blob, Leases

PARAMS = Params()
BLOB = Blob(bytes(range(256)) * 300, chunk=10_000)
SIZE = BLOB.contents.size_bytes
PAY_MAX = compute_pay_max(SIZE, PRICE, PARAMS)
FEE = PARAMS.base_fee_min
PENALTY = PARAMS.audit_penalty_times * PAY_MAX


def test_a_lease_is_offered_to_as_many_nodes_as_it_asks_for_and_holds_the_money() -> None:
    net = Leases()
    before = net.balance(net.payer.public)

    key = net.open(BLOB, factor=3, periods=2)

    lease = net.find(key)
    assert len(net.list_offered(key)) == 3
    assert lease.balance == 6 * PAY_MAX == before - FEE - net.balance(net.payer.public)
    deadline_ms = net.ledger.state.time_ms + PARAMS.lease_accept_ms + SIZE // BYTES_PER_MS
    assert {replica.deadline_ms for replica in lease.replicas} == {deadline_ms}
    offers = [net.ledger.state.offers[account] for account in net.list_offered(key)]
    assert offers == [Offer(ROOM, PRICE, leased_bytes=SIZE)] * 3


def test_an_answer_is_paid_by_size_price_and_time_and_divided_as_leases_are() -> None:
    net = Leases()
    key = net.open(BLOB, factor=1)
    (account,) = net.list_offered(key)
    net.accept(key)
    since_ms = net.replica(key, account).since_ms
    net.ask(key)
    before, held = net.ledger.state, net.find(key)
    transaction = net.ledger.sign(net.account(account), net.answer(key, account, BLOB))

    assert net.ledger.block(transaction) == []

    after = net.ledger.state
    pay = SIZE * PRICE * (held.asked_ms - since_ms) // (MIB * HOUR_MS) + PARAMS.audit_fee
    storage, treasury, burn = pay * 8_800 // 10_000, pay // 10, pay - pay * 8_800 // 10_000 - pay // 10
    fee = FEE * count_units(len(transaction.wire))
    _, fee_treasury, fee_burn = split_transaction_fee(fee, PARAMS)
    assert net.find(key).balance == held.balance - pay
    assert after.get_balance(account) == before.get_balance(account) - fee + storage
    assert after.treasury - before.treasury == treasury + fee_treasury
    assert after.burned - before.burned == burn + fee_burn
    assert after.work[account].earned == pay
    refused = net.ledger.refuse(net.account(account), net.answer(key, account, BLOB))
    assert isinstance(refused, InvalidLease)
    assert "no audit waits" in str(refused)


def test_an_audit_pays_for_a_period_at_most_however_late_it_comes() -> None:
    net = Leases()
    key = net.open(BLOB, factor=1)
    (account,) = net.list_offered(key)
    net.accept(key)
    net.ledger.block(after_ms=40 * PARAMS.audit_ms)
    held = net.find(key)

    net.ledger.do(net.account(account), net.answer(key, account, BLOB))

    assert held.balance - net.find(key).balance == PAY_MAX


def test_silence_burns_stake_pays_nothing_and_has_another_node_drawn() -> None:
    net = Leases(stores=3)
    key = net.open(BLOB, factor=2, periods=5)
    net.accept(key)
    silent, good = net.list_holding(key)
    (third,) = set(net.names) - {silent, good}
    bonds = {account: net.bond(account) for account in (silent, good)}
    net.ask(key)
    net.ledger.do(net.account(good), net.answer(key, good, BLOB))
    balance = net.find(key).balance
    net.ledger.block(after_ms=PARAMS.audit_answer_ms)
    assert net.bond(silent) == bonds[silent]  # put off once
    net.ledger.block(after_ms=PARAMS.grace_ms - 1)
    assert net.bond(silent) == bonds[silent]
    burned = net.ledger.state.burned

    net.ledger.block(after_ms=1)

    assert net.bond(silent) == bonds[silent] - PENALTY
    assert net.ledger.state.burned - burned == PENALTY
    assert net.bond(good) == bonds[good]
    assert net.find(key).balance == balance
    assert net.replica(key, silent).misses == 1
    assert net.list_offered(key) == [third]
    assert net.ledger.state.offers[silent].is_silent
    assert net.ledger.state.work[silent].lost == PENALTY


def test_who_takes_the_place_of_a_silent_node_sends_it_away() -> None:
    net = Leases(stores=3)
    key = net.open(BLOB, factor=2, periods=5)
    net.accept(key)
    silent, good = net.list_holding(key)
    net.audit(key, BLOB, silent=[silent])
    (third,) = net.list_offered(key)

    net.accept(key, third)

    assert set(net.list_holding(key)) == {good, third}
    assert net.ledger.state.offers[silent].leased_bytes == 0
    assert net.ledger.state.offers[third].leased_bytes == SIZE


def test_a_node_that_answers_again_keeps_its_place_and_the_one_drawn_is_called_off() -> None:
    net = Leases(stores=3)
    key = net.open(BLOB, factor=2, periods=5)
    net.accept(key)
    late, _ = net.list_holding(key)
    net.ask(key)
    net.end()
    assert {replica.misses for replica in net.find(key).replicas if replica.height} == {1}
    (third,) = net.list_offered(key)
    net.ledger.do(net.account(third), KeepBlob(key, 0))  # it could not have the blob from anybody
    assert net.list_offered(key) == []

    net.audit(key, BLOB)

    assert {(replica.account, replica.misses) for replica in net.find(key).replicas} == {
        (account, 0) for account in net.list_holding(key)
    }
    assert late in net.list_holding(key)
    assert not net.ledger.state.offers[late].is_silent
    assert len(net.find(key).replicas) == 2


def test_a_second_miss_in_a_row_loses_the_lease_and_a_lease_nobody_is_in_ends_with_a_refund() -> None:
    net = Leases(stores=2)
    before = net.balance(net.payer.public)
    key = net.open(BLOB, factor=2, periods=9)
    net.accept(key)
    for _ in range(2):
        net.ask(key)
        net.end()
    assert net.find(key).replicas == ()
    assert [net.ledger.state.offers[account].leased_bytes for account in net.names] == [0, 0]
    net.ask(key)

    assert not net.ledger.state.leases
    assert net.balance(net.payer.public) == before - FEE


def test_the_last_audit_of_a_term_ends_the_lease_and_gives_back_what_is_left() -> None:
    net = Leases()
    before = net.balance(net.payer.public)
    key = net.open(BLOB, factor=2, periods=2)
    net.accept(key)
    net.audit(key, BLOB)
    net.audit(key, BLOB)

    assert not net.ledger.state.leases
    earned = sum(net.ledger.state.work[account].earned for account in net.names if account in net.ledger.state.work)
    assert earned > 3 * PARAMS.audit_fee
    assert net.balance(net.payer.public) == before - FEE - earned
    assert [offer.leased_bytes for offer in net.ledger.state.offers.values()] == [0] * 4
    assert all(item.id != key for item in net.ledger.state.due.values())


@pytest.mark.parametrize(("terms", "renewed"), [(2, True), (1, False)])
def test_a_lease_is_renewed_while_its_balance_covers_a_whole_term(terms: int, renewed: bool) -> None:
    net = Leases()
    key = net.open(BLOB, factor=2, periods=2, renews=1, terms=terms)
    net.accept(key)
    net.audit(key, BLOB)
    net.audit(key, BLOB)

    assert (key in net.ledger.state.leases) == renewed
    if renewed:
        assert net.find(key).left == 2
        net.audit(key, BLOB)
        net.audit(key, BLOB)
        assert key not in net.ledger.state.leases


def test_a_balance_that_is_added_to_renews_the_lease_and_a_payer_can_have_it_end() -> None:
    net = Leases()
    key = net.open(BLOB, factor=1, periods=2)
    net.accept(key)
    more = net.terms(BLOB, factor=1, periods=3, renews=1)
    net.ledger.do(net.payer, more)
    net.audit(key, BLOB)
    net.audit(key, BLOB)
    assert net.find(key).left == 3
    net.ledger.do(net.payer, replace(more, renews=0, amount=0))
    for _ in range(3):
        net.audit(key, BLOB)
    assert key not in net.ledger.state.leases


def test_what_was_agreed_stays_while_a_lease_is_open() -> None:
    net = Leases()
    net.open(BLOB, factor=2)
    terms = net.terms(BLOB, factor=2)
    for changed in (
        replace(terms, price=PRICE + 1),
        replace(terms, factor=1),
        replace(terms, contents=replace(BLOB.contents, root=bytes(32))),
    ):
        assert isinstance(net.ledger.refuse(net.payer, changed), InvalidLease)


def test_terms_that_make_no_sense_are_refused() -> None:
    net = Leases()
    terms = net.terms(BLOB)
    contents = BLOB.contents
    for changed in (
        replace(terms, factor=0),
        replace(terms, factor=FACTOR_MAX + 1),
        replace(terms, periods=0),
        replace(terms, periods=PERIODS_MAX + 1),
        replace(terms, cid=b"\x00" * 36),
        replace(terms, contents=replace(contents, pieces=SIZE // 4_096)),
        replace(terms, contents=Contents(contents.root, 0, 0)),
        replace(terms, contents=replace(contents, pieces=2**33)),
    ):
        assert isinstance(net.ledger.refuse(net.payer, changed), InvalidLease)
    assert isinstance(net.ledger.refuse(net.payer, replace(terms, amount=terms.amount - 1)), InvalidAmount)
    dear = replace(terms, amount=2**60)
    assert isinstance(net.ledger.refuse(net.payer, dear), InsufficientBalance)
    assert isinstance(net.ledger.refuse(net.payer, net.terms(BLOB, factor=5)), TooFewStores)
    few = Leases(params=replace(PARAMS, leases_max=0))
    assert isinstance(few.ledger.refuse(few.payer, terms), LimitReached)


def test_nodes_are_drawn_that_have_the_room_for_the_price_and_never_the_payers_own() -> None:
    net = Leases(stores=4)
    dear, small, own, good = (net.account(key) for key in net.names)
    net.ledger.do(dear, OfferSpace(ROOM, PRICE + 1))
    net.ledger.do(small, OfferSpace(SIZE - 1, PRICE))
    error = net.ledger.refuse(own, net.terms(BLOB, factor=2))
    assert isinstance(error, TooFewStores)
    assert error.have == 1
    net.ledger.do(own, net.terms(BLOB, factor=1))
    ((lease),) = net.ledger.state.leases.values()
    assert [replica.account for replica in lease.replicas] == [good.public]


def test_room_is_not_let_twice() -> None:
    net = Leases(stores=2)
    for key in net.names:
        net.ledger.do(net.account(key), OfferSpace(SIZE + 10, PRICE))
    net.open(BLOB, factor=2)
    other = Blob(b"another" * 100)
    assert isinstance(net.ledger.refuse(net.payer, net.terms(other)), TooFewStores)


def test_who_does_not_accept_in_time_is_replaced_and_not_drawn_until_it_offers_anew() -> None:
    net = Leases(stores=3)
    key = net.open(BLOB, factor=1)
    (slow,) = net.list_offered(key)
    net.ledger.block(after_ms=PARAMS.lease_accept_ms + SIZE // BYTES_PER_MS)

    (next_one,) = net.list_offered(key)
    assert next_one != slow
    assert net.ledger.state.offers[slow].is_silent
    assert net.ledger.state.offers[slow].leased_bytes == 0
    assert isinstance(net.ledger.refuse(net.account(slow), KeepBlob(key, 1)), InvalidLease)
    assert isinstance(net.ledger.refuse(net.payer, net.terms(Blob(b"new"), factor=3)), TooFewStores)
    net.ledger.do(net.account(slow), OfferSpace(ROOM, PRICE))
    net.open(Blob(b"new"), factor=3)


def test_who_declines_is_replaced_and_asked_again_after_the_next_audit_at_the_earliest() -> None:
    net = Leases(stores=2)
    key = net.open(BLOB, factor=1, periods=4)
    (first,) = net.list_offered(key)
    net.ledger.do(net.account(first), KeepBlob(key, 0))
    (second,) = net.list_offered(key)
    assert second != first
    net.ledger.do(net.account(second), KeepBlob(key, 0))
    assert net.list_offered(key) == []
    assert not net.ledger.state.offers[first].is_silent


def test_only_who_was_drawn_has_a_say_and_only_once() -> None:
    net = Leases(stores=3)
    key = net.open(BLOB, factor=1)
    (drawn,) = net.list_offered(key)
    other = next(account for account in net.names if account != drawn)
    assert isinstance(net.ledger.refuse(net.account(other), KeepBlob(key, 1)), InvalidLease)
    assert isinstance(net.ledger.refuse(net.account(drawn), KeepBlob(bytes(32), 1)), UnknownLease)
    net.accept(key)
    assert isinstance(net.ledger.refuse(net.account(drawn), KeepBlob(key, 1)), InvalidLease)
    unknown = replace(net.answer(key, drawn, BLOB), lease=bytes(32))
    assert isinstance(net.ledger.refuse(net.account(drawn), unknown), UnknownLease)


def test_a_node_leaves_between_audits_but_not_while_one_waits_for_it() -> None:
    net = Leases(stores=3)
    key = net.open(BLOB, factor=2, periods=5)
    net.accept(key)
    first, second = net.list_holding(key)
    net.ask(key)
    assert isinstance(net.ledger.refuse(net.account(first), KeepBlob(key, 0)), InvalidLease)
    for account in (first, second):
        net.ledger.do(net.account(account), net.answer(key, account, BLOB))
    bond = net.bond(first)
    net.ledger.do(net.account(first), KeepBlob(key, 0))
    assert first not in net.list_holding(key)
    assert len(net.list_offered(key)) == 1
    assert net.bond(first) == bond


def test_who_accepted_in_the_block_whose_seed_draws_is_first_asked_in_the_next_period() -> None:
    net = Leases(stores=2)
    key = net.open(BLOB, factor=2, periods=5)
    early, late = net.list_offered(key)
    net.ledger.do(net.account(early), KeepBlob(key, 1))
    net.ledger.do(net.account(late), KeepBlob(key, 1))
    net.ask(key)
    assert [net.replica(key, account).is_asked for account in (early, late)] == [1, 0]
    net.end()
    assert [net.replica(key, account).misses for account in (early, late)] == [1, 0]
    net.ask(key)
    assert [net.replica(key, account).is_asked for account in (early, late)] == [1, 1]


def test_a_wrong_answer_is_none() -> None:
    net = Leases()
    key = net.open(BLOB, factor=2)
    net.accept(key)
    first, second = net.list_holding(key)
    net.ask(key)
    right = net.answer(key, first, BLOB)
    piece = right.answer[0]
    forged = replace(right, answer=(replace(piece, data=b"x" + piece.data[1:]), *right.answer[1:]))
    assert isinstance(net.ledger.refuse(net.account(first), forged), InvalidLease)
    assert isinstance(net.ledger.refuse(net.account(second), right), InvalidLease)  # another's pieces
    net.ledger.do(net.account(first), right)


def test_who_has_not_even_half_the_bond_is_replaced_at_the_next_audit() -> None:
    net = Leases(stores=3)
    key = net.open(BLOB, factor=2, periods=5)
    net.accept(key)
    first, second = net.list_holding(key)
    net.ledger.do(net.account(first), Unstake(net.bond(first) // 2 + 1))
    net.ledger.do(net.account(second), Unstake(net.bond(second) // 2))

    net.ask(key)

    assert first not in [replica.account for replica in net.find(key).replicas]
    assert net.replica(key, second).is_asked
    assert len(net.list_offered(key)) == 1


def test_stake_on_its_way_back_answers_for_leases_too() -> None:
    net = Leases(stores=2)
    key = net.open(BLOB, factor=2, periods=5)
    net.accept(key)
    first, _ = net.list_holding(key)
    net.ledger.do(net.account(first), Stake(50))
    net.ask(key)
    net.ledger.do(net.account(first), Unstake(net.bond(first)))
    unbonding = sum(entry.amount for entry in net.ledger.state.unbonding.values())
    net.end()
    assert sum(entry.amount for entry in net.ledger.state.unbonding.values()) == unbonding - PENALTY


def test_a_penalty_takes_no_more_than_there_is() -> None:
    net = Leases(stores=2, params=replace(PARAMS, audit_penalty_times=10**9))
    key = net.open(BLOB, factor=2, periods=5)
    net.accept(key)
    net.ask(key)
    bonds, burned = sum(map(net.bond, net.names)), net.ledger.state.burned
    net.end()
    assert [net.bond(account) for account in net.names] == [0, 0]
    assert net.ledger.state.burned == burned + bonds


def test_only_bonded_storage_nodes_offer_space() -> None:
    net = Leases(roles={"validator": 1, "storage": 4, "client": 1, "inference": 1})
    offer = OfferSpace(ROOM, PRICE)
    assert isinstance(net.ledger.refuse(net.ledger.spare(), offer), UnknownNode)
    assert isinstance(net.ledger.refuse(net.ledger.account("inference-0"), offer), InvalidNode)
    store = net.ledger.account("storage-0")
    net.ledger.do(store, Unstake(1))
    assert isinstance(net.ledger.refuse(store, offer), InsufficientBond)


def test_an_offer_made_anew_keeps_account_of_what_is_leased() -> None:
    net = Leases(stores=2)
    net.open(BLOB, factor=2)
    for key in net.names:
        net.ledger.do(net.account(key), OfferSpace(0, PRICE))
        assert net.ledger.state.offers[key] == Offer(0, PRICE, SIZE)


def test_what_a_term_costs_is_what_it_can_pay_at_most() -> None:
    cost = compute_term_cost(5 * MIB, PRICE, 3, 7, PARAMS)
    assert cost == 21 * (compute_storage_pay(5 * MIB, PRICE, PARAMS.audit_ms) + PARAMS.audit_fee)
    assert cost == 21 * (5 * PRICE * PARAMS.audit_ms // HOUR_MS + PARAMS.audit_fee)
