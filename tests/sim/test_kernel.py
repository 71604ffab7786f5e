"""The kernel runs callbacks in one order only, keeps its purposes apart and notices when time stands still."""

from dataclasses import dataclass

import pytest

from protocol.errors import LocalError
from testnet import kernel as kernel_module
from testnet.kernel import Kernel


@dataclass(frozen=True)
class Rang:
    number: int
    notes: tuple[str, ...] = ()


def test_events_run_by_time_and_then_in_the_order_they_were_scheduled():
    kernel, seen = Kernel(seed=1, start_ms=100), []

    kernel.after(7, seen.append, "late")
    kernel.after(3, seen.append, "early, first")
    kernel.at(103, seen.append, "early, second")
    kernel.at(5, seen.append, "past means now")
    kernel.run_until(200)

    assert seen == ["past means now", "early, first", "early, second", "late"]
    assert kernel.now_ms == 200


def test_what_is_due_after_the_end_waits_for_the_next_run():
    kernel, seen = Kernel(seed=1, start_ms=0), []

    kernel.at(10, seen.append, "ten")
    kernel.at(11, seen.append, "eleven")
    kernel.run_until(10)

    assert seen == ["ten"]
    kernel.run_until(11)
    assert seen == ["ten", "eleven"]


def test_a_kernel_can_be_taken_to_where_another_stood():
    kernel, seen = Kernel(seed=1, start_ms=0), []
    for name in ("one", "two", "three"):
        kernel.at(10, seen.append, name)

    kernel.run_events(events_run=2, now_ms=10)

    assert (seen, kernel.now_ms, kernel.events_run) == (["one", "two"], 10, 2)
    kernel.run_events(events_run=9, now_ms=25)
    assert (seen, kernel.now_ms, kernel.events_run) == (["one", "two", "three"], 25, 3)


def test_a_run_stops_at_the_event_that_makes_its_condition_true():
    kernel, seen = Kernel(seed=1, start_ms=0), []
    for time_ms in (1, 2, 3):
        kernel.at(time_ms, seen.append, time_ms)

    assert kernel.run_until(100, lambda: len(seen) == 2)
    assert (seen, kernel.now_ms) == ([1, 2], 2)
    assert not kernel.run_until(100, lambda: len(seen) == 9)
    assert kernel.now_ms == 100


def test_one_consumer_of_randomness_more_does_not_shift_the_others():
    alone = Kernel(seed=5).random("links")
    other = Kernel(seed=5)
    other.random("faults").random()
    beside = other.random("links")

    assert [alone.random() for _ in range(5)] == [beside.random() for _ in range(5)]
    assert Kernel(seed=6).random("links").random() != Kernel(seed=5).random("links").random()


def test_the_trace_tells_events_their_order_and_their_subjects_apart():
    def trace(*events: tuple[bytes, Rang]) -> str:
        kernel = Kernel(seed=1)
        for subject, event in events:
            kernel.record(subject, event)
        return kernel.trace

    one, two = (b"a", Rang(1, ("x", "y"))), (b"a", Rang(1, ("xy",)))

    assert trace(one) == trace(one)
    assert len({trace(one), trace(two), trace(one, two), trace(two, one), trace((b"b", one[1])), trace()}) == 6


def test_a_loop_that_lets_no_time_pass_is_an_error(monkeypatch):
    monkeypatch.setattr(kernel_module, "EVENTS_PER_MS_MAX", 100)
    kernel = Kernel(seed=1)

    def again() -> None:
        kernel.after(0, again)

    again()
    with pytest.raises(LocalError, match="time does not pass"):
        kernel.run_until(kernel.now_ms + 1)


def test_events_that_pile_up_without_end_are_an_error(monkeypatch):
    monkeypatch.setattr(kernel_module, "EVENTS_WAITING_MAX", 10)
    kernel = Kernel(seed=1)

    for _ in range(10):
        kernel.after(1, list)

    with pytest.raises(LocalError, match="are waiting"):
        kernel.after(1, list)
