"""When a node sees to what has gathered, on a clock that jumps."""

import itertools

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.turns import GATHER_S, GATHER_TIMES, PLENTY, QUIET_S, SEVERAL, Turns


def make_turns(spent_s: float) -> Turns:
    """Turns of a node whose every turn takes so much of its processor's time."""
    return Turns(itertools.count(0.0, spent_s).__next__)


def wait_for_next(
    done: int = SEVERAL, is_more: bool = False, after_s: float = 0.0, hurries: bool = False, spent_s: float = GATHER_S
) -> float:
    """Seconds from a ring, `after_s` seconds after a turn that saw to `done` things, to the next turn."""

    async def main() -> float:
        turns = make_turns(spent_s)
        took: list[float] = []

        async def take_one() -> None:
            await turns.next(done, is_more)
            took.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_one)
            await wait_all_tasks_blocked()
            await trio.sleep(after_s)
            rung_s = trio.current_time()
            turns.ring()
            if hurries:
                turns.hurry()
        return took[0] - rung_s

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_after_a_quiet_moment_what_comes_is_seen_to_at_once() -> None:
    assert wait_for_next(after_s=2 * QUIET_S) == 0


def test_soon_after_a_turn_more_is_gathered_for_a_moment() -> None:
    assert 0 < wait_for_next() <= GATHER_S * 1.001


def test_the_less_the_last_turn_took_the_shorter_is_gathered() -> None:
    assert 0 < wait_for_next(spent_s=GATHER_S / 64) <= GATHER_TIMES * GATHER_S / 64 * 1.001


def test_what_comes_after_one_or_two_is_seen_to_at_once() -> None:
    assert wait_for_next(done=SEVERAL - 1) == 0


def test_a_turn_that_came_at_once_does_not_keep_the_next_from_gathering() -> None:
    async def main() -> float:
        turns = make_turns(GATHER_S)
        ends: list[float] = []

        async def take_two() -> None:
            for _ in range(2):
                await turns.next(SEVERAL, False)
                ends.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_two)
            for after_s in (2 * QUIET_S, QUIET_S / 2):
                await wait_all_tasks_blocked()
                await trio.sleep(after_s)
                rung_s = trio.current_time()
                turns.ring()
        return ends[1] - rung_s

    assert 0 < trio.run(main, clock=MockClock(autojump_threshold=0)) <= GATHER_S * 1.001


def test_whoever_hurries_during_a_turn_has_the_next_at_once() -> None:
    async def main() -> float:
        turns = make_turns(GATHER_S)
        turns.hurry()
        await turns.next(SEVERAL, True)
        turns.hurry()
        began_s = trio.current_time()
        await turns.next(SEVERAL, True)
        return trio.current_time() - began_s

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == 0


def test_a_turn_that_found_plenty_is_followed_at_once() -> None:
    assert wait_for_next(done=PLENTY) == 0


def test_a_turn_that_took_long_is_followed_at_once() -> None:
    assert wait_for_next(spent_s=1.01 * GATHER_S) == 0


def test_what_is_urgent_waits_for_nothing() -> None:
    assert wait_for_next(hurries=True) == 0


def test_two_nodes_of_one_process_gather_until_the_same_moment() -> None:
    async def main() -> None:
        one, other = make_turns(GATHER_S), make_turns(GATHER_S)
        ends: list[float] = []

        async def take_one(turns: Turns) -> None:
            await turns.next(SEVERAL, False)
            ends.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for turns in (one, other):
                nursery.start_soon(take_one, turns)
            await wait_all_tasks_blocked()
            one.ring()
            await trio.sleep(GATHER_S / 2)
            other.ring()
        assert ends[0] == ends[1]

    trio.run(main, clock=MockClock(autojump_threshold=0))
