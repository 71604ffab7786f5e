"""The mempool against a naive one: who is in, who leaves, who goes first, whatever happens in whatever order."""

import hashlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.errors import InvalidTransaction, NonceMismatch
from protocol.mempool import AccountFull, Limits, Mempool, NonceTooFar, Pooled, PoolFull, ReplacementTooCheap

FOREVER = 2**60
ALICE, BOB, CAROL = (bytes([number] * 32) for number in range(3))


def make(account=ALICE, nonce=0, price=100, tip=0, size=10, until=FOREVER, salt=0):
    name = hashlib.sha256(repr((account, nonce, price, tip, size, until, salt)).encode()).digest()
    return Pooled(name, account, nonce, price, tip, until, bytes(size))


def fill(pool, *items, nonce_next=0):
    for item in items:
        pool.add(item, nonce_next)


def names(items):
    return [(item.account, item.nonce) for item in items]


def test_accounts_take_turns_by_tip_and_each_keeps_its_order():
    pool = Mempool()
    fill(pool, make(ALICE, 1, tip=90), make(ALICE, 0, tip=20), make(BOB, 0, tip=30), make(BOB, 1, tip=10))

    assert names(pool.list_ready(0)) == [(BOB, 0), (ALICE, 0), (ALICE, 1), (BOB, 1)]


def test_a_high_base_fee_eats_the_tip_of_who_offers_little_in_all():
    pool = Mempool()
    fill(pool, make(ALICE, price=100, tip=50), make(BOB, price=200, tip=40))

    assert names(pool.list_ready(0)) == [(ALICE, 0), (BOB, 0)]
    assert names(pool.list_ready(80)) == [(BOB, 0), (ALICE, 0)]


def test_what_lies_behind_a_gap_waits_until_the_gap_is_filled():
    pool = Mempool()
    fill(pool, make(ALICE, 2), make(ALICE, 0))
    assert names(pool.list_ready(0)) == [(ALICE, 0)]

    fill(pool, make(ALICE, 1))

    assert names(pool.list_ready(0)) == [(ALICE, 0), (ALICE, 1), (ALICE, 2)]


def test_a_replacement_pays_a_tenth_more_in_price_and_tip():
    pool = Mempool()
    old = make(price=100, tip=10)
    fill(pool, old)

    for price, tip, have, need in ((109, 11, 109, 110), (110, 10, 10, 11)):
        with pytest.raises(ReplacementTooCheap) as caught:
            pool.add(make(price=price, tip=tip), 0)
        assert (caught.value.have, caught.value.need) == (have, need)
    assert pool.add(make(price=110, tip=11), 0) == (old,)

    assert [item.price for item in pool.list_ready(0)] == [110]


def test_something_for_nothing_never_replaces_nothing():
    pool = Mempool()
    fill(pool, make(price=0))

    with pytest.raises(ReplacementTooCheap):
        pool.add(make(price=0, salt=1), 0)


def test_a_full_pool_gives_the_place_of_the_cheapest_and_of_equals_keeps_the_first():
    pool = Mempool(Limits(count_max=2))
    cheap, dear = make(ALICE, price=10), make(BOB, price=20)
    fill(pool, dear, cheap)

    with pytest.raises(PoolFull) as caught:
        pool.add(make(CAROL, price=10), 0)
    assert (caught.value.have, caught.value.need) == (10, 11)
    assert pool.add(make(CAROL, price=11), 0) == (cheap,)


def test_a_dear_transaction_behind_a_cheap_one_is_worth_no_more_than_that():
    pool = Mempool(Limits(count_max=2))
    behind = make(ALICE, 1, price=1_000)
    fill(pool, make(ALICE, 0, price=10), behind)

    assert pool.add(make(BOB, price=50), 0) == (behind,)


def test_what_waits_behind_a_gap_leaves_a_full_pool_first():
    pool = Mempool(Limits(count_max=2))
    waiting = make(ALICE, 5, price=1_000)
    fill(pool, waiting, make(BOB, price=10))

    assert pool.add(make(CAROL, price=1), 0) == (waiting,)


