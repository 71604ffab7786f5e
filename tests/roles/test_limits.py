"""How many requests a worker is given at once after it has turned some away."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.limits import CUT_SHARE, DOUBLING_MS, FORGOTTEN_FROM, WORKERS_MAX, Limits

WORKER, OTHER = b"w" * 32, b"o" * 32


def test_who_turns_none_away_has_no_limit_and_one_worker_is_not_another() -> None:
    limits = Limits()
    limits.note_busy(OTHER, 5, 0, 0)

    assert limits.get(WORKER, 0) == math.inf
    assert limits.get(OTHER, 0) == 5 * CUT_SHARE


def test_a_limit_is_cut_once_for_all_that_left_before_and_again_for_what_leaves_later() -> None:
    limits = Limits()
    limits.note_busy(WORKER, 50, 900, 1_000)
    for count in range(49, 30, -1):
        limits.note_busy(WORKER, count, 999, 1_500)
    assert limits.get(WORKER, 1_000) == 45.0

    limits.note_busy(WORKER, 46, 1_600, 2_000)

    assert limits.get(WORKER, 2_000) == pytest.approx(45 * CUT_SHARE, rel=0.01)


@given(st.integers(1, 10_000), st.integers(0, 10**6))
def test_a_limit_leaves_room_for_one_and_is_forgotten_with_time(count: int, after_ms: int) -> None:
    limits = Limits()
    limits.note_busy(WORKER, count, 1_000, 1_000)
    limit = limits.get(WORKER, 1_000 + after_ms)

    assert limit >= 1
    assert limits.get(WORKER, 1_000 + DOUBLING_MS) >= 2 * CUT_SHARE * min(count, FORGOTTEN_FROM)
    assert limits.get(WORKER, 1_000 + 20 * DOUBLING_MS) == math.inf


def test_only_so_many_workers_are_remembered() -> None:
    limits = Limits()
    for number in range(2 * WORKERS_MAX):
        limits.note_busy(number.to_bytes(32, "big"), 10, 0, 0)

    assert len(limits._cuts) == WORKERS_MAX
