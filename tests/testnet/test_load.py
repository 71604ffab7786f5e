"""How a client under a load plan keeps to its rate."""

from itertools import pairwise

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from testnet.load import Beat


async def _note_moments(beat: Beat, pauses_s: list[float]) -> list[float]:
    moments = []
    for pause_s in pauses_s:
        await trio.sleep(pause_s)
        await beat.wait()
        moments.append(trio.current_time())
    return moments


@given(per_s=st.integers(1, 100), pauses_s=st.lists(st.floats(0, 3), min_size=2, max_size=20))
def test_no_two_begin_nearer_to_each_other_than_the_rate_allows_however_late_they_come(per_s, pauses_s):
    moments = trio.run(_note_moments, Beat(per_s), pauses_s, clock=MockClock(autojump_threshold=0))
    apart_s = [later - earlier for earlier, later in pairwise(moments)]
    assert min(apart_s) >= 1 / per_s - 1e-6
    # Whoever comes later than that waits for nothing.
    assert all(apart <= max(1 / per_s, pause) + 1e-6 for apart, pause in zip(apart_s, pauses_s[1:], strict=True))


def test_several_that_ask_in_turn_share_the_rate():
    async def run() -> float:
        beat, begun_s = Beat(4), trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_note_moments, beat, [0.0] * 3)
        return trio.current_time() - begun_s

    assert trio.run(run, clock=MockClock(autojump_threshold=0)) == 2.0


def test_without_a_rate_nothing_waits():
    moments = trio.run(_note_moments, Beat(0), [0.0] * 50, clock=MockClock(autojump_threshold=0))
    assert moments[0] == moments[-1]
