"""Try the agreement of validators on many seeds, and say what was in them."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from testnet.consensus_liars import KINDS
from testnet.consensus_sim import Agreement, Weather


def draw_weather(seed: int) -> tuple[int, Weather]:
    """How many validators, and what goes wrong, for a seed: not everything in every run."""
    rng = random.Random(f"weather/{seed}")
    count = rng.choice((4, 4, 7))
    liars_max = (count - 1) // 3
    liars = rng.randrange(1, liars_max + 1) if rng.random() < 0.6 else 0
    weather = Weather(
        loss=rng.choice((0.0, 0.05, 0.2, 0.3)),
        duplicate=rng.choice((0.0, 0.05, 0.2)),
        crash=rng.choice((0.0, 0.0, 0.02, 0.05, 0.15)),
        partitions=rng.random() < 0.6,
        liars=tuple(rng.choice(KINDS) for _ in range(liars)),
    )
    return count, weather


@dataclass(frozen=True)
class Failed(Exception):
    """A run that broke a promise."""

    seed: int
    what: str
    weather: Weather


@dataclass
class Sweep:
    """What many runs had in them, and that none of them failed."""

    seeds: int = 0
    heights: int = 0
    events: int = 0
    with_partition: int = 0
    with_crash: int = 0
    with_liar: int = 0
    with_lying_proposer: int = 0
    with_view_change: int = 0
    with_view_change_after_heal: int = 0
    with_guilt_shown: int = 0


def sweep(seeds: Iterable[int], heights: int = 5) -> Sweep:
    """Run these seeds. Failed for the first that forks, stands still after the calm, or blames an honest validator."""
    found = Sweep()
    for seed in seeds:
        count, weather = draw_weather(seed)
        run = Agreement(seed, count, heights, weather)
        run.run()
        what = find_fault(run)
        if what:
            raise Failed(seed, what, weather)
        found.seeds += 1
        found.heights += max(len(seat.decided) for seat in run.honest)
        found.events += run.events
        found.with_partition += run.has_partition
        found.with_crash += run.crashes > 0
        found.with_liar += bool(weather.liars)
        found.with_lying_proposer += run.has_lying_proposer
        found.with_view_change += any(item.ballot.view > 1 for seat in run.honest for item in seat.decided)
        found.with_view_change_after_heal += run.has_late_view_change
        found.with_guilt_shown += bool(run.accusations)
    return found


def find_fault(run: Agreement) -> str:
    """What must not be in a run whose liars are no more than a third; empty when it is not."""
    if run.find_forks():
        return "a fork"
    if not run.is_done:
        return "a stall"
    blamed = run.find_guilty() & {seat.key for seat in run.honest}
    return f"honest validators are accused: {', '.join(sorted(key.hex()[:8] for key in blamed))}" if blamed else ""
