"""The time axis of a report, whose bins merge as a run grows longer, and distributions in bounded room."""

import math

from hypothesis import given
from hypothesis import strategies as st

from testnet.page.axis import BINS_MAX, WIDTH_MS_MIN, Axis
from testnet.page.histogram import Histogram

TIMES = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6)), min_size=1, max_size=60)


@given(TIMES)
def test_no_bin_is_lost_or_counted_twice_when_bins_merge(points: list[tuple[int, int]]) -> None:
    axis = Axis(0)
    series = axis.sums()
    for time_ms, value in points:
        series.put(time_ms, value)

    assert sum(value for _, value in series) == sum(value for _, value in points)
    assert all(0 <= index <= axis.last < BINS_MAX for index, _ in series)
    assert axis.width_ms % WIDTH_MS_MIN == 0
    assert axis.end_ms > max(time_ms for time_ms, _ in points)
    assert {index for index, _ in series} == {time_ms // axis.width_ms for time_ms, _ in points}


@given(TIMES)
def test_of_a_bin_the_latest_value_counts_however_wide_it_grew(points: list[tuple[int, int]]) -> None:
    axis, points = Axis(0), sorted(points)
    series = axis.lasts()
    for time_ms, value in points:
        series.put(time_ms, value)

    assert dict(series) == {time_ms // axis.width_ms: value for time_ms, value in points}


@given(TIMES)
def test_distributions_merge_as_their_bins_do(points: list[tuple[int, int]]) -> None:
    axis = Axis(0)
    series = axis.histograms()
    for time_ms, value in points:
        series.open(time_ms, Histogram).add(value)

    whole = Histogram()
    for _, value in points:
        whole.add(value)
    assert sum((histogram for _, histogram in series), Histogram()) == whole


def test_what_was_before_the_start_is_in_the_first_bin() -> None:
    assert Axis(5_000).find_bin(1) == 0


@given(st.lists(st.integers(0, 10**7), min_size=1), st.sampled_from((1, 50, 95, 99, 100)))
def test_a_percentile_is_at_most_one_bucket_off(values: list[int], percent: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)

    exact = sorted(values)[math.ceil(percent * len(values) / 100) - 1]
    assert exact <= histogram.compute_percentile(percent) + 1
    assert histogram.compute_percentile(percent) <= 1.022 * exact


def test_of_no_values_a_percentile_is_0() -> None:
    assert Histogram().compute_percentile(99) == 0
