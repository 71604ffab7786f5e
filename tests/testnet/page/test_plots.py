"""Scales, ticks and marks of plots: whatever the values, they stay inside and can be read."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testnet.page.axis import Axis
from testnet.page.markup import element
from testnet.page.plots import PLOT_HEIGHT, PLOT_WIDTH, Bar, Line, draw_plot, draw_row, list_bars
from testnet.page.scales import TICKS, list_ticks, make_decades, make_linear

VALUES = st.floats(0, 1e12)


@given(st.lists(VALUES, min_size=1))
def test_every_value_has_its_place_on_a_linear_scale_in_order(values: list[float]) -> None:
    scale = make_linear(max(values), "{:g}".format)

    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1.000_001
    assert 2 <= len(scale.labels) <= 4
    assert [scale.place(value) for value, _ in scale.labels] == sorted(
        {scale.place(value) for value, _ in scale.labels}
    )


@given(st.lists(st.floats(1, 1e9), min_size=1))
def test_every_value_has_its_place_on_a_scale_of_decades_in_order(values: list[float]) -> None:
    scale = make_decades(min(values), max(values), "{:g}".format)

    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert -1e-9 <= places[0] <= places[-1] <= 1 + 1e-9
    assert scale.place(scale.labels[0][0]) == 0
    assert scale.place(scale.labels[-1][0]) == pytest.approx(1)


@given(st.integers(1, 10**10))
def test_ticks_are_few_and_on_the_axis(length_ms: int) -> None:
    ticks = list_ticks(length_ms)

    shares = [share for share, _ in ticks]
    assert shares[0] == 0
    assert shares == sorted(set(shares))
    assert shares[-1] < 1
    assert len(ticks) <= TICKS + 1
    assert len({word for _, word in ticks}) == len(ticks), "each says another time"


SHARES = st.floats(-2, 3)
POINTS = st.dictionaries(st.integers(0, 99), VALUES, min_size=1, max_size=20)


def make_axis() -> Axis:
    """Of a hundred bins."""
    axis = Axis(0)
    axis.find_bin(99 * axis.width_ms)
    return axis


@given(POINTS, SHARES, SHARES, st.booleans(), st.booleans())
def test_nothing_is_drawn_beside_a_plot(
    points: dict[int, float], begin: float, end: float, has_gaps: bool, is_area: bool
) -> None:
    scale = make_linear(max(points.values()), "{:g}".format)
    line = Line("sent", "a", points, has_gaps, is_area)

    drawn = draw_plot("Requests", make_axis(), [line], scale, [Bar(begin, end, "band", "a fault")], str)

    marks = [mark.split(",") for each in re.findall(r'points="([^"]*)"', drawn) for mark in each.split(" ")]
    assert len(marks) >= len(points)
    assert all(0 <= float(x) <= PLOT_WIDTH and 0 <= float(y) <= PLOT_HEIGHT for x, y in marks)
    rects = re.findall(r'x="([\d.-]+)" y="0" width="([\d.-]+)"', drawn)
    assert len(rects) == 1 + len(points), "the fault, and what the mouse is told"
    assert all(float(x) >= 0 and 0 < float(width) <= PLOT_WIDTH + 1 - float(x) for x, width in rects)


def test_a_lonely_value_is_a_dot_and_a_short_silence_no_gap() -> None:
    points = {2: 7.0, 20: 1.0, 23: 2.0, 60: 1.0, 61: 1.0}
    drawn = draw_plot("Latency", make_axis(), [Line("p50", "a", points)], make_linear(10, str), [], str)

    lines = re.findall(r'<polyline points="([^"]*)" class="([^"]*)"', drawn)
    assert [(marks.count(","), tone) for marks, tone in lines] == [(2, "line dot a"), (2, "line a"), (2, "line a")]


@given(st.lists(st.sampled_from(["", "step", "late"]), min_size=1, max_size=30))
def test_a_row_of_cells_is_as_long_as_its_cells(cells: list[str]) -> None:
    bars = list_bars(cells)

    for tone in ("step", "late"):
        length = sum(bar.end - bar.begin for bar in bars if bar.tone == tone)
        assert length == pytest.approx(cells.count(tone) / len(cells))
    assert all(one.end <= other.begin for one, other in pairwise(bars))


def test_a_moment_is_still_seen_at_either_end_of_a_row() -> None:
    drawn = draw_row("client-0", [Bar(0.0, 0.0, "way"), Bar(1.0, 1.0, "back"), Bar(-1.0, 9.0, "run")], "7 ms")

    bars = re.findall(r'x="([\d.]+)" y="0" width="([\d.]+)"', drawn)
    assert [(float(x), float(width)) for x, width in bars] == [(0, 4), (996, 4), (0, 1_000)]
    assert "7 ms" in drawn


@given(st.text(), st.text())
def test_text_never_becomes_markup(text: str, value: str) -> None:
    made = element("p", text, title=value)

    assert made.count("<") == made.count(">") == 2
    assert made.count('"') == 2