def test_a_large_newcomer_takes_several_places_or_none():
    pool = Mempool(Limits(bytes_max=100))
    fill(pool, make(ALICE, price=10, size=40), make(BOB, price=30, size=40))
    before = list(pool.list_ready(0))

    with pytest.raises(PoolFull):
        pool.add(make(CAROL, price=20, size=90), 0)
    assert list(pool.list_ready(0)) == before
    assert len(pool.add(make(CAROL, price=40, size=90), 0)) == 2
    assert pool.size_bytes == 90


def test_one_account_has_so_many_nonces_and_bytes():
    pool = Mempool(Limits(per_account_max=4, account_bytes_max=100))

    with pytest.raises(NonceTooFar) as caught:
        pool.add(make(nonce=9), 5)
    assert (caught.value.got, caught.value.limit) == (9, 9)
    fill(pool, make(nonce=8, size=60), nonce_next=5)
    with pytest.raises(AccountFull):
        pool.add(make(nonce=6, size=101), 5)
    # What waits must not keep out what it waits for.
    assert names(pool.add(make(nonce=5, size=60), 5)) == [(ALICE, 8)]


def test_what_a_block_took_leaves_and_so_does_what_shares_its_nonce():
    pool = Mempool()
    fill(pool, make(ALICE, 0), make(ALICE, 1), make(BOB, 0))

    assert names(pool.advance({ALICE: 1}, 0)) == [(ALICE, 0)]
    with pytest.raises(NonceMismatch):
        pool.add(make(ALICE, 0, salt=1), 1)

    assert names(pool.list_ready(0)) == [(ALICE, 1), (BOB, 0)]


def test_what_has_expired_leaves_and_what_came_behind_it_waits():
    pool = Mempool()
    fill(pool, make(ALICE, 0, until=1_000), make(ALICE, 1, until=FOREVER))

    assert pool.advance({}, 1_000) == ()
    assert names(pool.advance({}, 1_001)) == [(ALICE, 0)]

    assert len(pool) == 1
    assert list(pool.list_ready(0)) == []


def test_bodies_are_there_by_id_and_the_missing_are_named():
    pool = Mempool()
    held, other = make(ALICE), make(BOB)
    fill(pool, held)

    assert pool.get(held.id) is held
    assert pool.list_missing((held.id, other.id)) == (other.id,)


def test_stale_entries_do_not_pile_up():
    pool = Mempool()
    for number in range(2_000):
        item = make(nonce=number, salt=number)
        fill(pool, item, nonce_next=number)
        pool.drop((item.id,))

    assert len(pool) == 0
    assert len(pool._by_expiry) < 200
    assert len(pool._by_worth) < 200


LIMITS = Limits(count_max=5, bytes_max=60, per_account_max=4, account_bytes_max=35, replace_bp=1_000)


def test_what_had_to_leave_for_one_that_is_refused_after_all_comes_back_as_it_was():
    """Another account's only transaction comes back to its own account's nonce, not to that of the one refused."""
    pool = Mempool(LIMITS)
    pool.add(first := make(ALICE, 1, 0, 0, 1, 0), 1)
    pool.add(second := make(BOB, 2, 1, 0, 31, 0), 2)
    pool.add(third := make(CAROL, 0, 0, 0, 1, 0), 0)

    with pytest.raises(PoolFull):
        pool.add(make(ALICE, 1, 1, 0, 30, 0), 1)

    assert set(pool.list_ready(0)) == {first, second, third}


