"""Load on whatever answers requests: one after another, so many at once, or at moments of its own."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

Ask = Callable[[], Awaitable[None]]  # one request; raises Refusal when it is turned away


class Refusal(Exception):
    """The request was turned away. Any other failure is the benchmark's end."""


@dataclass
class Outcome:
    """What came of a load; times in seconds."""

    took_s: float = 0.0
    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.answered_s) / self.took_s


async def ask_in_turn(ask: Ask, count: int) -> list[float]:
    """Seconds of each of so many requests, one after another."""
    taken: list[float] = []
    for _ in range(count):
        begun_s = trio.current_time()
        await ask()
        taken.append(trio.current_time() - begun_s)
    return taken


async def ask_at_once(ask: Ask, concurrency: int, warm_s: float, seconds: float) -> Outcome:
    """So many under way at any time. What was answered in the first `warm_s` does not count."""
    outcome = Outcome(took_s=seconds)
    begun_s = trio.current_time() + warm_s

    async def ask_again_and_again() -> None:
        while trio.current_time() < begun_s + seconds:
            await _ask_once(ask, outcome, begun_s, begun_s + seconds)

    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(ask_again_and_again)
    return outcome


async def ask_at_rate(ask: Ask, per_s: float, warm_s: float, seconds: float) -> Outcome:
    """Requests at moments of their own, so many a second, whatever comes of them. Answers within the time count."""
    outcome = Outcome(took_s=seconds)
    dice = random.Random(1)
    due_s = trio.current_time()
    begun_s = due_s + warm_s
    async with trio.open_nursery() as nursery:
        while due_s < begun_s + seconds:
            await trio.sleep(max(0.0, due_s - trio.current_time()))
            nursery.start_soon(_ask_once, ask, outcome, begun_s, begun_s + seconds)
            due_s += dice.expovariate(per_s)
    return outcome


async def _ask_once(ask: Ask, outcome: Outcome, first_s: float, last_s: float) -> None:
    begun_s = trio.current_time()
    try:
        await ask()
        taken = outcome.answered_s
    except Refusal:
        taken = outcome.refused_s
    ended_s = trio.current_time()
    if first_s <= ended_s < last_s:
        taken.append(ended_s - begun_s)
