"""Apps, passes and reports in any order: no grain comes or goes, no pass is stretched or used past its quota."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.ledger.apps import LATE_MS, BuyPass, RetireApp, compute_pass_key
from protocol.ledger.state import compute_supply
from protocol.ledger.transactions import Delegate, Undelegate
from protocol.proofs.pass_file import PassExpired, verify_pass
from tests.support.activity import verify_activity
from tests.support.apps import APP, DAY, MEMBER, AppWorld

users = st.integers(0, 1)


class AppsMachine(RuleBasedStateMachine):
    """One block a step, with one transaction or none."""

    @initialize()
    def found(self) -> None:
        self.world = AppWorld()
        self.supply = self.world.ledger.state.supply
        self.bought: Counter[tuple[bytes, int]] = Counter()  # periods, by holder and beginning of the pass
        self.used: Counter[tuple[bytes, int, int]] = Counter()
        self.first = self.world.ledger.state
        self.count = len(self.world.ledger.blocks)

    def send(self, account, body) -> bool:
        return not self.world.ledger.block(self.world.ledger.sign(account, body))

    def get_pass(self, user: int):
        return self.world.ledger.state.passes.get(compute_pass_key(APP, self.world.users[user].public))

    @rule(user=users, periods=st.sampled_from((0, 1, 3, 400)), tier=st.sampled_from((DAY, MEMBER)))
    def buy(self, user: int, periods: int, tier) -> None:
        account = self.world.users[user]
        validator = self.world.ledger.account("validator-0").public
        if self.send(account, BuyPass(APP, tier, periods, (validator,))) and tier == DAY:
            held = self.get_pass(user)
            self.bought[account.public, held.since_ms] += periods

    @rule(user=users, takes=st.booleans())
    def move_stake(self, user: int, takes: bool) -> None:
        validator = self.world.ledger.account("validator-0").public
        self.send(self.world.users[user], (Undelegate if takes else Delegate)(validator, MEMBER.stake))

    @rule(user=users, requests=st.integers(0, 6), back=st.integers(-1, 2), by=st.integers(0, 2))
    def report(self, user: int, requests: int, back: int, by: int) -> None:
        held, world = self.get_pass(user), self.world
        if held is None:
            return
        now = (world.ledger.state.time_ms - held.since_ms) // held.tier.period_ms
        period = max(0, now - back)
        account = (world.owner, world.server, world.users[user])[by]
        if self.send(account, world.use(world.users[user], requests, period, fees=12_345)):
            assert by < 2  # who serves it, not who uses it
            self.used[held.holder, held.since_ms, period] += requests

    @rule()
    def retire(self) -> None:
        self.send(self.world.owner, RetireApp(APP))

    @rule()
    def register(self) -> None:
        self.send(self.world.owner, self.world.registration())

    @rule(after_ms=st.sampled_from((1, 4_000, 10_000, 20_000, LATE_MS)))
    def wait(self, after_ms: int) -> None:
        self.world.ledger.block(after_ms=after_ms)

    @rule(user=users, asked_ms=st.sampled_from((0, 1, 10_000, 10**9)), at_ms=st.sampled_from((-1, 0, 9_999, 10**7)))
    def show(self, user: int, asked_ms: int, at_ms: int) -> None:
        """A pass holds from its beginning to its end and no longer, whatever its holder asked for."""
        held = self.get_pass(user)
        if held is None:
            return
        file = self.world.make_pass(self.world.users[user], held.since_ms + asked_ms)
        time_ms, until_ms = held.since_ms + at_ms, min(held.until_ms, held.since_ms + asked_ms)
        try:
            right = verify_pass(file, self.world.trusted, APP, time_ms)
        except PassExpired:
            assert not held.since_ms <= time_ms < until_ms
        else:
            assert held.since_ms <= time_ms < right.ends_ms <= until_ms
            assert right.quota == held.tier.quota

    @invariant()
    def no_grain_comes_or_goes(self) -> None:
        assert compute_supply(self.world.ledger.state) == self.supply

    @invariant()
    def no_pass_is_longer_than_what_was_paid_for_it(self) -> None:
        for held in self.world.ledger.state.passes.values():
            if held.tier == DAY:
                assert held.until_ms - held.since_ms == self.bought[held.holder, held.since_ms] * DAY.period_ms
            else:
                assert held.until_ms - self.world.ledger.state.time_ms <= MEMBER.period_ms

    @invariant()
    def no_pass_is_used_past_its_quota(self) -> None:
        assert all(count <= max(DAY.quota, MEMBER.quota) for count in self.used.values())
        for held in self.world.ledger.state.passes.values():
            assert max(held.used, held.used_before) <= held.tier.quota
            assert held.used == self.used[held.holder, held.since_ms, held.period]

    @invariant()
    def an_app_has_earned_nothing_that_was_not_paid(self) -> None:
        state = self.world.ledger.state
        for app in state.apps.values():
            assert app.earned <= app.income + app.shared
            assert app.requests == sum(use.requests for use in state.app_uses.values())
            assert app.shared == sum(use.shared for use in state.app_uses.values())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            verify_activity(self.first, self.world.ledger.blocks[self.count :])


AppsMachine.TestCase.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)
TestAppsMachine = AppsMachine.TestCase


def test_the_machine_gets_around() -> None:
    """What it is about does happen in it: passes are bought, renewed, used, shown, and end."""
    machine = AppsMachine()
    machine.found()
    machine.move_stake(1, takes=False)
    machine.buy(0, 1, DAY)
    machine.buy(0, 3, DAY)
    machine.buy(1, 1, MEMBER)
    assert len(machine.world.ledger.state.passes) == 2
    machine.report(0, 5, 0, 1)
    machine.report(0, 1, 0, 1)
    machine.show(0, 10**9, 9_999)
    machine.no_pass_is_used_past_its_quota()
    assert sum(machine.used.values()) == 5
    machine.no_pass_is_longer_than_what_was_paid_for_it()
    machine.retire()
    machine.wait(4 * DAY.period_ms + LATE_MS)
    assert not machine.world.ledger.state.apps
