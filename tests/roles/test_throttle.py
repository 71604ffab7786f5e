"""What a client keeps back from workers that turn most away."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from roles.throttle import HALF_LIFE_MS, SPARE, TAKEN_TIMES, WORKERS_MAX, Throttle

QUEUE = 8
APART_MS = 2  # one request from the next
WORKER, OTHER = b"w" * 32, b"o" * 32


def make_id(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


def offer(throttle: Throttle, begin_ms: int, apart_ms: int, took_ms: int, seconds: int) -> tuple[int, int, int]:
    """To a worker that does one in `took_ms` and keeps QUEUE of them: offered, sent and taken in the last half."""
    free_ms, counts = begin_ms, [0, 0, 0]
    for now_ms in range(begin_ms, begin_ms + seconds * 1_000, apart_ms):
        counts_now = now_ms >= begin_ms + seconds * 500
        counts[0] += counts_now
        if throttle.holds_back(WORKER, make_id(now_ms), now_ms):
            continue
        throttle.note_asked(WORKER, now_ms)
        counts[1] += counts_now
        if free_ms - now_ms < QUEUE * took_ms:
            free_ms = max(free_ms, now_ms) + took_ms
            counts[2] += counts_now
        else:
            throttle.note_busy(WORKER, now_ms)
    return counts[0], counts[1], counts[2]


@given(st.lists(st.integers(0, 5_000), max_size=200))
def test_a_worker_that_takes_what_it_is_asked_is_spared_nothing(pauses_ms: list[int]) -> None:
    throttle, now_ms = Throttle(), 0
    for number, pause_ms in enumerate(pauses_ms):
        now_ms += pause_ms
        assert not throttle.holds_back(WORKER, make_id(number), now_ms)
        throttle.note_asked(WORKER, now_ms)


@settings(max_examples=20)
@given(times=st.integers(2, 10), took_ms=st.integers(20, 60))
def test_under_overload_little_more_is_sent_than_is_taken(times: int, took_ms: int) -> None:
    offered, sent, taken = offer(Throttle(), 0, took_ms // times, took_ms, seconds=20)
    assert taken >= 0.9 * 10_000 / took_ms
    assert sent <= min(offered, TAKEN_TIMES * taken + 10 * SPARE)


def test_a_few_refusals_mean_nothing() -> None:
    throttle = Throttle()
    for number in range(SPARE):
        assert not throttle.holds_back(WORKER, make_id(number), number)
        throttle.note_asked(WORKER, number)
        throttle.note_busy(WORKER, number)


def test_a_worker_that_has_room_again_is_soon_asked_all_there_is() -> None:
    throttle = Throttle()
    offer(throttle, 0, 5, 50, seconds=20)
    begin_ms = 20_000
    offered, sent, _ = offer(throttle, begin_ms, 10, 1, seconds=2 * 10 * HALF_LIFE_MS // 1_000)
    assert sent == offered
    assert not throttle.holds_back(OTHER, make_id(0), begin_ms)


def test_workers_that_turned_the_same_requests_away_are_soon_asked_all_there_is_as_well() -> None:
    throttle = Throttle()
    workers = [bytes([number]) * 32 for number in range(4)]
    sent_last, until_ms = 0, 20_000
    for now_ms in range(0, until_ms + 10 * HALF_LIFE_MS, APART_MS):
        request_id = make_id(now_ms)
        is_turned_away = now_ms < until_ms and int.from_bytes(request_id[-4:], "big") < 0.7 * 2**32
        first = now_ms // APART_MS % len(workers)
        has_been_turned_away = False
        for worker in workers[first:] + workers[:first]:
            if throttle.holds_back(worker, request_id, now_ms, is_first=not has_been_turned_away):
                has_been_turned_away = True
                continue
            throttle.note_asked(worker, now_ms)
            if not is_turned_away:
                sent_last += now_ms >= until_ms + 5 * HALF_LIFE_MS
                break
            throttle.note_busy(worker, now_ms)
            has_been_turned_away = True
    assert sent_last == 5 * HALF_LIFE_MS // APART_MS


def test_only_so_many_workers_are_remembered() -> None:
    throttle = Throttle()
    for number in range(2 * WORKERS_MAX):
        throttle.note_asked(make_id(number), 0)
    assert len(throttle._counts) == WORKERS_MAX
