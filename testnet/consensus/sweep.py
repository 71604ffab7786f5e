"""Try validators on many seeds, say what was in them, and make less of the weather in which something went wrong."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from testnet.consensus.found import Found
from testnet.consensus.network import HEIGHTS, Agreement
from testnet.consensus.token import Run, format_token
from testnet.consensus.weather import Weather, draw_weather, list_milder

TRIES_MAX = 60  # runs to make less of a weather
# What a long sweep must have in it, in percent of its seeds: without it the sweep shows little.
REQUIRED: Mapping[str, int] = {
    "with_partition": 30,
    "with_crash_and_restart": 30,
    "with_lying_proposer": 20,
    "with_view_change_after_heal": 10,
}
JUDGED_MIN = 200  # seeds, below which shares say nothing


@dataclass(eq=False)  # nor frozen: whatever an exception passes through notes its traceback in it
class Failed(Exception):
    """A run that broke a promise. `milder` is the least weather found in which the same goes wrong."""

    seed: int
    what: str
    weather: Weather
    milder: Weather
    last_events: tuple[str, ...]
    token: str


@dataclass
class Sweep:
    """What many runs had in them, and that none of them failed."""

    seeds: int = 0
    heights: int = 0
    heights_min: int = 0
    transactions: int = 0
    events: int = 0
    with_partition: int = 0
    with_crash_and_restart: int = 0
    with_power_loss: int = 0
    with_torn_log: int = 0
    with_lost_log: int = 0
    with_skewed_clock: int = 0
    with_bad_link: int = 0
    with_liar: int = 0
    with_lying_proposer: int = 0
    with_view_change: int = 0
    with_view_change_after_heal: int = 0
    with_guilt_shown: int = 0
    with_real_keys: int = 0
    with_slashing: int = 0

    def add(self, run: Agreement) -> None:
        found, weather = run.found, run.weather
        height = run.tip.height
        self.heights_min = min(self.heights_min, height) if self.seeds else height
        self.seeds += 1
        self.heights += height
        self.transactions += found.transactions
        self.events += found.events
        self.with_partition += found.partitions > 0
        self.with_crash_and_restart += found.crashes > 0 and found.restarts > 0
        self.with_power_loss += found.has_power_loss
        self.with_torn_log += found.torn > 0
        self.with_lost_log += found.forgotten > 0
        self.with_skewed_clock += bool(weather.skews)
        self.with_bad_link += bool(weather.faults.links)
        self.with_liar += bool(weather.liars)
        self.with_lying_proposer += found.has_lying_proposer
        self.with_view_change += found.has_view_change
        self.with_view_change_after_heal += found.has_late_view_change
        self.with_guilt_shown += bool(found.accused)
        self.with_real_keys += weather.has_real_keys
        self.with_slashing += found.slashed > 0

    def merge(self, sums: Mapping[str, Any]) -> None:
        """Add what another sweep has counted."""
        had_seeds = self.seeds > 0
        for each in fields(self):
            if each.name != "heights_min":
                setattr(self, each.name, getattr(self, each.name) + sums[each.name])
        if sums["seeds"]:
            self.heights_min = min(self.heights_min, sums["heights_min"]) if had_seeds else sums["heights_min"]

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def find_missing(self) -> list[str]:
        """What there was too little of in these seeds; nothing when they are too few to tell."""
        missing = [f"{self.heights_min} heights in one seed, not {HEIGHTS}"] if self.heights_min < HEIGHTS else []
        if self.seeds >= JUDGED_MIN:
            for name, percent in REQUIRED.items():
                if 100 * getattr(self, name) < percent * self.seeds:
                    missing.append(f"{name.replace('_', ' ')}: {getattr(self, name)} of {self.seeds}, not {percent} %")
        return missing


def sweep(seeds: Iterable[int]) -> Sweep:
    """Run these. Failed for the first seed that forks, stands still in the calm, loses a grain or blames the honest."""
    sums = Sweep()
    for seed in seeds:
        run = Agreement(seed, draw_weather(seed))
        if run.run().violations:
            raise explain(seed, run)
        sums.add(run)
    return sums


def explain(seed: int, run: Agreement) -> Failed:
    """A failed run with the least weather in which the same still happens."""
    least = run
    tries = 0
    is_shrunk = True
    while is_shrunk and tries < TRIES_MAX:
        is_shrunk = False
        for milder in list_milder(least.weather):
            tries += 1
            other = Agreement(seed, milder)
            if get_kind(other.run()) == get_kind(run.found):
                least, is_shrunk = other, True
                break
            if tries >= TRIES_MAX:
                break
    token = format_token(Run(seed, least.weather, least.found.events, least.trace))
    return Failed(seed, run.found.violations[0], run.weather, least.weather, least.describe_last(), token)


def get_kind(found: Found) -> str:
    """What went wrong, without the numbers of this very run."""
    return " ".join(found.violations[0].split()[:2]) if found.violations else ""
