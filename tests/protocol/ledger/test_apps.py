"""Apps and passes: what can be registered, who pays whom, when a pass ends, what of its use is counted."""

from dataclasses import replace

import pytest

from protocol.errors import InsufficientBalance
from protocol.keys import PrivateKey
from protocol.ledger import apps
from protocol.ledger.app_errors import (
    AppRetired,
    InvalidApp,
    InvalidPurchase,
    InvalidUse,
    NotYourApp,
    QuotaExceeded,
    StakeTooLow,
    UnknownApp,
)
from protocol.ledger.app_records import AppUse
from protocol.ledger.apps import (
    DAY_MS,
    LATE_MS,
    PASSES_MAX,
    PERIODS_MAX,
    VALIDATORS_MAX,
    BuyPass,
    ReportUse,
    RetireApp,
    choose_backing,
    compute_app_key,
    compute_room,
    compute_use_key,
)
from protocol.ledger.errors import LimitReached
from protocol.ledger.flows import Party, Source
from protocol.ledger.money import split_lease_pay
from protocol.ledger.transactions import Delegate
from protocol.types import GRAINS_PER_ROLE
from tests.support.apps import APP, DAY, MEMBER, AppWorld
from tests.support.ledgers import Ledger


@pytest.fixture
def world() -> AppWorld:
    return AppWorld()


def test_what_is_paid_for_a_pass_reaches_owner_treasury_and_fire_at_once(world: AppWorld) -> None:
    before, user = world.ledger.state, world.users[0]
    held = world.buy(user, periods=3)
    after, cost = world.ledger.state, 3 * DAY.price
    owner, treasury, burn = split_lease_pay(cost, after.params)
    assert held.until_ms - held.since_ms == 3 * DAY.period_ms
    assert after.get_balance(world.owner.public) - before.get_balance(world.owner.public) == owner
    assert after.treasury - before.treasury >= treasury > 0
    assert after.burned - before.burned >= burn > 0
    assert before.get_balance(user.public) - after.get_balance(user.public) >= cost
    app = after.apps[APP]
    assert (app.sold, app.income, app.earned) == (3, cost, owner)


def test_a_pass_that_runs_is_renewed_and_keeps_what_was_used_of_it(world: AppWorld) -> None:
    user = world.users[0]
    first = world.buy(user)
    world.ledger.do(world.server, world.use(user, 4))
    again = world.buy(user, 2)
    assert (again.since_ms, again.until_ms, again.used) == (first.since_ms, first.until_ms + 2 * DAY.period_ms, 4)
    assert isinstance(world.ledger.refuse(user, BuyPass(APP, MEMBER, 1)), InvalidPurchase)
    assert isinstance(world.ledger.refuse(user, BuyPass(APP, DAY, PERIODS_MAX)), InvalidPurchase)


def count_lost(world: AppWorld, body: object, user: PrivateKey) -> int:
    """What a purchase has brought the treasury and the fire, but for the transaction's fee."""
    world.ledger.do(user, body)
    paid = [flow for flow in world.ledger.state.flows if flow.source == Source.APP and flow.party != Party.OWNER]
    return sum(flow.amount for flow in paid)


def test_room_on_the_ledger_is_burnt_for_also_by_who_buys_of_itself(world: AppWorld) -> None:
    """Or an app of one's own would fill the ledger with passes for the transactions' fees alone."""
    user, validator = world.users[0], world.ledger.account("validator-0").public
    assert PASSES_MAX * compute_room(DAY_MS) >= 1_000 * GRAINS_PER_ROLE
    kept = sum(split_lease_pay(DAY.price, world.ledger.state.params)[1:])
    own = BuyPass(APP, DAY, 1)
    assert count_lost(world, own, world.owner) == compute_room(DAY.period_ms + LATE_MS) + kept
    world.ledger.do(user, Delegate(validator, MEMBER.stake))
    by_stake = BuyPass(APP, MEMBER, 1, (validator,))
    assert count_lost(world, by_stake, user) == compute_room(MEMBER.period_ms + LATE_MS)


