"""Does a node leak while peers come and go? `rolemesh bench soak`.

A node in a process of its own carries the steady traffic of two peers, while ten strangers a second connect with fresh
keys, say a few things and leave: a third politely, a third by reset, a third in the middle of their handshake. Its
memory, tasks, descriptors and everything it remembers by name are sampled once a second.

What is judged comes after a warm-up, in which caches fill up to their bounds: memory by the upper 95 % bound of its
slope (`trend.fit` says how), everything else by whether it grew for certain and by more than it swings.
"""

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from testnet.bench.figures import Figure, Note, compare
from testnet.bench.trend import Trend, fit

MINUTES_MIN = 0.5
START_S = 60.0
TELL_S = 10.0
WARM_SHARE = 0.4  # of the whole; of half an hour twelve minutes:
FILL_SHARE = 0.6  # of those seven fill the 4,096 places of bans and scores, and five are as what is judged
MINUTES_STRICT = 20.0  # in a shorter soak those are still filling up: they may grow, and memory with them
RSS_MB_PER_H = 8.0
RSS_MB_PER_H_SHORT = 400.0  # 4,096 remembered peers of a few KB each, come in ten minutes
CONFIDENCE_EACH = 1 - 0.05 / 40  # of each name: of some forty flat ones, one passes for growing in a run of twenty
MET_PER_S = 20 / 3  # two thirds of ten finish their handshake
CHURN_SHARE = 0.9  # of them, at least, must have come for the rest to mean anything
SWING = 0.10  # of the mean, and
SWING_COUNT = 8  # so many more: growth within that is none
FILLING = (
    "bans.places",
    "bans.faults",  # each for five minutes
    "gossip.retained",
    "gossip.groups",
    "host.stream_buckets",
    "gossip.seen",
    "gossip.backoffs",
)


@dataclass
class Samples:
    """What was seen of the node, one entry a second, and the last word of the others."""

    times_s: list[float] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    steady: Mapping[str, Any] = field(default_factory=dict)
    churn: Mapping[str, Any] = field(default_factory=dict)

    def add(self, at_s: float, sample: Mapping[str, Any]) -> None:
        self.times_s.append(at_s)
        counts = {name: value for name, value in sample.items() if name != "sizes"}
        for name, value in {**counts, **sample["sizes"]}.items():
            self.series.setdefault(name, []).append(value)

    def since(self, at_s: float) -> "Samples":
        """The part after a warm-up."""
        first = next((index for index, time_s in enumerate(self.times_s) if time_s >= at_s), len(self.times_s))
        series = {name: values[first:] for name, values in self.series.items()}
        return Samples(self.times_s[first:], series, self.steady, self.churn)


@dataclass(frozen=True)
class Verdict:
    """What grew, by name, with what was seen of it."""

    grew: Mapping[str, str]
    rss: Trend  # in MB and hours
    seconds: float  # judged
    figures: tuple[Figure, ...]


def judge(samples: Samples, minutes: float) -> Verdict:
    """Look at samples from after the warm-up."""
    hours = [at_s / 3_600 for at_s in samples.times_s]
    rss = fit(hours, [value / 1e6 for value in samples.series["rss"]], swings_slowly=True)
    is_strict = minutes >= MINUTES_STRICT
    bar = RSS_MB_PER_H if is_strict else RSS_MB_PER_H_SHORT
    grew = {}
    if rss.upper >= bar:
        grew["rss"] = f"{rss.slope:+.1f} MB/h, at most {rss.upper:.1f}; the bar is {bar:.0f}"
    for name in find_grown(hours, samples.series):
        if is_strict or name not in FILLING:
            grew[name] = f"{samples.series[name][0]:.0f} -> {samples.series[name][-1]:.0f}"
    seconds = samples.times_s[-1] - samples.times_s[0]
    if _rate(samples, "churned", seconds) < CHURN_SHARE * MET_PER_S:
        grew["churn"] = "too few peers came: the machine is too busy for this to show anything"
    figures = (
        compare("soak_rss_slope_upper", rss.upper, "MB/h", "bar", bar),
        compare("soak_rss_slope", rss.slope, "MB/h", "bar", bar),
        *(_compare_ends(name, samples.series[name]) for name in ("rss", "tasks", "descriptors", "blocks")),
        compare("soak_churn", _rate(samples, "churned", seconds), "peers/s", "target", MET_PER_S),
        compare("soak_steady_heard", *_compute_heard(samples.steady)),
    )
    return Verdict(grew, rss, seconds, figures)


