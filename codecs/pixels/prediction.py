"""Linear predictions of a pixel by least squares over what surrounds it, compiled by numba.

As in GLICBAWLS (Meyer and Tischer 2001) every pixel has a linear predictor of its own, fitted to the pixels decoded
around it with weights that fall with their distance, and the covariances are carried along by recursion instead of
being summed anew.  A plane is decoded along slanted lines: at time t row y is at column t - SLANT * y, so that all rows
of a line are predicted from what earlier lines hold, independently of each other.  With o(y, x) the outer product of a
pixel's regressors and itself, weighted by the inverse of the local error's square,

    left[y]  = g left[y] + o(y, x)                    along the row, behind each decoded pixel
    above[x] = h above[x] + left[y - 1]               where left[y - 1] has come to column x + SLANT - 1
    normal equations of (y, x): h above[x] + left[y]

Three pairs (g, h) give a near, a middle and a far predictor.  Only + - * / and sqrt on float64 are used, in an order
that no compiler changes (no fastmath, so no fused multiply-add): every machine gets the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLANT = 3
LEFT_DECAY = np.array([0.8, 0.9, 0.98])  # g of the predictors
ABOVE_DECAY = np.array([0.75, 0.87, 0.97])  # h
PREDICTORS = 3
RIDGE = 3.0  # pull towards the usual coefficients
NOISE = 3.0  # added to the squared error whose inverse weights a pixel, in squared grey levels
MARGIN = 3  # rows and columns around the planes of errors
UNKNOWN_ERROR = 3.0  # absolute error, in grey levels, assumed there
MIDDLE = 128.0  # what the first pixel is predicted by

# Regressors (dy, dx) in the plane itself, all decoded before (0, 0), the most useful first ...
CAUSAL = np.array(
    [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1), (0, -3), (-2, 2),
     (-2, -2), (-3, 0), (-1, -3), (-3, 1), (-3, -1), (0, -4)]
)  # fmt: skip
# ... and in a plane that is known everywhere
AROUND = np.array(
    [(0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1), (0, -2), (-2, 0), (0, 2), (2, 0)]
)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's compilation, kept on disk where a folder can be written: beside this file or in the user's cache."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no place for its cache
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
def _causal(plane: Floats, y: int, x: int, dy: int, dx: int) -> float:
    """The pixel at (y + dy, x + dx) or, where the image ends, one near it that is decoded before (y, x)."""
    row, column = y + dy, x + dx
    if row < 0:
        row, column = 0, x - 1 if y == 0 else min(column, x + SLANT - 1)
    if column < 0:
        row, column = min(row, y - 1), 0
    if row < 0:
        return MIDDLE
    return plane[row, min(column, plane.shape[1] - 1)]


@compiled
def gather(planes: Floats, target: int, causal: Ints, around: Ints, y: int, x: int, out: Floats) -> float:
    """Regressors of pixel (y, x) of planes[target] into out [>= N]; returns the mean that has been taken from them.

    causal [A, 2] are offsets (dy, dx) in the target itself, around [B, 3] (plane, dy, dx) in planes known everywhere;
    N = A + B.  From each the mean of its own plane over four decoded neighbours is subtracted, so that no predictor
    depends on brightness.
    """
    rows, columns = planes.shape[1:]
    inside = 3 <= y < rows - 2 and 4 <= x < columns - 4
    own = planes[target]
    count = len(causal)
    for i in range(count):
        if inside:
            out[i] = own[y + causal[i, 0], x + causal[i, 1]]
        else:
            out[i] = _causal(own, y, x, causal[i, 0], causal[i, 1])
    mean = 0.25 * (out[0] + out[1] + out[2] + out[3])
    for i in range(count):
        out[i] -= mean
    last, other_mean = -1, 0.0
    for i in range(len(around)):
        plane = planes[around[i, 0]]
        if around[i, 0] != last:
            last, other_mean = around[i, 0], 0.0
            for k in range(4):
                if inside:
                    other_mean += plane[y + causal[k, 0], x + causal[k, 1]]
                else:
                    other_mean += _causal(plane, y, x, causal[k, 0], causal[k, 1])
            other_mean *= 0.25
        row, column = y + around[i, 1], x + around[i, 2]
        if not inside:
            row, column = min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
        out[count + i] = plane[row, column] - other_mean
    return mean


@compiled
def add_outer(sums: Floats, vector: Floats, weight: float, decay: float) -> None:
    """sums = decay * sums + weight * vector vector^T, its lower triangle row by row in sums [n (n + 1) / 2]."""
    start = 0
    for i in range(len(vector)):
        scale = weight * vector[i]
        for j in range(i + 1):
            sums[start + j] = decay * sums[start + j] + scale * vector[j]
        start += i + 1


@compiled
def solve(sums: Floats, usual: Floats, factor: Floats, out: Floats) -> None:
    """Coefficients out [n] of the normal equations in sums [(n + 1) (n + 2) / 2], pulled towards `usual` [n].

    Cholesky's factorisation by columns, its transpose into factor [n, n]: inner loops run along memory and need no
    sum in a certain order.
    """
    n = len(usual)
    start = 0
    for i in range(n):
        for j in range(i + 1):
            factor[j, i] = sums[start + j]
        factor[i, i] += RIDGE
        start += i + 1
    for i in range(n):
        out[i] = sums[start + i] + RIDGE * usual[i]
    for j in range(n):
        column = factor[j]
        inverse = 1.0 / math.sqrt(max(column[j], 1e-6))
        for i in range(j, n):
            column[i] *= inverse
        column[j] = inverse
        for k in range(j + 1, n):
            scale = column[k]
            row = factor[k]
            for i in range(k, n):
                row[i] -= scale * column[i]
        value = out[j] * inverse
        out[j] = value
        for i in range(j + 1, n):
            out[i] -= value * column[i]
    for j in range(n - 1, -1, -1):
        value = out[j]
        column = factor[j]
        for i in range(j + 1, n):
            value -= column[i] * out[i]
        out[j] = value * column[j]


@compiled
def predict(
    planes: Floats, target: int, causal: Ints, around: Ints, usual: Floats, left: Floats, above: Floats,
    squared: Floats, coefficients: Floats, hold: Ints, first: int, last: int, time: int, regressors: Floats,
    means: Floats, base: Floats,
) -> None:  # fmt: skip
    """Predictions of the pixels of rows first ... last - 1 at `time`, from what has been decoded before.

    left, above  float64 [P, H, M], [P, W, M]: covariances, see the module
    squared      float64 [P, H + 2 MARGIN, W + 2 MARGIN]: squared errors of each predictor
    coefficients float64 [P, H, N]: of the row's pixel, kept for hold[p] pixels
    regressors   float64 [H, N + 1], means [H, P + 1], base [H]: what is written, of the row's pixel: regressors, every
                 prediction and, last, their mean weighted by past errors, and the mean taken from the regressors
    """
    n = len(usual)
    size = left.shape[2]
    factor, sums = np.empty((n, n)), np.empty(size)
    for y in range(first, last):
        x = time - SLANT * y
        base[y] = gather(planes, target, causal, around, y, x, regressors[y])
        total = 0.0
        mean = 0.0
        for p in range(PREDICTORS):
            decay = ABOVE_DECAY[p]
            up, side = above[p, x], left[p, y]
            if y > 0:
                before = left[p, y - 1]
                for k in range(size):
                    up[k] = decay * up[k] + before[k]
            chosen = coefficients[p, y]
            if x % hold[p] == 0:
                for k in range(size):
                    sums[k] = decay * up[k] + side[k]
                solve(sums, usual, factor, chosen)
            value = base[y]
            for k in range(n):
                value += chosen[k] * regressors[y, k]
            value = min(max(value, 0.0), 255.0)
            means[y, p] = value
            e, r, c = squared[p], y + MARGIN, x + MARGIN
            recent = e[r, c - 1] + e[r - 1, c] + 0.5 * (e[r - 1, c - 1] + e[r - 1, c + 1] + e[r, c - 2] + e[r - 2, c])
            weight = 1.0 / (recent + 0.3)
            weight *= weight
            total += weight
            mean += weight * value
        means[y, PREDICTORS] = mean / total


@compiled
def update(
    planes: Floats, target: int, left: Floats, squared: Floats, errors: Floats, first: int, last: int, time: int,
    regressors: Floats, means: Floats, base: Floats, pixels: Ints,
) -> None:  # fmt: skip
    """Take over `pixels` [last - first], the decoded values of rows first ... last - 1 at `time`.

    errors  float64 [3, H + 2 MARGIN, W + 2 MARGIN]: absolute errors of the last of `means`, plane by plane
    """
    n = regressors.shape[1] - 1
    for y in range(first, last):
        x = time - SLANT * y
        r, c = y + MARGIN, x + MARGIN
        pixel = float(pixels[y - first])
        planes[target, y, x] = pixel
        for p in range(PREDICTORS):
            difference = pixel - means[y, p]
            squared[p, r, c] = difference * difference
        e = errors[target]
        e[r, c] = abs(pixel - means[y, PREDICTORS])
        local = 0.25 * (e[r, c] + e[r, c - 1] + e[r - 1, c] + e[r - 1, c + 1])
        weight = 1.0 / (NOISE + local * local)
        regressors[y, n] = pixel - base[y]
        for p in range(PREDICTORS):
            add_outer(left[p, y], regressors[y], weight, LEFT_DECAY[p])
