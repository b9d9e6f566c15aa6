"""Bjøntegaard deltas: the average distance of two rate-quality curves as a rate in % or as a quality difference.

Interpolation is piecewise cubic Hermite (PCHIP) over log10 of the rate, as in the JCT-VC and JVET reporting templates;
the PyPI package `bjontegaard`, whose README states agreement with those templates to ten decimals, gives the expected
values of the tests.  Written out here because it is forty lines and that package needs SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MIN_POINTS = 3


def bd_rate(
    anchor_rate: Sequence[float], anchor_quality: Sequence[float], rate: Sequence[float], quality: Sequence[float]
) -> float | None:
    """Average difference in rate at equal quality, in percent; negative: fewer bits than the anchor.

    Points may come in any order; a point that costs more than another without being better is left out.  None when a
    curve has fewer than three such points or the two have no quality in common.
    """
    anchor, test = _envelope(anchor_rate, anchor_quality), _envelope(rate, quality)
    difference = _mean_difference(anchor[1], anchor[0], test[1], test[0])
    return None if difference is None else (10.0**difference - 1.0) * 100.0


def bd_quality(
    anchor_rate: Sequence[float], anchor_quality: Sequence[float], rate: Sequence[float], quality: Sequence[float]
) -> float | None:
    """Average difference in quality at equal rate, in the units of `quality` (BD-PSNR: dB); None as for bd_rate."""
    anchor, test = _envelope(anchor_rate, anchor_quality), _envelope(rate, quality)
    return _mean_difference(anchor[0], anchor[1], test[0], test[1])


def overlap(anchor_quality: Sequence[float], quality: Sequence[float]) -> tuple[float, float] | None:
    """The range of quality over which :func:`bd_rate` averages, None where there is none."""
    low, high = max(min(anchor_quality), min(quality)), min(max(anchor_quality), max(quality))
    return (low, high) if high > low else None


def _envelope(rate: Sequence[float], quality: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(log10 rate, quality), both strictly increasing."""
    kept: list[tuple[float, float]] = []
    for r, q in sorted(zip(rate, quality, strict=True), key=lambda point: (point[0], -point[1])):
        if r > 0 and math.isfinite(q) and (not kept or (q > kept[-1][1] and r > kept[-1][0])):
            kept.append((r, q))
    points = np.array(kept, dtype=np.float64).reshape(-1, 2)
    return np.log10(points[:, 0]), points[:, 1]


def _mean_difference(x1: np.ndarray, y1: np.ndarray, x2: np.ndarray, y2: np.ndarray) -> float | None:
    """Mean of curve 2 minus curve 1 over their common range of x."""
    if len(x1) < MIN_POINTS or len(x2) < MIN_POINTS:
        return None
    low, high = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    if high <= low:
        return None
    return (_integral(x2, y2, low, high) - _integral(x1, y1, low, high)) / (high - low)


def _integral(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Integral of the PCHIP interpolant of (x, y), x increasing, over [low, high] inside its range."""
    slopes = _pchip_slopes(x, y)
    total = 0.0
    for k in range(len(x) - 1):
        a, b = max(low, x[k]), min(high, x[k + 1])
        if b <= a:
            continue
        h = x[k + 1] - x[k]
        delta = (y[k + 1] - y[k]) / h
        # y(s) = y_k + d_k s + c s^2 + e s^3 on s = x - x_k
        c = (3 * delta - 2 * slopes[k] - slopes[k + 1]) / h
        e = (slopes[k] + slopes[k + 1] - 2 * delta) / h**2
        powers = [(b - x[k]) ** n - (a - x[k]) ** n for n in (1, 2, 3, 4)]
        total += y[k] * powers[0] + slopes[k] * powers[1] / 2 + c * powers[2] / 3 + e * powers[3] / 4
    return float(total)


def _pchip_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fritsch and Butland: weighted harmonic means inside, a shape-preserving three-point formula at the ends."""
    h, delta = np.diff(x), np.diff(y) / np.diff(x)
    slopes = np.zeros_like(y)
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    # the curve is strictly increasing (_envelope), so no difference is zero and none changes its sign
    slopes[1:-1] = (w1 + w2) / (w1 / delta[:-1] + w2 / delta[1:])
    slopes[0] = _end_slope(h[0], h[1], delta[0], delta[1])
    slopes[-1] = _end_slope(h[-1], h[-2], delta[-1], delta[-2])
    return slopes


def _end_slope(h0: float, h1: float, delta0: float, delta1: float) -> float:
    slope = ((2 * h0 + h1) * delta0 - h0 * delta1) / (h0 + h1)
    if slope * delta0 <= 0:
        return 0.0
    if delta0 * delta1 <= 0 and abs(slope) > 3 * abs(delta0):
        return 3 * delta0
    return float(slope)
