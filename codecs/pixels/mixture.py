"""The distribution of a pixel given its predictions and the errors around it: a small network, compiled by numba.

The network (two hidden layers, fixed weights) reads the logarithms of absolute errors of decoded neighbours, of the
channels before at the same place, and of the differences between predictions.  It gives a mixture of three discretised
logistics (Salimans et al. 2017): their scales, weights and means.  Weights are multiples of 2^-12, its outputs are
rounded and looked up in tables, and arithmetic is that of prediction.py, so that every machine gets the same integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .prediction import MARGIN, PREDICTORS, SLANT, Floats, Ints, compiled

COMPONENTS = 3
OUTPUTS = 3 * COMPONENTS + PREDICTORS + 1  # log-scales, logits, offsets, logits of the predictions
START = np.array([-1.0, 0.0, 1.5])  # log2 of the scales, in grey levels, that outputs 0 stand for
OFFSET = 0.1  # scales by which an offset of 1 moves a component's mean
TOTAL = float(1 << 20)  # sum of a table's weights, about

OWN = np.array(
    [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1), (0, -3), (-3, 0)]
)
OTHER = np.array([(0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)])

# Tables, rounded because the last bits of logarithms and exponentials differ between machines
LOG = np.round(np.log2(np.arange(256 * 16 + 1) / 16 + 0.3) * 2**16) / 2**16  # of sixteenths of a grey level
POWER_STEPS, POWER_RANGE = 32, 12
POWER = np.round(2.0 ** (np.arange(2 * POWER_RANGE * POWER_STEPS + 1) / POWER_STEPS - POWER_RANGE) * 2**36) / 2**36
LOGISTIC_STEPS, LOGISTIC_RANGE = 64, 16
LOGISTIC = np.round(
    2.0**40 / (1 + np.exp(LOGISTIC_RANGE - np.arange(2 * LOGISTIC_RANGE * LOGISTIC_STEPS + 2) / LOGISTIC_STEPS))
) / 2.0**40  # fmt: skip


def feature_count(earlier: int) -> int:
    """Inputs of the network of a plane behind `earlier` others."""
    return len(OWN) + PREDICTORS + 5 + len(OTHER) * earlier


@compiled
def _log(error: float) -> float:
    return LOG[min(int(16.0 * error), 4080)]


@compiled
def _power(log2: float) -> float:
    """2^log2, the exponent rounded to 1 / POWER_STEPS and kept within POWER_RANGE."""
    scaled = np.floor(log2 * POWER_STEPS + 0.5) + POWER_RANGE * POWER_STEPS
    return POWER[int(min(max(scaled, 0.0), 2.0 * POWER_RANGE * POWER_STEPS))]


@compiled
def features(
    regressors: Floats, means: Floats, errors: Floats, target: int, earlier: Ints, y: int, x: int, out: Floats
) -> None:
    """Inputs of the network for pixel (y, x): out [feature_count]; arguments as those of prediction.update."""
    r, c = y + MARGIN, x + MARGIN
    k = 0
    for i in range(len(OWN)):
        out[k] = _log(errors[target, r + OWN[i, 0], c + OWN[i, 1]])
        k += 1
    for p in range(PREDICTORS):
        out[k] = _log(abs(means[p] - means[PREDICTORS]))
        k += 1
    low = min(min(regressors[0], regressors[1]), min(regressors[2], regressors[3]))
    high = max(max(regressors[0], regressors[1]), max(regressors[2], regressors[3]))
    out[k] = _log(high - low)
    for i in range(3):
        out[k + 1 + i] = _log(abs(regressors[i] - regressors[i + 1]))
    out[k + 4] = means[PREDICTORS] / 64.0 - 2.0
    k += 5
    for p in range(len(earlier)):
        for i in range(len(OTHER)):
            out[k] = _log(errors[earlier[p], r + OTHER[i, 0], c + OTHER[i, 1]])
            k += 1


@compiled
def _layer(inputs: Floats, weights: Floats, bias: Floats, out: Floats) -> None:
    """out [n] = bias + inputs [m] weights [m, n]."""
    for k in range(len(out)):
        out[k] = bias[k]
    for i in range(len(inputs)):
        value, row = inputs[i], weights[i]
        for k in range(len(out)):
            out[k] += value * row[k]


@compiled
def _rectify(values: Floats) -> None:
    for k in range(len(values)):
        values[k] = max(values[k], 0.0)


@compiled
def _add_logistic(mean: float, scale: float, weight: float, cumulative: Floats) -> None:
    """Add weight * P(pixel <= v) to cumulative[v], v = 0 ... 255, for a logistic of that mean and scale."""
    inverse = LOGISTIC_STEPS / scale
    reach = LOGISTIC_RANGE * scale
    first = int(min(max(mean - reach - 0.5, 0.0), 255.0))
    last = int(min(max(mean + reach + 0.5, 0.0), 255.0))
    centre = LOGISTIC_RANGE * LOGISTIC_STEPS + (0.5 - mean) * inverse
    end = 2.0 * LOGISTIC_RANGE * LOGISTIC_STEPS
    for v in range(first, last):
        place = min(max(centre + v * inverse, 0.0), end)
        i = int(place)
        cumulative[v] += weight * (LOGISTIC[i] + (LOGISTIC[i + 1] - LOGISTIC[i]) * (place - i))
    for v in range(last, 256):
        cumulative[v] += weight


@compiled
def _table(outputs: Floats, means: Floats, cumulative: Floats, out: Floats) -> None:
    """Whole weights out [256], each at least 1, of the mixture that `outputs` [OUTPUTS] and `means` stand for."""
    total, mean = 0.0, 0.0
    for p in range(PREDICTORS + 1):
        weight = _power(outputs[3 * COMPONENTS + p])
        total += weight
        mean += weight * means[p]
    mean /= total
    total = 0.0
    for k in range(COMPONENTS):
        total += _power(outputs[COMPONENTS + k])
    cumulative[:] = 0.0
    for k in range(COMPONENTS):
        scale = _power(outputs[k] + START[k])
        offset = OFFSET * outputs[2 * COMPONENTS + k] * scale
        _add_logistic(mean + offset, scale, _power(outputs[COMPONENTS + k]) / total, cumulative)
    before = 0.0
    for v in range(255):
        out[v] = max(np.floor((cumulative[v] - before) * TOTAL + 0.5), 1.0)
        before = cumulative[v]
    out[255] = max(np.floor((1.0 - before) * TOTAL + 0.5), 1.0)


@compiled
def tables(
    regressors: Floats, means: Floats, errors: Floats, target: int, earlier: Ints, first: int, last: int, time: int,
    weights0: Floats, bias0: Floats, weights1: Floats, bias1: Floats, weights2: Floats, bias2: Floats,
    inputs: Floats, out: Floats,
) -> None:  # fmt: skip
    """Weights out [last - first, 256] of the pixels of rows first ... last - 1 at `time`.

    inputs  float64 [H, feature_count], scratch that keeps what the network has read
    """
    hidden0, hidden1, outputs = np.empty(len(bias0)), np.empty(len(bias1)), np.empty(len(bias2))
    cumulative = np.empty(256)
    for y in range(first, last):
        features(regressors[y], means[y], errors, target, earlier, y, time - SLANT * y, inputs[y])
        _layer(inputs[y], weights0, bias0, hidden0)
        _rectify(hidden0)
        _layer(hidden0, weights1, bias1, hidden1)
        _rectify(hidden1)
        _layer(hidden1, weights2, bias2, outputs)
        _table(outputs, means[y], cumulative, out[y - first])


NETWORK = ("weights0", "bias0", "weights1", "bias1", "weights2", "bias2")
Network = dict[str, NDArray[np.float64]]