def find_grown(hours: Sequence[float], series: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of what surely grew: tasks, descriptors and sizes, not what counts up by its nature."""
    return [
        name for name in series if ("." in name or name in ("tasks", "descriptors")) and _has_grown(hours, series[name])
    ]


def _has_grown(hours: Sequence[float], values: Sequence[float]) -> bool:
    trend = fit(hours, values, CONFIDENCE_EACH)
    swing = max(SWING * trend.mean, SWING_COUNT)
    return trend.lower * (hours[-1] - hours[0]) > 0 and trend.slope * (hours[-1] - hours[0]) > swing


def _compare_ends(name: str, values: Sequence[float]) -> Figure:
    scale, unit = (1e6, "MB") if name == "rss" else (1, "")
    tenth = max(1, len(values) // 10)
    first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
    return compare(f"soak_{name}_end", last / scale, unit, "after warm-up", first / scale)


def _rate(samples: Samples, name: str, seconds: float) -> float:
    return (samples.series[name][-1] - samples.series[name][0]) / seconds


def _compute_heard(steady: Mapping[str, Any]) -> tuple[float, str, str, float]:
    # Each of the two hears what the other publishes.
    return float(steady.get("heard", 0)), "messages", "published", float(steady.get("published", 0))


# Running it


class PartEnded(Exception):
    """A process of the soak ended by itself, or never began: the node did not survive, or another has a fault."""


class Part:
    """A process of the soak. `last` is the last object it printed."""

    def __init__(self, name: str, process: trio.Process) -> None:
        assert process.stdout is not None
        self.last: Mapping[str, Any] = {}
        self._name = name
        self._process = process
        self._stdout = process.stdout

    async def read_lines(self) -> AsyncGenerator[str, None]:
        """Lines as they come, until cancelled. Raises PartEnded."""
        rest = b""
        async for chunk in self._stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode()
        raise PartEnded(f"the {self._name} process ended by itself, with code {await self._process.wait()}")

    async def follow(self) -> None:
        """Keep `last` up to date until cancelled."""
        async with aclosing(self.read_lines()) as lines:
            async for line in lines:
                self.last = json.loads(line)


@asynccontextmanager
async def open_part(name: str, *args: str) -> AsyncIterator[tuple[Part, list[str]]]:
    """A running process and the words of its first line."""
    command = [sys.executable, "-m", "testnet.bench.soak_parts", name, *args]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        part = Part(name, process)
        head: list[str] = []
        with trio.move_on_after(START_S):
            async with aclosing(part.read_lines()) as lines:
                head = (await anext(lines)).split()
        if not head:
            raise PartEnded(f"the {name} process did not start within {START_S:.0f} s")
        yield part, head
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def soak(minutes: float, seed: int, note: Note) -> Samples:
    """Run it for so many minutes. Raises PartEnded."""
    samples = Samples()
    fill_s = str(FILL_SHARE * WARM_SHARE * 60 * minutes)
    async with AsyncExitStack() as stack:
        node, target = await stack.enter_async_context(open_part("node", str(seed)))
        steady, _ = await stack.enter_async_context(open_part("steady", str(seed), *target[:2], fill_s))
        churn, _ = await stack.enter_async_context(open_part("churn", str(seed), *target[:2], fill_s))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(steady.follow)
            nursery.start_soon(churn.follow)
            with trio.move_on_after(60 * minutes):
                await _watch(node, samples, minutes, note)
            nursery.cancel_scope.cancel()
        samples.steady, samples.churn = steady.last, churn.last
    return samples


async def _watch(node: Part, samples: Samples, minutes: float, note: Note) -> None:
    began_s = next_s = trio.current_time()
    async with aclosing(node.read_lines()) as lines:
        async for line in lines:
            now_s = trio.current_time()
            samples.add(now_s - began_s, json.loads(line))
            if now_s >= next_s:
                next_s = now_s + TELL_S
                note(_describe(samples, minutes))


def _describe(samples: Samples, minutes: float) -> str:
    latest = {name: values[-1] for name, values in samples.series.items()}
    at_s = samples.times_s[-1]
    phase = "warm-up" if at_s < WARM_SHARE * 60 * minutes else "judged"
    return (
        f"{at_s / 60:5.1f} of {minutes:g} min, {phase}: {latest['churned']} came, RSS {latest['rss'] / 1e6:.1f} MB, "
        f"{latest['tasks']} tasks, {latest['descriptors']} descriptors, {latest['host.connections']} connections"
    )


def measure(minutes: float, seed: int, note: Note) -> Verdict:
    """Soak and judge. Raises PartEnded."""
    try:
        samples = trio.run(soak, minutes, seed, note)
    except BaseExceptionGroup as group:
        raise _unwrap(group) from group
    return judge(samples.since(WARM_SHARE * 60 * minutes), minutes)


def _unwrap(error: BaseException) -> BaseException:
    """What happened first: an interrupt or a PartEnded should look like one, however many nurseries it passed."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