def test_room_costs_the_same_in_one_piece_and_in_many(world: AppWorld) -> None:
    one, other = world.users
    whole = count_lost(world, BuyPass(APP, DAY, 3), one)
    parts = [count_lost(world, BuyPass(APP, DAY, 1), other) for _ in range(3)]
    # Each purchase rounds up, and what rounding leaves of a price burns.
    assert whole <= sum(parts) <= whole + 3


def test_who_has_a_pass_renews_it_where_nobody_else_finds_room(
    world: AppWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.buy(world.users[0])
    monkeypatch.setattr(apps, "PASSES_MAX", 1)
    assert isinstance(world.ledger.refuse(world.users[1], BuyPass(APP, DAY, 1)), LimitReached)
    world.buy(world.users[0])


def test_a_pass_that_is_over_is_forgotten_and_begins_anew(world: AppWorld) -> None:
    user = world.users[0]
    first = world.buy(user)
    world.ledger.block(after_ms=DAY.period_ms)
    second = world.buy(user)
    assert second.since_ms >= first.until_ms
    world.ledger.block(after_ms=DAY.period_ms + LATE_MS)
    assert not world.ledger.state.passes


def test_nobody_pays_for_other_terms_than_it_has_seen(world: AppWorld) -> None:
    user = world.users[0]
    dearer = replace(DAY, price=DAY.price * 2)
    held = world.buy(user)
    world.ledger.do(world.owner, world.registration(dearer))
    assert isinstance(world.ledger.refuse(user, BuyPass(APP, DAY, 1)), InvalidPurchase)
    assert world.find(user) == held


def test_stake_buys_one_period_and_is_shown_again_for_the_next(world: AppWorld) -> None:
    user, validator = world.users[0], world.ledger.account("validator-0").public
    assert isinstance(world.ledger.refuse(user, BuyPass(APP, MEMBER, 1)), StakeTooLow)
    world.ledger.do(user, Delegate(validator, MEMBER.stake))
    assert isinstance(world.ledger.refuse(user, BuyPass(APP, MEMBER, 1)), StakeTooLow)
    twice = BuyPass(APP, MEMBER, 1, (validator, validator))
    assert isinstance(world.ledger.refuse(user, twice), InvalidPurchase)
    assert isinstance(world.ledger.refuse(user, BuyPass(APP, MEMBER, 2, (validator,))), InvalidPurchase)
    world.ledger.do(user, BuyPass(APP, MEMBER, 1, (validator,)))
    held = world.find(user)
    world.ledger.do(user, BuyPass(APP, MEMBER, 1, (validator,)), after_ms=4_000)
    assert world.find(user).until_ms == world.ledger.state.time_ms + MEMBER.period_ms == held.until_ms + 4_000
    assert world.ledger.state.apps[APP].income == 0


def test_who_stands_behind_more_validators_than_a_purchase_names_shows_the_most_of_its_stake() -> None:
    ledger = Ledger({"validator": VALIDATORS_MAX + 2})
    user = ledger.spare(0)
    validators = [ledger.account(f"validator-{index}").public for index in range(VALIDATORS_MAX + 2)]
    for index, validator in enumerate(validators):
        ledger.do(user, Delegate(validator, ledger.state.params.delegation_min + index))
    assert choose_backing(ledger.state, user.public) == tuple(reversed(validators[2:]))
    assert choose_backing(ledger.state, ledger.spare(1).public) == ()


def test_no_more_use_is_counted_than_the_pass_allows(world: AppWorld) -> None:
    user = world.users[0]
    world.buy(user, periods=2)
    world.ledger.do(world.server, world.use(user, DAY.quota - 1))
    error = world.ledger.refuse(world.server, world.use(user, 2))
    assert isinstance(error, QuotaExceeded)
    assert (error.used, error.quota) == (DAY.quota + 1, DAY.quota)
    assert isinstance(world.ledger.refuse(world.server, world.use(user, 1, period=1)), InvalidUse)
    world.ledger.block(after_ms=DAY.period_ms)
    world.ledger.do(world.owner, world.use(user, DAY.quota, period=1))
    world.ledger.do(world.server, world.use(user, 1, period=0))  # late
    assert isinstance(world.ledger.refuse(world.server, world.use(user, 1, period=0)), QuotaExceeded)
    world.ledger.block(after_ms=2 * DAY.period_ms)
    assert isinstance(world.ledger.refuse(world.server, world.use(user, 1, period=2)), InvalidUse)


def test_who_reports_use_pays_the_owners_share(world: AppWorld) -> None:
    user = world.users[0]
    world.buy(user)
    before = world.ledger.state
    world.ledger.do(world.server, world.use(user, 2, fees=1_000_001))
    after = world.ledger.state
    app, share = after.apps[APP], 50_001
    assert (app.requests, app.shared) == (2, share)
    assert after.app_uses == {compute_use_key(APP, world.model): AppUse(2, share)}
    earned = split_lease_pay(share, after.params)[0]
    assert after.get_balance(world.owner.public) - before.get_balance(world.owner.public) == earned
    assert isinstance(world.ledger.refuse(user, world.use(user, 1)), NotYourApp)
    assert isinstance(world.ledger.refuse(world.server, world.use(user, 1, fees=2**62)), InsufficientBalance)
    [item] = world.use(user, 1).items
    for other in (replace(item, model=bytes(32)), replace(item, since_ms=1), replace(item, requests=0)):
        assert isinstance(world.ledger.refuse(world.server, ReportUse(APP, (other,))), InvalidUse)


def test_an_app_that_retires_keeps_its_passes_and_is_forgotten_after_the_last(world: AppWorld) -> None:
    user = world.users[0]
    world.buy(user)
    deposit = world.ledger.state.apps[APP].deposit
    assert isinstance(world.ledger.refuse(user, RetireApp(APP)), NotYourApp)
    world.ledger.do(world.owner, RetireApp(APP))
    assert isinstance(world.ledger.refuse(user, BuyPass(APP, DAY, 1)), AppRetired)
    assert isinstance(world.ledger.refuse(world.owner, world.registration()), AppRetired)
    assert isinstance(world.ledger.refuse(user, BuyPass("prose", DAY, 1)), UnknownApp)
    world.ledger.do(world.server, world.use(user, 1))
    before = world.ledger.state.get_balance(world.owner.public)
    world.ledger.block(after_ms=DAY.period_ms + LATE_MS)
    state = world.ledger.state
    assert not any((state.apps, state.passes, state.app_uses))
    assert state.get_balance(world.owner.public) == before + deposit
    assert all(item.id != compute_app_key(APP) for item in state.due.values())


@pytest.mark.parametrize(
    "tier",
    [
        replace(DAY, price=0),
        replace(DAY, stake=50 * GRAINS_PER_ROLE),
        replace(DAY, quota=0),
        replace(DAY, period_ms=1),
        replace(DAY, name=""),
        replace(MEMBER, stake=1),
        replace(MEMBER, period_ms=400_001),  # longer than stake stays locked
    ],
)
def test_tiers_that_there_cannot_be(world: AppWorld, tier) -> None:
    assert isinstance(world.ledger.refuse(world.owner, world.registration(tier)), InvalidApp)


def test_only_the_owner_changes_an_app(world: AppWorld) -> None:
    assert isinstance(world.ledger.refuse(world.server, world.registration()), NotYourApp)
    assert isinstance(world.ledger.refuse(world.owner, world.registration(DAY, DAY)), InvalidApp)
    assert isinstance(world.ledger.refuse(world.owner, replace(world.registration(), name="Poems!")), InvalidApp)