class NaiveMempool:
    """The rules said once more, with a list, without a thought for speed."""

    def __init__(self):
        self.items = []
        self.nonces = {}

    def lane(self, account):
        return sorted((item for item in self.items if item.account == account), key=lambda item: item.nonce)

    def worth(self, account):
        lane = self.lane(account)
        nonce_next = self.nonces.get(account, 0)
        is_whole = [item.nonce for item in lane] == list(range(nonce_next, nonce_next + len(lane)))
        return (is_whole, min(item.price for item in lane), -self.items.index(lane[-1]))

    def add(self, item):
        """Whether it was taken. `items` stays in order of arrival."""
        nonce_next = self.nonces.get(item.account, 0)
        if any(item.id == held.id for held in self.items):
            return True
        if not nonce_next <= item.nonce < nonce_next + LIMITS.per_account_max:
            return False
        before = list(self.items)
        for held in self.lane(item.account):
            if held.nonce == item.nonce:
                is_more = item.price > held.price and 10 * item.price >= 11 * held.price
                if not is_more or 10 * item.tip < 11 * held.tip:
                    return False
                self.items.remove(held)
        self.items.append(item)
        while sum(len(held.data) for held in self.lane(item.account)) > LIMITS.account_bytes_max:
            self.items.remove(self.lane(item.account)[-1])
        while len(self.items) > LIMITS.count_max or sum(len(held.data) for held in self.items) > LIMITS.bytes_max:
            least = min({held.account for held in self.items}, key=self.worth)
            self.items.remove(self.lane(least)[-1])
        if item not in self.items:
            self.items = before
            return False
        return True

    def advance(self, account, nonce, time_ms):
        self.nonces[account] = max(nonce, self.nonces.get(account, 0))
        self.items = [
            item
            for item in self.items
            if item.nonce >= self.nonces.get(item.account, 0) and item.valid_until_ms >= time_ms
        ]

    def list_ready(self, base_fee):
        nonces, ready = dict(self.nonces), []
        while True:
            heads = [item for item in self.items if item.nonce == nonces.get(item.account, 0)]
            if not heads:
                return ready
            best = max(heads, key=lambda item: (min(item.tip, item.price - base_fee), -self.items.index(item)))
            ready.append(best)
            nonces[best.account] = best.nonce + 1


class PoolAndNaivePool(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.pool, self.naive = Mempool(LIMITS), NaiveMempool()
        self.time_ms = 0

    @rule(
        account=st.sampled_from((ALICE, BOB, CAROL)),
        ahead=st.integers(-1, 5),
        price=st.integers(0, 40),
        tip=st.integers(0, 12),
        size=st.integers(1, 40),
        life=st.integers(0, 6),
    )
    def add(self, account, ahead, price, tip, size, life):
        nonce_next = self.naive.nonces.get(account, 0)
        item = make(account, max(0, nonce_next + ahead), price, tip, size, self.time_ms + life)
        before = set(self.naive.items)
        is_taken = self.naive.add(item)
        try:
            left = self.pool.add(item, nonce_next)
        except InvalidTransaction:
            assert not is_taken
        else:
            assert is_taken
            assert set(left) == before - set(self.naive.items)

    @rule(account=st.sampled_from((ALICE, BOB, CAROL)), steps=st.integers(0, 3), passed=st.integers(0, 2))
    def advance(self, account, steps, passed):
        self.time_ms += passed
        nonce = self.naive.nonces.get(account, 0) + steps
        before = set(self.naive.items)
        self.naive.advance(account, nonce, self.time_ms)

        left = self.pool.advance({account: nonce}, self.time_ms)

        assert set(left) == before - set(self.naive.items)

    @rule(data=st.data())
    def drop(self, data):
        if self.naive.items:
            item = data.draw(st.sampled_from(self.naive.items))
            self.naive.items.remove(item)
            self.pool.drop((item.id, item.id))

    @invariant()
    def both_hold_the_same_in_the_same_order(self):
        assert len(self.pool) == len(self.naive.items)
        assert all(self.pool.get(item.id) == item for item in self.naive.items)
        assert self.pool.size_bytes == sum(len(item.data) for item in self.naive.items)
        for base_fee in (0, 15):
            assert list(self.pool.list_ready(base_fee)) == self.naive.list_ready(base_fee)


TestPoolAndNaivePool = PoolAndNaivePool.TestCase
TestPoolAndNaivePool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
