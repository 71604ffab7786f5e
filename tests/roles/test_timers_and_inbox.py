"""Time that never goes back, timers that move, and a queue that floods cannot grow."""

import math

import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.net import Answered, Asked, Delivered, PeerConnected
from roles.inbox import URGENT_IN_A_ROW, Inbox
from roles.timers import STALE_ENTRIES_MAX, Timers, WallClock


@given(st.lists(st.floats(0, 2e9)))
def test_the_wall_clock_never_goes_back(readings):
    clock = WallClock(iter(readings).__next__)

    seen = [clock.now_ms() for _ in readings]

    assert seen == sorted(seen)


def test_a_clock_set_back_stands_until_it_is_passed():
    clock = WallClock(iter([100.0, 40.0, 100.001]).__next__)

    assert [clock.now_ms() for _ in range(3)] == [100_000, 100_000, 100_001]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=30), st.integers(0, 20))
def test_each_name_fires_once_at_the_time_it_was_last_set_to(settings, now_s):
    timers = Timers()
    for name, at_s in settings:
        timers.set(name, at_s)
    last = dict(settings)

    due = timers.take_due(now_s)

    assert sorted(due) == sorted(name for name, at_s in last.items() if at_s <= now_s)
    assert [last[name] for name in due] == sorted(last[name] for name in due)
    assert len(timers) == len(last) - len(due)
    assert timers.take_due(now_s) == []


def test_a_timer_moved_for_ever_does_not_grow_the_heap():
    timers = Timers()
    for number in range(10 * STALE_ENTRIES_MAX):
        timers.set("again", number)

    assert len(timers._heap) <= STALE_ENTRIES_MAX + 2
    assert timers.take_due(math.inf) == ["again"]
    assert timers.next_s == math.inf


def test_a_flood_is_dropped_and_counted_while_answers_get_through():
    inbox = Inbox(peer_events_max=2)
    for number in range(4):
        inbox.put_from_net(Delivered("t", bytes([number]), bytes(32)))
    inbox.put_from_net(Asked("p", bytes(32), b"", "token"))
    inbox.put_from_net(Answered("token", b""))
    inbox.put_from_net(PeerConnected(bytes(32)))

    kinds = [type(inbox.take()).__name__ for _ in range(len(inbox))]

    assert kinds == ["Answered", "PeerConnected", "Delivered", "Delivered"]
    assert inbox.dropped == {"delivered": 2, "asked": 1}
    assert inbox.take() is None


def test_a_vote_overtakes_transactions_and_they_do_not_wait_for_ever():
    inbox = Inbox()
    for number in range(3):
        inbox.put_from_net(Delivered("/rolemesh/00/txs/1", bytes([number]), bytes(32)))
    votes = 2 * URGENT_IN_A_ROW
    for number in range(votes):
        inbox.put_from_net(Delivered("/rolemesh/00/consensus/1", bytes([number]), bytes(32)))

    taken = [inbox.take() for _ in range(len(inbox))]

    assert [event.data[0] for event in taken if "consensus" in event.topic] == list(range(votes))
    assert [event.data[0] for event in taken if "txs" in event.topic] == [0, 1, 2]
    assert ["txs" in event.topic for event in taken].index(True) == URGENT_IN_A_ROW
    assert inbox.take() is None


def test_room_comes_back_when_events_are_taken():
    inbox = Inbox(peer_events_max=1)
    for _ in range(3):
        inbox.put_from_net(Delivered("t", b"", bytes(32)))
        assert isinstance(inbox.take(), Delivered)

    assert not inbox.dropped


def test_waiting_ends_with_the_next_event():
    async def main():
        inbox = Inbox()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.wait)
            await trio.testing.wait_all_tasks_blocked()
            inbox.put(PeerConnected(bytes(32)))
        await inbox.wait()  # and not at all while one is there
        return inbox.take()

    assert trio.run(main) == PeerConnected(bytes(32))
