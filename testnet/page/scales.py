"""Scales and ticks of plots: which values get a word beside them, and where each has its place."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TICKS = 5
TICK_SHARE_MAX = 0.93  # a word further right would not fit
TICK_STEPS_MS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000),
    *(600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 43_200_000),
)
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Scale:
    """A vertical axis. `place` maps a value to 0 … 1, `labels` are values with their words."""

    place: Callable[[float], float]
    labels: Sequence[tuple[float, str]]


def make_linear(top: float, write: Callable[[float], str]) -> Scale:
    """From 0 to a round number at or above `top`.

    >>> [word for _, word in make_linear(37, "{:.0f}".format).labels]
    ['0', '20', '40']
    """
    step = round_up(max(top, 1e-9) / 2)
    upper = step * max(1, math.ceil(max(top, 1e-9) / step))
    count = round(upper / step)
    return Scale(lambda value: value / upper, [(step * each, write(step * each)) for each in range(count + 1)])


def make_decades(low: float, high: float, write: Callable[[float], str]) -> Scale:
    """Powers of ten from below `low` to above `high`; both above 0.

    >>> [word for _, word in make_decades(30, 2_000, "{:.0f}".format).labels]
    ['10', '100', '1000', '10000']
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(max(high, low * 1.01)))
    span = max(1, last - first)
    labels = [(10.0**power, write(10.0**power)) for power in range(first, first + span + 1)]
    return Scale(lambda value: (math.log10(max(value, 10.0**first)) - first) / span, labels)


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ….

    >>> round_up(3), round_up(0.07), round_up(50)
    (5, 0.1, 50)
    """
    power = 10.0 ** math.floor(math.log10(value))
    step = next(step for step in (1, 2, 5, 10) if step * power >= value * 0.999_999)
    return round(step * power, 10) if power < 1 else int(step * power)


def list_ticks(length_ms: float) -> list[tuple[float, str]]:
    """Round times from 0 on, few enough to read, as shares of a length.

    >>> list_ticks(3_232)
    [(0.0, '0'), (0.3094, '1 s'), (0.6188, '2 s'), (0.9282, '3 s')]
    """
    days_ms = DAY_MS * math.ceil(length_ms / DAY_MS / TICKS)
    step_ms = next((step for step in TICK_STEPS_MS if length_ms / step <= TICKS), days_ms)
    times = range(0, int(length_ms * TICK_SHARE_MAX) + 1, step_ms)
    return [(round(at / length_ms, 4), format_time(at) if at else "0") for at in times]


def format_time(time_ms: float) -> str:
    """Since the start of something, to what a clock shows.

    >>> format_time(20), format_time(1_500), format_time(7_000), format_time(90_000), format_time(3_660_000)
    ('20 ms', '1.5 s', '7 s', '1:30', '1:01:00')
    """
    if time_ms < 60_000:
        return format_ms(time_ms)
    whole = round(time_ms / 1_000)
    hours, rest = divmod(whole, 3_600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def format_ms(time_ms: float) -> str:
    """How long something took, to three digits.

    >>> format_ms(7), format_ms(1_995), format_ms(12_340)
    ('7 ms', '2 s', '12.3 s')
    """
    if time_ms < 1_000:
        return f"{time_ms:.0f} ms"
    return f"{time_ms / 1_000:.3g} s" if time_ms < 1_000_000 else f"{time_ms / 1_000:.0f} s"
