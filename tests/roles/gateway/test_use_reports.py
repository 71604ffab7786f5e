"""What passes were used for reaches the ledger once, and never past a quota, whenever the gateway is killed."""

import tempfile
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock

from protocol.ledger.apps import LATE_MS, ReportUse, get_counted
from protocol.proofs.pass_file import Right
from roles.chain import DATABASE_NAME, Chain
from roles.config import ConfigError
from roles.core_effects import Commit
from roles.gateway.app_service import verify_server
from roles.gateway.pass_book import BOOK_NAME, PassBook, Sent
from roles.gateway.passes import Passes
from roles.gateway.use_reports import Reporter, ReportRefused, UseLost, plan_report
from roles.orders import OrderState
from roles.submitter import VALID_MS
from tests.support.apps import APP, DAY, AppWorld

PERIODS = 3


class Gateways(RuleBasedStateMachine):
    """One gateway after the other in one directory, each killed at some moment; another server reports as well."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = AppWorld()
        self.user = self.world.users[0]
        self.since_ms = self.world.buy(self.user, PERIODS).since_ms
        self.book = PassBook(Path(self.folder.name), APP)
        self.let_in: Counter[int] = Counter()  # requests, by period, less those given back
        self.elsewhere: Counter[int] = Counter()
        self.under_way: list[Right] = []
        self.sent: Sent | None = None
        self.landed = False

    @property
    def now_ms(self) -> int:
        return self.world.ledger.state.time_ms

    @property
    def period(self) -> int:
        return (self.now_ms - self.since_ms) // DAY.period_ms

    def count(self, period: int) -> int:
        return get_counted(self.world.find(self.user), period)

    @precondition(lambda self: self.period < PERIODS)
    @rule()
    def ask(self) -> None:
        ends_ms = self.since_ms + (self.period + 1) * DAY.period_ms
        right = Right(APP, self.user.public, self.since_ms, self.period, ends_ms, DAY.quota)
        if self.book.take(right, self.world.model, self.count(self.period)):
            self.let_in[self.period] += 1
            self.under_way.append(right)

    @precondition(lambda self: self.under_way)
    @rule(fee=st.integers(0, 1_000))
    def answer(self, fee: int) -> None:
        self.book.finish(self.under_way.pop(), self.world.model, fee)

    @precondition(lambda self: self.under_way)
    @rule()
    def fail(self) -> None:
        right = self.under_way.pop()
        self.let_in[right.period] -= 1
        self.book.give_back(right, self.world.model)

    @precondition(lambda self: self.sent is None)
    @rule()
    def send(self) -> None:
        plan = plan_report(self.world.ledger.state, APP, self.book.list_unsent(), self.now_ms)
        self.book.give_up(plan.lost)
        if plan.items:
            self.sent, self.landed = Sent(self.world.ledger.state.height, ReportUse(APP, plan.items)), False
            self.book.begin_report(self.sent)

    @precondition(lambda self: self.sent is not None and not self.landed)
    @rule()
    def land(self) -> None:
        """The block takes it, unless something has come between."""
        assert self.sent is not None
        signed = self.world.ledger.sign(self.world.owner, self.sent.body)
        self.landed = not self.world.ledger.block(signed)

    @precondition(lambda self: self.sent is not None)
    @rule()
    def learn(self) -> None:
        assert self.sent is not None
        self.book.end_report(self.sent, self.landed)
        self.sent = None

    @precondition(lambda self: self.period < PERIODS)
    @rule()
    def report_elsewhere(self) -> None:
        if self.count(self.period) < DAY.quota:
            self.world.ledger.do(self.world.server, self.world.use(self.user, 1, self.period))
            self.elsewhere[self.period] += 1

    @rule(after_ms=st.sampled_from((1, DAY.period_ms // 2, DAY.period_ms)))
    def wait(self, after_ms: int) -> None:
        if self.period < PERIODS:
            self.world.ledger.block(after_ms=after_ms)

    @rule()
    def forget(self) -> None:
        self.book.forget(self.now_ms)

    @rule()
    def kill(self) -> None:
        """Nothing is closed or handed over; the next one reads what is there."""
        dead = self.book
        self.book = PassBook(Path(self.folder.name), APP)
        dead._connection.close()
        self.under_way.clear()
        assert self.book.get_report() == self.sent

    @invariant()
    def no_period_has_more_than_its_quota(self) -> None:
        assert all(self.let_in[period] <= DAY.quota for period in range(PERIODS))
        for period in (self.period, self.period - 1):
            counted = self.count(period)
            assert counted <= DAY.quota
            assert counted <= self.let_in[period] + self.elsewhere[period]

    def teardown(self) -> None:
        """What is left is reported, and then the ledger has all of the period, as far as there was room."""
        if self.period < PERIODS:
            while self.under_way:
                self.answer(0)
            if self.sent is not None:
                self.learn()
            self.send()
            if self.sent is not None:
                self.land()
                assert self.landed
            wanted = self.let_in[self.period] + self.elsewhere[self.period]
            assert self.count(self.period) == min(DAY.quota, wanted)
        self.book.close()
        self.folder.cleanup()


TestGateways = Gateways.TestCase
TestGateways.settings = settings(max_examples=20, stateful_step_count=30)


class Desk:
    """A node of the owner's that puts what it is ordered on the ledger, and its blocks on disk, if it `takes` them."""

    def __init__(self, world: AppWorld, folder: Path) -> None:
        self.world = world
        self.account = world.owner.public
        self.database = folder / DATABASE_NAME
        self.takes = True
        self.is_ready = True
        self.orders: dict[str, OrderState] = {}
        self._chain = Chain(self.database)
        self._chain.start()
        self.store()

    @property
    def state(self):
        return self.world.ledger.state

    def order(self, token: str, body: ReportUse) -> None:
        if not self.takes:
            return
        refused = self.world.ledger.block(self.world.ledger.sign(self.world.owner, body))
        self.store()
        told = {"code": type(refused[0]).__name__, "reason": str(refused[0])} if refused else {}
        self.orders[token] = OrderState(**told) if refused else OrderState(self.state.height)

    def get_order(self, token: str) -> OrderState | None:
        return self.orders.get(token)

    def store(self) -> None:
        self._chain.write([Commit(*entry) for entry in self.world.ledger.blocks])
        self.world.ledger.blocks.clear()

    def close(self) -> None:
        self._chain.close()


