"""What is late is asked for by what it usually takes, and the less patiently the less that is."""

from hypothesis import given
from hypothesis import strategies as st

from roles.patience import Patience

LEAST_MS, MOST_MS = 1_000, 4_000


def test_what_comes_soon_is_asked_for_after_the_least_time():
    patience = Patience(LEAST_MS, MOST_MS)
    for _ in range(50):
        patience.note(120)
    assert patience.wait_ms == LEAST_MS


def test_what_takes_long_is_waited_for_longer_and_no_longer_when_it_is_soon_again():
    patience = Patience(LEAST_MS, MOST_MS)
    for took_ms in 30 * [1_200, 2_000]:
        patience.note(took_ms)
    assert 2_500 < patience.wait_ms < MOST_MS
    for _ in range(50):
        patience.note(120)
    assert patience.wait_ms == LEAST_MS


def test_asking_doubles_the_wait_once_in_that_time_until_something_comes_by_itself():
    patience = Patience(LEAST_MS, MOST_MS)
    waits = []
    for now_ms in range(0, 4_000, 500):
        patience.lengthen(now_ms)
        waits.append(patience.wait_ms)
    assert waits == [2_000, 2_000, 2_000, 2_000, 4_000, 4_000, 4_000, 4_000]
    patience.note(100)
    assert patience.wait_ms == LEAST_MS


@given(st.lists(st.one_of(st.integers(0, 10**7), st.none()), max_size=60))
def test_it_stays_between_its_bounds_whatever_comes(events):
    patience, now_ms = Patience(LEAST_MS, MOST_MS), 0
    for took_ms in events:
        now_ms += 700
        if took_ms is None:
            patience.lengthen(now_ms)
        else:
            patience.note(took_ms)
        assert LEAST_MS <= patience.wait_ms <= MOST_MS
