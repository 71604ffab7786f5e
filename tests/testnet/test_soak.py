"""The churn soak: what it calls growth, and a minute of it for real."""

import json
import math
import random
import subprocess
import sys

import pytest

from testnet.bench.soak import MINUTES_STRICT, Samples, judge
from testnet.bench.trend import fit


def make_samples(seconds=900, churned_per_s=7.0, **series):
    """Samples of a node on which nothing grows, but for what is given by name."""
    dice = random.Random(4)
    samples = Samples()
    for second in range(seconds):
        sample = {
            "rss": 1e8 + dice.gauss(0, 2e5),
            "tasks": 100 + dice.gauss(0, 15),
            "descriptors": 30 + dice.gauss(0, 5),
            "blocks": 4e5,
            "churned": churned_per_s * second,
        }
        sizes = {"gossip.retained": 4_096, "host.connections": 15 + dice.gauss(0, 4)}
        for name, grow in series.items():
            (sample if name in sample else sizes)[name.replace("__", ".")] = grow(second)
        samples.add(float(second), {**sample, "sizes": sizes})
    return samples


def test_what_is_flat_does_not_grow():
    verdict = judge(make_samples(), MINUTES_STRICT)

    assert verdict.grew == {}
    assert verdict.rss.upper < 8


@pytest.mark.parametrize(
    ("name", "grow"),
    [
        ("rss", lambda second: 1e8 + second * 1e7 / 3_600),
        ("tasks", lambda second: 100 + second // 20),
        ("descriptors", lambda second: 30 + second // 30),
        ("gossip__retained", lambda second: 3_000 + second),
        ("host__stock", lambda second: second // 10),
    ],
)
def test_what_grows_is_named(name, grow):
    assert list(judge(make_samples(**{name: grow}), MINUTES_STRICT).grew) == [name.replace("__", ".")]


def test_a_short_soak_lets_what_has_a_bound_fill_up_and_nothing_else():
    bounded = {name: lambda second: second for name in ("gossip__retained", "bans__faults")}
    filling = make_samples(host__stock=lambda second: second, **bounded)

    assert list(judge(filling, 1.0).grew) == ["host.stock"]


def test_a_soak_that_hardly_anybody_came_to_shows_nothing():
    assert list(judge(make_samples(churned_per_s=2.0), MINUTES_STRICT).grew) == ["churn"]


def test_a_slope_is_less_certain_when_neighbours_are_alike():
    dice = random.Random(9)
    alike, apart, level = [], [], 0.0
    for _ in range(500):
        level = 0.95 * level + dice.gauss(0, math.sqrt(1 - 0.95**2))
        alike.append(level)
        apart.append(dice.gauss(0, 1))
    times = [float(at) for at in range(500)]

    wide, narrow = (fit(times, values).upper - fit(times, values).slope for values in (alike, apart))

    assert wide > 4 * narrow


def make_swings(dice, seconds=1_080, memory_s=60.0, size=3.0):
    """What wanders about zero by `size` and takes `memory_s` to forget where it was: a heap between two clean-ups."""
    keeps = math.exp(-1 / memory_s)
    level, levels = dice.gauss(0, 1), []
    for _ in range(seconds):
        level = keeps * level + dice.gauss(0, math.sqrt(1 - keeps**2))
        levels.append(size * level)
    return levels


def count_upper_below(bar, slope, memory_s, trials=100):
    """Of so many soaks of 18 minutes whose memory swings and grows by `slope` MB/h: in how many the bound is lower."""
    dice = random.Random(memory_s)
    hours = [second / 3_600 for second in range(1_080)]
    below = 0
    for _ in range(trials):
        swings = make_swings(dice, memory_s=memory_s)
        grown = [100 + slope * at + swing for at, swing in zip(hours, swings, strict=True)]
        below += fit(hours, grown, swings_slowly=True).upper < bar
    return below


@pytest.mark.parametrize("memory_s", [10.0, 60.0, 120.0])
def test_an_upper_bound_is_above_the_true_slope_about_as_often_as_it_says(memory_s):
    assert count_upper_below(0, 0, memory_s) <= 8  # five are meant


@pytest.mark.parametrize("memory_s", [10.0, 60.0, 120.0])
def test_a_leak_of_twenty_megabytes_an_hour_does_not_hide_in_swings(memory_s):
    assert count_upper_below(8, 20, memory_s) <= 5  # though they are far larger than any that were seen


def test_a_heap_that_is_cleaned_up_every_three_minutes_does_not_pass_for_a_leak():
    hours = [second / 3_600 for second in range(1_080)]
    teeth = [100 + second % 170 * 0.01 for second in range(1_080)]  # 1.7 MB, as protobuf has glibc trim its heap

    assert fit(hours, teeth, swings_slowly=True).upper < 8


@pytest.mark.full
@pytest.mark.timeout(180)
def test_a_minute_of_churn_leaves_nothing_behind():
    command = [sys.executable, "-m", "testnet.cli", "bench", "soak", "--minutes", "1", "--json"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=150)

    figures = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"{figures}\n{ended.stderr}"
    assert {figure["name"] for figure in figures} >= {"soak_rss_slope_upper", "soak_tasks_end", "soak_churn"}
