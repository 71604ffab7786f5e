"""What callers with a key spend: reserved before a request leaves, settled by what it has really cost."""

import sqlite3
from contextlib import asynccontextmanager, closing, suppress

import pytest
import trio
import trio.testing

from roles.attempts import Outcome, Recalled
from roles.client_errors import TimedOut, TooDear, make_error
from roles.gateway.faults import Fault
from roles.gateway.key_book import KeyBook
from roles.gateway.keys import KeyTerms, make_key
from roles.gateway.spending import Spending, WrongKey, get_now_ms

KEY = make_key(b"\1" * 6, b"\2" * 32)


class FakeClient:
    """Says of every request the same, or nothing at all."""

    def __init__(self, said: Recalled | None = None) -> None:
        self.said = said
        self.asked: list[bytes] = []

    async def recall(self, nonce):
        await trio.lowlevel.checkpoint()
        self.asked.append(nonce)
        if self.said is None:
            raise TimedOut("timeout", "the client said nothing")
        return self.said


def cost(owed, is_open=False):
    return Recalled("", owed, is_open, is_known=True)


@pytest.fixture
def book(tmp_path):
    with closing(KeyBook(tmp_path, is_synced=False)) as opened:
        opened.add(KEY, KeyTerms("web", limit=100), get_now_ms())
        yield opened


def look(book):
    state = book.find(KEY.id, get_now_ms())
    return state.spent, state.held


@asynccontextmanager
async def running(book, client):
    errors = []
    spending = Spending(book, client, errors.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spending.run)
        yield spending, errors
        nursery.cancel_scope.cancel()


async def wait_until(condition):
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.01)


def test_what_a_request_may_cost_is_reserved_while_it_is_under_way_and_what_it_cost_is_spent_after(book):
    async def main():
        async with running(book, FakeClient(cost(7))) as (spending, _):
            async with spending.hold(spending.find(KEY.text), 30) as hold:
                assert (hold.amount, hold.spend_max, len(hold.id)) == (30, 30, 16)
                assert look(book) == (0, 30)
            assert look(book) == (7, 0)

    trio.run(main)


def test_without_a_key_nothing_is_reserved_and_nothing_is_limited(book):
    client = FakeClient(cost(7))

    async def main():
        async with running(book, client) as (spending, _), spending.hold(None, 30) as hold:
            assert (hold.amount, hold.spend_max, hold.id) == (30, 0, b"")

    trio.run(main)
    assert (look(book), client.asked) == ((0, 0), [])


@pytest.mark.parametrize("way", ["fails", "is cancelled"])
def test_however_a_request_ends_what_it_cost_is_spent(book, way):
    async def main():
        async with running(book, FakeClient(cost(7))) as (spending, _):
            with suppress(RuntimeError), trio.CancelScope() as scope:
                async with spending.hold(spending.find(KEY.text), 30):
                    if way == "fails":
                        raise RuntimeError
                    scope.cancel()
                    await trio.sleep_forever()

    trio.run(main)
    assert look(book) == (7, 0)


def test_what_a_worker_may_still_claim_stays_reserved_until_it_has_spoken(book, monkeypatch):
    monkeypatch.setattr("roles.gateway.spending.LOOK_S", 0.01)
    client = FakeClient(cost(9, is_open=True))

    async def main():
        async with running(book, client) as (spending, _):
            async with spending.hold(spending.find(KEY.text), 30):
                pass
            await wait_until(lambda: len(client.asked) > 3)
            assert look(book) == (0, 30)
            client.said = cost(0)
            await wait_until(lambda: look(book) == (0, 0))

    trio.run(main)


def test_a_client_that_says_nothing_is_asked_again(book, monkeypatch):
    monkeypatch.setattr("roles.gateway.spending.LOOK_S", 0.01)
    client = FakeClient()

    async def main():
        async with running(book, client) as (spending, errors):
            async with spending.hold(spending.find(KEY.text), 30):
                pass
            assert look(book) == (0, 30)
            client.said = cost(7)
            await wait_until(lambda: look(book) == (7, 0))
            assert errors == []

    trio.run(main)


