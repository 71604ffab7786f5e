"""The parts of `rolemesh bench inference` that can be tested without a clock: its models and its loads."""

import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from protocol.tensor import Tensor
from roles.engine.session import load_session, run_session
from testnet.bench.inference.load import Outcome, Refusal, ask_at_once, ask_at_rate, ask_in_turn
from testnet.bench.inference.loop_watch import LoopWatch
from testnet.bench.inference.models import OUTPUTS, ROW, STEPS_MAX, build_chain, compute_shape

WORK_S = 0.1


def run(load: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """On virtual time."""

    async def main() -> Outcome:
        return await load()

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def make_server(places: int) -> Callable[[], Awaitable[None]]:
    """Takes WORK_S over a request, one at a time, and turns away whoever finds `places` before it."""
    bench, waiting = trio.CapacityLimiter(1), [0]

    async def ask() -> None:
        if waiting[0] >= places:
            raise Refusal("full")
        waiting[0] += 1
        try:
            async with bench:
                await trio.sleep(WORK_S)
        finally:
            waiting[0] -= 1

    return ask


@pytest.mark.parametrize(("steps", "times"), [(1, 1), (7, 1), (7, 3)])
def test_a_chain_is_a_model_that_nodes_run_and_its_rows_do_not_know_of_each_other(steps: int, times: int):
    session = load_session(build_chain(steps, times))
    rows = np.stack([np.linspace(0, 1, ROW), np.linspace(1, -1, ROW)]).astype("<f4")

    (both,), _ = run_session(session, (Tensor("float32", (2, ROW), rows.tobytes()),))
    (second,), _ = run_session(session, (Tensor("float32", (1, ROW), rows[1].tobytes()),))

    assert both.shape == (2, OUTPUTS)
    found = np.frombuffer(both.data, "<f4").reshape(2, OUTPUTS)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found[1], np.frombuffer(second.data, "<f4"), rtol=1e-4, atol=1e-6)


def test_turning_twice_is_not_turning_at_all_so_numbers_stay_as_large_as_they_are():
    row = (Tensor("float32", (1, ROW), np.linspace(0, 1, ROW, dtype="<f4").tobytes()),)
    none, two, many = (run_session(load_session(build_chain(steps)), row)[0][0].data for steps in (2, 4, 200))

    for data in (two, many):
        np.testing.assert_allclose(np.frombuffer(data, "<f4"), np.frombuffer(none, "<f4"), rtol=1e-3, atol=1e-5)


@given(step_ms=st.floats(1e-4, 1.0), rest_ms=st.floats(0.0, 2.0), wanted_ms=st.floats(0.5, 40.0))
def test_a_chain_takes_as_long_as_it_should_and_is_never_longer_than_a_dispute_can_be_about(
    step_ms: float, rest_ms: float, wanted_ms: float
):
    steps, times = compute_shape(step_ms, rest_ms, wanted_ms)

    assert 1 <= steps <= STEPS_MAX
    assert abs(rest_ms + steps * times * step_ms - wanted_ms) <= times * step_ms or steps == 1


def test_one_after_another_each_takes_its_own_time():
    async def main() -> list[float]:
        return await ask_in_turn(make_server(1), 5)

    taken = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert taken == pytest.approx([WORK_S] * 5)


def test_many_at_once_wait_for_each_other_and_warm_up_does_not_count():
    outcome = run(lambda: ask_at_once(make_server(8), 8, 1.0, 4.0))

    assert outcome.per_s == pytest.approx(1 / WORK_S, rel=0.05)
    assert max(outcome.answered_s) == pytest.approx(8 * WORK_S, rel=0.05)
    assert outcome.refused_s == []


def test_under_three_times_the_load_the_rest_is_refused_and_counted():
    outcome = run(lambda: ask_at_rate(make_server(4), 3 / WORK_S, 1.0, 20.0))

    assert outcome.per_s == pytest.approx(1 / WORK_S, rel=0.05)
    assert len(outcome.refused_s) == pytest.approx(2 * len(outcome.answered_s), rel=0.25)
    assert max(outcome.refused_s) == 0


def test_a_failure_that_is_no_refusal_ends_the_load():
    async def fail() -> None:
        raise ValueError("boom")

    with pytest.raises(ExceptionGroup):
        run(lambda: ask_at_once(fail, 2, 0.0, 1.0))


def test_the_watch_sees_what_holds_up_a_loop_and_not_what_waits():
    async def main() -> tuple[float, float, float]:
        watch = LoopWatch()
        watch.start()
        await trio.sleep(0.01)
        waited_s = watch.max_s
        begun_s = time.thread_time()
        while time.thread_time() < begun_s + 0.2:
            pass
        await trio.sleep(0)
        await trio.sleep(0.001)
        return waited_s, watch.max_s, watch.clock_max_s

    waited_s, held_up_s, by_the_clock_s = trio.run(main)

    assert 0.2 <= held_up_s <= by_the_clock_s
    assert waited_s < held_up_s
