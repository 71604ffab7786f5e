"""Candles say what was reported, in any duration and either order, from a history that never grows."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.candles import (
    CANDLES_MAX,
    LEVEL_TIMES,
    LEVELS,
    PAGES,
    NoHistory,
    add_value,
    choose_level,
    compute_page_key,
    compute_period,
    compute_slot,
    fill_candles,
    list_slots,
    read_candles,
)
from protocol.ledger.feed_records import Candle, CandlePage
from protocol.ledger.limits import CANDLES_PER_PAGE
from protocol.queries import CandleQuery

HEARTBEAT_MS = 1_000
KEPT = (PAGES - 1) * CANDLES_PER_PAGE


class History:
    """What the ledger keeps, beside a list of everything."""

    def __init__(self) -> None:
        self.pages: dict[tuple[int, int], CandlePage] = {}
        self.all: list[tuple[int, int, int]] = []

    def add(self, round_number: int, value: int, volume: int = 1) -> None:
        self.all.append((round_number, value, volume))
        for level in range(LEVELS):
            period = compute_period(level, round_number)
            key = level, compute_slot(period)[1]
            self.pages[key] = add_value(self.pages.get(key), period, value, volume)

    def read(self, query: CandleQuery, time_ms: int) -> tuple[Candle, ...]:
        return read_candles(query, HEARTBEAT_MS, time_ms, lambda level, slot: self.pages.get((level, slot)))

    def expect(self, query: CandleQuery, time_ms: int) -> tuple[Candle, ...]:
        """The same from the list, the plain way."""
        rounds = query.duration_ms // HEARTBEAT_MS
        end = time_ms // query.duration_ms
        found = []
        for period in range(max(0, end - query.count), end):
            inside = [item for item in self.all if item[0] // rounds == period]
            if inside:
                values = [value for _, value, _ in inside]
                volume = sum(item[2] for item in inside)
                found.append(Candle(period, values[0], max(values), min(values), values[-1], volume))
        return tuple(reversed(found) if query.newest_first else found)


def walk(seed: int, rounds: int, gaps: float = 0.2) -> History:
    rng, history = random.Random(seed), History()
    for round_number in range(rounds):
        for _ in range(0 if rng.random() < gaps else rng.choice([1, 1, 1, 3])):
            history.add(round_number, rng.randrange(1_000), rng.randrange(1, 5))
    return history


WALKS = [walk(seed, rounds) for seed, rounds in enumerate([1, 40, 200, 3_000])]


@given(
    history=st.sampled_from(WALKS),
    duration=st.integers(1, 400),
    count=st.integers(1, CANDLES_MAX),
    newest_first=st.integers(0, 1),
    later=st.integers(0, 2_000),
)
def test_candles_of_any_duration_and_either_order_are_those_of_the_whole_history(
    history, duration, count, newest_first, later
):
    query = CandleQuery("f", duration * HEARTBEAT_MS, count, newest_first)
    last = history.all[-1][0] if history.all else 0
    time_ms = (last + 1) * HEARTBEAT_MS + later
    try:
        found = history.read(query, time_ms)
    except NoHistory:
        level = choose_level(query, HEARTBEAT_MS)
        assert (count + 1) * duration > KEPT * LEVEL_TIMES**level  # what is sure to be kept is always told
    else:
        assert found == history.expect(query, time_ms)


def test_what_a_feed_keeps_never_grows() -> None:
    history = WALKS[-1]
    assert len(history.pages) <= LEVELS * PAGES
    assert max(len(page.candles) for page in history.pages.values()) <= CANDLES_PER_PAGE


def test_the_coarser_a_candle_the_further_back_it_reaches() -> None:
    history = WALKS[-1]
    time_ms = 3_000 * HEARTBEAT_MS
    with pytest.raises(NoHistory, match="multiples of 12000 ms"):
        history.read(CandleQuery("f", 7_000, 100), time_ms)
    assert len(history.read(CandleQuery("f", 12_000, 96), time_ms)) > 90
    assert len(history.read(CandleQuery("f", 144_000, 20), time_ms)) == 20


def test_a_candle_that_has_not_ended_is_not_told() -> None:
    history = History()
    history.add(10, 5)
    assert history.read(CandleQuery("f", 1_000, 3), 10_999) == ()
    assert history.read(CandleQuery("f", 1_000, 3), 11_000) == (Candle(10, 5, 5, 5, 5, 1),)


def test_a_page_of_long_ago_is_no_answer_for_its_slot_now() -> None:
    history = History()
    history.add(0, 5)
    now = PAGES * CANDLES_PER_PAGE
    assert history.read(CandleQuery("f", 1_000, 8), (now + 4) * HEARTBEAT_MS) == ()


@pytest.mark.parametrize(("duration_ms", "count"), [(0, 1), (1_500, 1), (1_000, 0), (1_000, CANDLES_MAX + 1)])
def test_a_question_that_no_level_answers_says_why(duration_ms, count) -> None:
    with pytest.raises(NoHistory):
        list_slots(CandleQuery("f", duration_ms, count), HEARTBEAT_MS, 10**6)


@given(st.integers(1, 10**6), st.integers(1, CANDLES_MAX), st.integers(0, 2**60))
def test_a_question_touches_four_pages_at_most(rounds, count, time_ms) -> None:
    query = CandleQuery("f", rounds * HEARTBEAT_MS, count)
    try:
        level, slots = list_slots(query, HEARTBEAT_MS, time_ms)
    except NoHistory:
        return
    assert 0 <= level < LEVELS
    assert len(slots) == len(set(slots)) <= PAGES


def test_before_a_duration_has_passed_there_is_nothing_to_be_asked() -> None:
    assert History().read(CandleQuery("f", 60_000, 5), 1_000) == ()


def test_gaps_are_filled_with_the_last_close_and_never_from_nothing() -> None:
    query = CandleQuery("f", 1_000, 4)
    candles = (Candle(6, 1, 3, 1, 2, 5), Candle(8, 9, 9, 9, 9, 1))
    filled = fill_candles(query, 10_000, candles)
    assert [(item.period, item.close, item.volume) for item in filled] == [(6, 2, 5), (7, 2, 0), (8, 9, 1), (9, 9, 0)]
    newest = CandleQuery("f", 1_000, 4, newest_first=1)
    assert fill_candles(newest, 10_000, reversed(candles)) == tuple(reversed(filled))
    with pytest.raises(NoHistory, match="not reported on"):
        fill_candles(query, 11_000, candles[1:])


def test_pages_of_different_feeds_levels_and_slots_have_keys_of_their_own() -> None:
    keys = {
        compute_page_key(feed, level, slot) for feed in ("a", "b") for level in range(LEVELS) for slot in range(PAGES)
    }
    assert len(keys) == 2 * LEVELS * PAGES