@pytest.mark.parametrize(
    ("noted", "said", "spent"),
    [
        (0, cost(7), 7),  # it has gone out before the end
        (0, Recalled(""), 0),  # it never left
        (9, Recalled(""), 9),  # it is long over and forgotten, but was looked at
    ],
)
def test_what_was_reserved_when_a_gateway_ended_is_settled_by_the_next(book, noted, said, spent):
    hold, _ = book.reserve(KEY.id, bytes(16), 30, get_now_ms())
    if noted:
        book.note(hold, noted)

    async def main():
        async with running(book, FakeClient(said)):
            await wait_until(lambda: look(book) == (spent, 0))

    trio.run(main)


def test_a_request_that_costs_more_than_is_left_is_told_why(book):
    dear = make_error(Outcome("", False, b"\3" * 32, code="price", reason="costs 50 grains, the limit is 30"))

    async def ask(spending, wanted):
        async with spending.hold(spending.find(KEY.text), wanted):
            raise dear

    async def main():
        async with running(book, FakeClient(cost(0))) as (spending, _):
            with pytest.raises(TooDear):
                await ask(spending, 30)  # by the caller's own limit
            with pytest.raises(Fault) as caught:
                await ask(spending, 300)
            assert (caught.value.status, caught.value.code) == (402, "key_limit_reached")
            async with spending.hold(spending.find(KEY.text), 60):
                with pytest.raises(Fault) as caught:
                    await ask(spending, 300)
                assert (caught.value.status, caught.value.code) == (429, "key_busy")

    trio.run(main)


def test_a_disk_that_takes_nothing_stops_requests_with_a_key_before_they_leave(book, monkeypatch):
    def fail(*_):
        raise sqlite3.OperationalError("disk I/O error")

    async def main():
        async with running(book, FakeClient(cost(0))) as (spending, errors):
            monkeypatch.setattr(book, "reserve", fail)
            with pytest.raises(Fault) as caught:
                async with spending.hold(spending.find(KEY.text), 1):
                    raise AssertionError("it left")
            assert (caught.value.status, caught.value.code) == (503, "no_record")
            assert len(errors) == 1

    trio.run(main)


def test_a_disk_that_fails_later_leaves_what_was_reserved_and_is_tried_again(book, monkeypatch):
    monkeypatch.setattr("roles.gateway.spending.LOOK_S", 0.01)
    settle = book.settle

    def fail(*_):
        raise sqlite3.OperationalError("disk I/O error")

    async def main():
        async with running(book, FakeClient(cost(7))) as (spending, errors):
            monkeypatch.setattr(book, "settle", fail)
            async with spending.hold(spending.find(KEY.text), 30):
                pass
            assert look(book) == (0, 30)
            assert errors
            monkeypatch.setattr(book, "settle", settle)
            await wait_until(lambda: look(book) == (7, 0))

    trio.run(main)


@pytest.mark.parametrize("text", ["none", f"rmk_{'9' * 12}_{'0' * 64}", f"rmk_{KEY.id}_{'0' * 64}", f"{KEY.text} "])
def test_whoever_guesses_a_key_is_told_no_more_than_that_it_is_none(book, text):
    spending = Spending(book, FakeClient(), lambda error: None)

    with pytest.raises(WrongKey, match=r"^that is no key of this gateway$"):
        spending.find(text)


def test_many_at_once_spend_no_more_than_there_is(book):
    spent = []

    async def ask(spending):
        with suppress(Fault):
            async with spending.hold(spending.find(KEY.text), 30) as hold:
                spent.append(hold.amount)
                await trio.sleep(0)

    async def main():
        async with running(book, FakeClient(cost(7))) as (spending, _), trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask, spending)

    trio.run(main)
    assert look(book) == (7 * len(spent), 0)
    assert 4 <= len(spent) <= 15
