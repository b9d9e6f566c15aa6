"""Bjøntegaard deltas: the average distance of two rate-quality curves as a rate in % or as a quality difference.

Interpolation is piecewise cubic Hermite (PCHIP) over log10 of the rate, as in the JCT-VC and JVET reporting templates;
the PyPI package `bjontegaard`, whose README states agreement with those templates to ten decimals, gives the expected
values of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

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
    areas = [float(PchipInterpolator(x, y).integrate(low, high)) for x, y in ((x1, y1), (x2, y2))]
    return (areas[1] - areas[0]) / (high - low)
