"""Does it grow? The least-squares slope of samples over time, with bounds that hold though neighbours are alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean

CONFIDENCE = 0.95
LAG_MAX = 0.98  # an estimate of the autocorrelation above this is noise


@dataclass(frozen=True)
class Trend:
    """A slope per unit of time, and the one-sided bounds below and above it. `mean` is that of the samples."""

    slope: float
    lower: float
    upper: float
    mean: float


def fit(
    times: Sequence[float], values: Sequence[float], confidence: float = CONFIDENCE, *, swings_slowly: bool = False
) -> Trend:
    """Fit a line to at least four samples at different times.

    Memory taken at one moment is memory held at the next, so neighbouring samples are not independent and the textbook
    error is far too small. The residuals are taken for a first-order autoregression: with lag-one correlation r, n
    samples are worth n (1 - r) / (1 + r), and so many count, in the error and in the degrees of freedom of Student's t.

    What stays on one side of its line for minutes hides most of r from a short series. For what `swings_slowly` r is
    corrected by (2 + 4 r) / n and has no limit: bounds are wider, and hold. Source: Shaman and Stine, The bias of
    autoregressive coefficient estimators, 1988, with a mean and a trend.

    >>> fit([0, 1, 2, 3], [5, 7, 9, 11]).slope
    2.0
    """
    count = len(times)
    if count < 4:
        raise ValueError("a trend needs at least four samples")
    middle, mean = fmean(times), fmean(values)
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True)) / spread
    residuals = [value - mean - slope * (at - middle) for at, value in zip(times, values, strict=True)]
    squares = sum(residual**2 for residual in residuals)
    worth = max(4.0, count * _compute_share(residuals, squares, swings_slowly))
    error = math.sqrt(squares / (count - 2) / spread * (count / worth))
    margin = compute_student(worth - 2, confidence) * error
    return Trend(slope, slope - margin, slope + margin, mean)


def _compute_share(residuals: Sequence[float], squares: float, swings_slowly: bool) -> float:
    """What a sample is worth beside an independent one."""
    if not squares:
        return 1.0
    lag = sum(a * b for a, b in pairwise(residuals)) / squares
    if swings_slowly:
        lag += (2 + 4 * lag) / len(residuals)
    lag = min(max(lag, 0.0), 1.0 if swings_slowly else LAG_MAX)
    return (1 - lag) / (1 + lag)


def compute_student(freedom: float, confidence: float = CONFIDENCE) -> float:
    """A quantile of Student's t, by its expansion around the normal; at 95 % within 1 % from 2 degrees of freedom up.

    >>> [round(compute_student(n), 2) for n in (3, 10, 100)]
    [2.35, 1.81, 1.66]
    """
    z = NormalDist().inv_cdf(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