async def use_up(book: PassBook, desk: Desk, requests: int) -> None:
    """Ask so often under the first user's pass."""
    held = desk.world.find(desk.world.users[0])
    passes = Passes(APP, book, lambda: desk.state, print)
    right = Right(APP, held.holder, held.since_ms, 0, held.until_ms, DAY.quota)
    for _ in range(requests):
        async with passes.use(right, desk.world.model) as use:
            use.fee = 7


async def report_once(book: PassBook, desk: Desk, errors: list[Exception]) -> None:
    over = trio.Event()
    over.set()
    await Reporter(APP, book, desk, errors.append, lambda: desk.state.time_ms).run(over)


@pytest.fixture
def desk(tmp_path):
    world = AppWorld(check_signatures=True)
    world.buy(world.users[0])
    with closing(Desk(world, tmp_path)) as made:
        yield made


def count(desk: Desk) -> int:
    return desk.world.find(desk.world.users[0]).used


def run(main):
    return trio.run(main, clock=MockClock(autojump_threshold=0.02))


def test_what_was_used_is_on_the_ledger_by_model_with_the_owners_share(tmp_path, desk):
    errors: list[Exception] = []

    async def main():
        with closing(PassBook(tmp_path, APP)) as book:
            await use_up(book, desk, 3)
            await report_once(book, desk, errors)
            await report_once(book, desk, errors)  # nothing is left to say
            assert book.list_unsent() == ()

    run(main)
    assert (errors, count(desk), desk.state.apps[APP].requests) == ([], 3, 3)
    assert [use.requests for use in desk.state.app_uses.values()] == [3]
    assert desk.state.apps[APP].shared == 2  # 5 % of 21 grains, rounded up


