"""Linear predictions of a pixel by least squares over what surrounds it, compiled by numba.

As in GLICBAWLS (Meyer and Tischer 2001) every pixel has linear predictors of its own, fitted to the pixels decoded
around it with weights that fall with their distance, and the covariances are carried along by recursion instead of
being summed anew.  A plane is decoded along slanted lines: at time t row y is at column t - SLANT * y, so that all rows
of a line are predicted from what earlier lines hold, independently of each other, sixteen at a time (lanes.py).  With
o(y, x) the outer product of a pixel's regressors and itself, weighted by the inverse of the local error's square,

    left[y]  = g left[y] + o(y, x)                        along the row, behind each decoded pixel
    above[y] = h above[y - 1] + left[y - 1]               of the row before, as it was and is in the same column
    normal equations of (y, x): h above[y] + left[y]

for several windows (g, h).  A window of stride 2 does so with every other pixel of every other row, those that have
the same place in a grid of 2 x 2 pixels: colours that were once stored at half the resolution repeat with it.

Cholesky's factorisation L L^T of the normal equations, with their right-hand side and the regressors u of the pixel as
two more rows, gives z = L^-1 b and v = L^-1 u; the prediction by the first k regressors alone is z v summed over
them, so that a window has predictions of several orders for the work of one.  |v|^2 says how unusual u is.

Only + - * / and sqrt on float32 and float64 are used, in an order that no compiler changes (no fastmath, so no fused
multiply-add): every machine gets the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...kernels.viterbi_numba import compiled
from .lanes import (
    LANES,
    add_product,
    divide_by_root,
    statistics_of_all,
    statistics_of_phase,
    subtract,
    subtract4,
)

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLANT = 3
MARGIN = 4  # rows and columns around every plane
RIDGE = np.float32(3.0)  # pull towards the usual coefficients
NOISE = np.float32(3.0)  # added to the squared error whose inverse weights a pixel, in squared grey levels
UNKNOWN_ERROR = 3.0  # absolute error, in grey levels, assumed in margins
MIDDLE = np.float32(128.0)  # what the first pixel is predicted by
RING = 3  # regressors are kept for so many times
_ZERO, _HALF, _QUARTER, _ONE = np.float32(0), np.float32(0.5), np.float32(0.25), np.float32(1)
_TINY, _WHITE = np.float32(0.3), np.float32(255)


class Plan(NamedTuple):
    """What is fixed for a plane with n regressors, J windows and Q orders.

    target    the plane; height, width of the image
    offsets   int64 [n], places of the regressors in the planes [C, H + 2 MARGIN, W + 2 MARGIN], flat, from the pixel's
              place in plane 0; planes int64 [n], the plane of each
    usual     float32 [n], coefficients of a usual predictor
    orders    int64 [Q], ascending, the last is n
    columns   int64 [n + 1], where a column of the statistics begins: rows k ... n of column k, n the right-hand side;
              solving int64 [n + 1] the same with one row more
    strides   int64 [J]; left_decays, above_decays float32 [J]
    """

    target: int
    height: int
    width: int
    offsets: Ints
    planes: Ints
    usual: Singles
    orders: Ints
    columns: Ints
    solving: Ints
    strides: Ints
    left_decays: Singles
    above_decays: Singles


class State(NamedTuple):
    """What changes while a plane is decoded; B blocks of LANES rows, P = J Q predictions, float32.

    pixels    [C, H + 2 MARGIN, W + 2 MARGIN]
    errors    [3, H + 2 MARGIN, W + 2 MARGIN], of the mean of predictions; logs their logarithms, see mixture.py
    squared   [P, H + 2 MARGIN, W + 2 MARGIN], squared errors of the predictions
    vectors   [RING, B, (n + 2) LANES], regressors and pixel, less their planes' means; weights [RING, B, LANES]
    left      [J, 2, B, n (n + 3) / 2 LANES]; above [J, 6, B, n (n + 3) / 2 LANES]
    edge_left [J, 2, B, n (n + 3)], left of the two rows above a block; edge_above [J, 7, B + 1, n (n + 3)]
    means     [LANES B], what has been taken from a row's pixel; leverage [J, LANES B], |v|^2
    predicted [P + 1, LANES B], the last the mean of the others, weighted by past errors; recent [P, LANES B]: these
    """

    pixels: Singles
    errors: Singles
    logs: Singles
    squared: Singles
    vectors: Singles
    weights: Singles
    left: Singles
    above: Singles
    edge_left: Singles
    edge_above: Singles
    means: Singles
    leverage: Singles
    predicted: Singles
    recent: Singles


def new_state(plan: Plan, pixels: Singles, errors: Singles, logs: Singles) -> State:
    blocks, n, windows = -(-plan.height // LANES), len(plan.usual), len(plan.strides)
    size, count = n * (n + 3) // 2, windows * len(plan.orders)

    def zeros(*shape: int) -> Singles:
        return np.zeros(shape, np.float32)

    return State(
        pixels, errors, logs, np.full((count, *errors.shape[1:]), UNKNOWN_ERROR**2, np.float32),
        zeros(RING, blocks, (n + 2) * LANES), zeros(RING, blocks, LANES),
        zeros(windows, 2, blocks, size * LANES), zeros(windows, 6, blocks, size * LANES),
        zeros(windows, 2, blocks, 2 * size), zeros(windows, 7, blocks + 1, 2 * size),
        zeros(blocks * LANES), zeros(windows, blocks * LANES), zeros(count + 1, blocks * LANES),
        zeros(count, blocks * LANES),
    )  # fmt: skip


@compiled
def is_active(plan: Plan, block: int, time: int) -> bool:
    """Whether predictions of the block, or of the rows below it, need its statistics brought up to `time`."""
    first = SLANT * LANES * block - 2 * SLANT
    return first <= time <= plan.width + SLANT * LANES * (block + 1)


@compiled
def _gather(plan: Plan, state: State, block: int, time: int) -> None:
    """Regressors of the block's pixels, less the mean of their plane over four decoded neighbours, so that no predictor
    depends on brightness."""
    count, rows, columns = state.pixels.shape
    n, vectors, flat = len(plan.usual), state.vectors[time % RING, block], state.pixels.reshape(-1)
    mean = np.empty(count, np.float32)
    for lane in range(LANES):
        y = block * LANES + lane
        x = time - SLANT * y
        if x < 0 or x >= plan.width or y >= plan.height:
            for i in range(n + 1):
                vectors[i * LANES + lane] = _ZERO
            state.weights[time % RING, block, lane] = _ZERO
            continue
        base = (y + MARGIN) * columns + x + MARGIN
        for c in range(count):
            at = c * rows * columns + base
            north = flat[at - columns]
            if y == 0:
                mean[c] = flat[at - 1] if x > 0 else MIDDLE
            elif x == 0:
                mean[c] = _QUARTER * (((north + north) + north) + flat[at - columns + 1])
            else:
                mean[c] = _QUARTER * (((flat[at - 1] + north) + flat[at - columns - 1]) + flat[at - columns + 1])
        for i in range(n):
            vectors[i * LANES + lane] = flat[base + plan.offsets[i]] - mean[plan.planes[i]]
        state.means[y] = mean[plan.target]


@compiled
def _carry_edge(plan: Plan, state: State, block: int, time: int, window: int) -> None:
    """`left` of the rows above the block, which the block of these rows may not have brought up to `time` yet."""
    stride, n, decay = plan.strides[window], len(plan.usual), plan.left_decays[window]
    edge, slot = state.edge_left[window, time % stride, block], (time - stride) % RING
    vectors, vector = state.vectors[slot, block - 1], np.empty(n + 1, np.float32)
    for k in range(stride):
        lane = LANES - stride + k
        weight = state.weights[slot, block - 1, lane]
        for i in range(n + 1):
            vector[i] = vectors[i * LANES + lane]
        at = k * plan.columns[n]
        for j in range(n):
            weighted = weight * vector[j]
            for i in range(j, n + 1):
                edge[at + i - j] = decay * edge[at + i - j] + weighted * vector[i]
            at += n + 1 - j


@compiled
def _predict(plan: Plan, state: State, block: int, time: int, window: int, sums: Singles, dots: Singles) -> None:
    """Predictions of the block's pixels by one window, into state.predicted and state.leverage.

    sums  scratch [> n (n + 5) / 2 LANES]; dots [2 LANES]
    """
    stride, n, size = plan.strides[window], len(plan.usual), plan.columns[len(plan.usual)]
    if block > 0:
        _carry_edge(plan, state, block, time, window)
    slot, turns = (time - stride) % RING, SLANT * stride
    before, vectors = state.vectors[slot, block], state.vectors[time % RING, block]
    left, edge_left = state.left[window, time % stride, block], state.edge_left[window, time % stride, block]
    above = state.above[window, time % turns, block]
    edge_in = state.edge_above[window, (time - turns) % (turns + 1), block]
    edge_out = state.edge_above[window, time % (turns + 1), block + 1]
    spare = (n + 1) * LANES  # row of `before` for the weighted regressor
    for k in range(n):
        for lane in range(LANES):
            before[spare + lane] = state.weights[slot, block, lane] * before[k * LANES + lane]
        at, column = plan.columns[k], LANES * plan.solving[k]
        if stride == 1:
            statistics_of_all(
                left, above, sums, edge_left, edge_in, edge_out, before, LANES * at, column, at, size, spare, k * LANES,
                plan.left_decays[window], plan.above_decays[window], n + 1 - k,
            )  # fmt: skip
        else:
            statistics_of_phase(
                left, above, sums, edge_left, edge_in, edge_out, before, LANES * at, column, at, size, spare, k * LANES,
                plan.left_decays[window], plan.above_decays[window], n + 1 - k,
            )  # fmt: skip
        right, pull = column + (n - k) * LANES, RIDGE * plan.usual[k]
        for lane in range(LANES):
            sums[column + lane] += RIDGE
            sums[right + lane] += pull
            sums[right + LANES + lane] = vectors[k * LANES + lane]
    for k in range(n):
        column, count, j = LANES * plan.solving[k], n + 2 - k, 0
        while j + 4 <= k:
            subtract4(
                sums, column, LANES * (plan.solving[j] + k - j), LANES * (plan.solving[j + 1] + k - j - 1),
                LANES * (plan.solving[j + 2] + k - j - 2), LANES * (plan.solving[j + 3] + k - j - 3), count,
            )  # fmt: skip
            j += 4
        while j < k:
            subtract(sums, column, LANES * (plan.solving[j] + k - j), count)
            j += 1
        divide_by_root(sums, column, count)
    dots[:] = _ZERO
    order, q = plan.orders[0], 0
    for k in range(n):
        z = LANES * (plan.solving[k] + n - k)
        add_product(dots, 0, sums, z, z + LANES)
        add_product(dots, LANES, sums, z + LANES, z + LANES)
        if k + 1 == order:
            for lane in range(LANES):
                value = state.means[block * LANES + lane] + dots[lane]
                if value != value:  # regressors that depend on each other may overflow
                    value = state.means[block * LANES + lane]
                row = window * len(plan.orders) + q
                state.predicted[row, block * LANES + lane] = min(max(value, _ZERO), _WHITE)
            q = min(q + 1, len(plan.orders) - 1)
            order = plan.orders[q]
    for lane in range(LANES):
        leverage = dots[LANES + lane]
        state.leverage[window, block * LANES + lane] = leverage if leverage < _WHITE else _WHITE  # no NaN, no infinity


@compiled
def _average(plan: Plan, state: State, y: int, x: int) -> None:
    """The mean of a pixel's predictions, weighted by the inverse of their squared errors' squares around it."""
    count, r, c = state.recent.shape[0], y + MARGIN, x + MARGIN
    total, mean = _ZERO, _ZERO
    for p in range(count):
        e = state.squared[p]
        far = ((e[r - 1, c - 1] + e[r - 1, c + 1]) + e[r, c - 2]) + e[r - 2, c]
        recent = (e[r, c - 1] + e[r - 1, c]) + _HALF * far
        state.recent[p, y] = recent
        weight = _ONE / ((recent + _TINY) * (recent + _TINY))
        total += weight
        mean += weight * state.predicted[p, y]
    state.predicted[count, y] = mean / total


@compiled
def predict(plan: Plan, state: State, first_block: int, last_block: int, time: int) -> None:
    """Predictions of all pixels of blocks first_block ... last_block - 1 at `time`, from what has been decoded."""
    n = len(plan.usual)
    sums, dots = np.empty((plan.solving[n] + 1) * LANES, np.float32), np.empty(2 * LANES, np.float32)
    for block in range(first_block, last_block):
        if is_active(plan, block, time):
            _gather(plan, state, block, time)
            for window in range(len(plan.strides)):
                _predict(plan, state, block, time, window, sums, dots)
            for lane in range(LANES):
                y = block * LANES + lane
                x = time - SLANT * y
                if 0 <= x < plan.width and y < plan.height:
                    _average(plan, state, y, x)


@compiled
def _settle(plan: Plan, plane: Singles, y: int, x: int, value: np.float32) -> None:
    """Write a pixel and, beside the image, what stands for pixels that do not exist: those decoded nearby."""
    r, c = y + MARGIN, x + MARGIN
    plane[r, c] = value
    for k in range(1, MARGIN + 1):
        if x == 0:
            plane[r, c - k] = value
            plane[r + 1, c - k] = value
        if x == plan.width - 1:
            plane[r, c + k] = value
        if y == 0:
            plane[r - k, c + 1 : c + MARGIN + 1] = value
            if x == 0:
                plane[r - k, : c + 1] = value


@compiled
def update(plan: Plan, state: State, log: Singles, first: int, last: int, time: int, pixels: Ints) -> None:
    """Take over `pixels` [last - first], the decoded values of rows first ... last - 1 at `time`.

    log  float32, logarithms of absolute errors 0, 1 / 16, 2 / 16, ... grey levels
    """
    n, slot, count = len(plan.usual), time % RING, state.recent.shape[0]
    errors = state.errors[plan.target]
    for y in range(first, last):
        x = time - SLANT * y
        r, c, block, lane = y + MARGIN, x + MARGIN, y // LANES, y % LANES
        pixel = np.float32(pixels[y - first])
        _settle(plan, state.pixels[plan.target], y, x, pixel)
        state.vectors[slot, block, n * LANES + lane] = pixel - state.means[y]
        for p in range(count):
            difference = pixel - state.predicted[p, y]
            state.squared[p, r, c] = difference * difference
        error = pixel - state.predicted[count, y]
        errors[r, c] = error
        state.logs[plan.target, r, c] = log[min(int(np.float32(16) * abs(error)), len(log) - 1)]
        local = (abs(error) + abs(errors[r, c - 1])) + (abs(errors[r - 1, c]) + abs(errors[r - 1, c + 1]))
        local *= _QUARTER
        state.weights[slot, block, lane] = _ONE / (NOISE + local * local)
