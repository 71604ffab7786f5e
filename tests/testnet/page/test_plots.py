"""Scales, ticks and marks of plots: whatever the values, they stay inside and can be read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testnet.page.axis import Axis
from testnet.page.markup import element
from testnet.page.plots import (
    PLOT_HEIGHT,
    PLOT_WIDTH,
    TICKS,
    Band,
    Line,
    draw_plot,
    draw_ticks,
    make_decades,
    make_linear,
)

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
    axis = Axis(0)
    axis.find_bin(length_ms)

    places = [float(place) for place in re.findall(r"left:([\d.]+)%", draw_ticks(axis))]
    assert places[0] == 0
    assert places == sorted(set(places))
    assert places[-1] < 100
    assert len(places) <= TICKS + 1


@given(st.dictionaries(st.integers(0, 99), VALUES, min_size=1), st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_nothing_is_drawn_beside_a_plot(points: dict[int, float], begin_ms: int, long_ms: int) -> None:
    axis = Axis(0)
    axis.find_bin(99 * axis.width_ms)
    scale = make_linear(max(points.values()), "{:g}".format)
    band = Band("", "a fault", begin_ms, begin_ms + long_ms)

    drawn = draw_plot("Requests", axis, [Line("sent", "a", sorted(points.items()))], scale, [band], lambda at: str(at))

    for x, y in re.findall(r"([\d.-]+),([\d.-]+)", " ".join(re.findall(r'points="([^"]*)"', drawn))):
        assert 0 <= float(x) <= PLOT_WIDTH
        assert 0 <= float(y) <= PLOT_HEIGHT
    rects = re.findall(r'x="([\d.-]+)" y="0" width="([\d.-]+)"', drawn)
    assert rects
    assert all(float(x) >= 0 and float(x) + float(width) <= PLOT_WIDTH + 1 for x, width in rects)


def test_a_lonely_value_is_still_seen() -> None:
    axis = Axis(0)
    axis.find_bin(1_000)
    drawn = draw_plot("Latency", axis, [Line("p50", "a", [(2, 7.0)])], make_linear(10, str), [], lambda at: "")

    assert re.findall(r'points="([^"]*)"', drawn)[0].count(",") == 2


@given(st.text(), st.text())
def test_text_never_becomes_markup(text: str, value: str) -> None:
    made = element("p", text, title=value)

    assert made.count("<") == made.count(">") == 2
    assert made.count('"') == 2