@pytest.mark.parametrize("lands", ["before", "late", "never"])
def test_a_report_that_was_on_its_way_when_the_gateway_was_killed_counts_once(tmp_path, desk, lands):
    errors: list[Exception] = []

    async def die():
        with closing(PassBook(tmp_path, APP)) as book:
            await use_up(book, desk, 1)
            desk.takes = False
            with trio.move_on_after(1):
                await report_once(book, desk, errors)
            desk.takes = True
            return book.get_report().body

    async def go_on(body):
        async def land(after_s):
            await trio.sleep(after_s)
            desk.order("from before", body)

        with closing(PassBook(tmp_path, APP)) as book:
            await use_up(book, desk, 1)
            async with trio.open_nursery() as nursery:
                if lands != "never":
                    nursery.start_soon(land, 0 if lands == "before" else VALID_MS / 1_000 - 1)
                await trio.sleep(0.5)
                await report_once(book, desk, errors)
            assert book.get_report() is None

    run(partial(go_on, run(die)))
    assert (errors, count(desk)) == ([], 2)


def test_what_the_ledger_refuses_is_said_and_tried_again(tmp_path, desk):
    errors: list[Exception] = []

    async def main():
        with closing(PassBook(tmp_path, APP)) as book:
            await use_up(book, desk, 2)
            plain = desk.account, desk.world.owner
            desk.world.owner = desk.world.users[1]  # signs for an account that serves nothing
            await report_once(book, desk, errors)
            assert [type(error) for error in errors] == [ReportRefused]
            assert sum(item.requests for item in book.list_unsent()) == 2
            desk.account, desk.world.owner = plain
            await report_once(book, desk, errors)

    run(main)
    assert (len(errors), count(desk)) == (1, 2)


def test_what_others_have_left_no_room_for_is_said_and_given_up(tmp_path, desk):
    errors: list[Exception] = []

    async def main():
        with closing(PassBook(tmp_path, APP)) as book:
            await use_up(book, desk, 3)
            desk.world.ledger.do(desk.world.server, desk.world.use(desk.world.users[0], DAY.quota - 2))
            desk.store()
            await report_once(book, desk, errors)
            assert book.list_unsent() == ()

    run(main)
    assert [type(error) for error in errors] == [UseLost]
    assert count(desk) == DAY.quota


def test_what_is_reported_and_over_is_forgotten(tmp_path, desk):
    held = desk.world.find(desk.world.users[0])
    right = Right(APP, held.holder, held.since_ms, 0, held.until_ms, 1)

    async def main():
        with closing(PassBook(tmp_path, APP)) as book:
            await use_up(book, desk, 1)
            await report_once(book, desk, [])
            assert not book.take(right, desk.world.model, 0)
            book.forget(held.until_ms + LATE_MS)
            assert not book.take(right, desk.world.model, 0)
            book.forget(held.until_ms + LATE_MS + 1)
            assert book.take(right, desk.world.model, 0)

    run(main)


def test_a_file_that_is_no_book_is_left_alone(tmp_path):
    (tmp_path / BOOK_NAME).write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(ConfigError, match="cannot be used"):
        PassBook(tmp_path, APP)


def test_only_who_is_named_serves_an_app(desk):
    for account in (desk.world.owner.public, desk.world.server.public):
        verify_server(desk.state, APP, account)
    with pytest.raises(ConfigError, match="not named"):
        verify_server(desk.state, APP, desk.world.users[0].public)
    with pytest.raises(ConfigError, match="knows no app"):
        verify_server(desk.state, "prose", desk.world.owner.public)
