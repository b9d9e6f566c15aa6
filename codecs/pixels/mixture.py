"""The distribution of a pixel given its predictions and the errors around it: a small network, compiled by numba.

The network (two hidden layers) reads logarithms of the absolute errors of decoded neighbours, of the
planes before at the same place, of the differences between predictions, and of how well each has done nearby.  It gives
a mixture of discretised logistics (Salimans et al. 2017): their scales, weights and offsets, and for each component its
own mean of the predictions.  Its weights begin as multiples of 2^-12 and learn on (learning.py), its outputs are
rounded and looked up in tables, and arithmetic is that of prediction.py, so that every machine gets the same integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .lanes import GROUP, LANES, affine
from .prediction import MARGIN, SLANT, Floats, Ints, Plan, Singles, State, compiled, is_active

COMPONENTS = 3
LOWEST, HIGHEST = -1.0, 1.5  # log2 of the first and last component's scale, in grey levels, where outputs are 0
START = np.linspace(LOWEST, HIGHEST, COMPONENTS)
OFFSET = 0.1  # scales by which an offset of 1 moves a component's mean
TOTAL = float(1 << 20)  # sum of a table's weights, about
COARSE = 16  # grey levels that are first coded as one symbol

OWN = np.array(
    [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1), (0, -3), (-3, 0)]
)
OTHER = np.array([(0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)])

# Tables, rounded because the last bits of logarithms and exponentials differ between machines
LOG = (np.round(np.log2(np.arange(256 * 16) / 16 + 0.3) * 2**16) / 2**16).astype(np.float32)  # of 16ths of a level
POWER_STEPS, POWER_RANGE = 32, 12
POWER = np.round(2.0 ** (np.arange(2 * POWER_RANGE * POWER_STEPS + 1) / POWER_STEPS - POWER_RANGE) * 2**36) / 2**36
LOGISTIC_STEPS, LOGISTIC_RANGE = 64, 16
LOGISTIC = np.round(
    2.0**40 / (1 + np.exp(LOGISTIC_RANGE - np.arange(2 * LOGISTIC_RANGE * LOGISTIC_STEPS + 2) / LOGISTIC_STEPS))
) / 2.0**40  # fmt: skip
_SIXTEEN = np.float32(16)


LAYERS = ("weights0", "weights1", "weights2")  # [1 + inputs, outputs], the bias first


class Network(NamedTuple):
    """The network of a plane and what it computed last, float32; L inputs, n hidden numbers, m outputs.

    weights  of each layer [1 + inputs, outputs], the bias first, flat
    inputs   [B, L LANES]; hidden0, hidden1 [B, n LANES]; outputs [B, m LANES]
    """

    weights: tuple[Singles, Singles, Singles]
    inputs: Singles
    hidden0: Singles
    hidden1: Singles
    outputs: Singles


def new_network(layers: Sequence[Singles], blocks: int) -> Network:
    """A network of these LAYERS, which it may change, for B blocks of rows."""
    first, second, third = (layer.reshape(-1).copy() for layer in layers)
    kept = [np.zeros((blocks, layer.shape[1] * LANES), np.float32) for layer in layers]
    inputs = np.zeros((blocks, (len(layers[0]) - 1) * LANES), np.float32)
    return Network((first, second, third), inputs, kept[0], kept[1], kept[2])


def feature_count(predictions: int, windows: int, earlier: int) -> int:
    """Inputs of the network of a plane behind `earlier` others."""
    return len(OWN) + 2 * predictions + windows + 5 + len(OTHER) * earlier


def output_count(predictions: int) -> int:
    """Outputs of the network: log-scales, logits and offsets of the components, their logits of the predictions."""
    return COMPONENTS * (3 + predictions + 1)


@compiled
def _log(error: float) -> float:
    return LOG[min(int(_SIXTEEN * error), len(LOG) - 1)]


@compiled
def features(plan: Plan, state: State, earlier: Ints, y: int, x: int, lane: int, out: Singles) -> None:
    """Inputs of the network for pixel (y, x) into lane `lane` of out [feature_count LANES]; earlier: planes before."""
    r, c, at = y + MARGIN, x + MARGIN, lane
    logs, count = state.logs[plan.target], state.recent.shape[0]
    for i in range(len(OWN)):
        out[at] = logs[r + OWN[i, 0], c + OWN[i, 1]]
        at += LANES
    mean = state.predicted[count, y]
    for p in range(count):
        out[at] = _log(abs(state.predicted[p, y] - mean))
        out[at + LANES] = _log(state.recent[p, y] * np.float32(0.25))
        at += 2 * LANES
    for window in range(state.leverage.shape[0]):
        out[at] = _log(np.float32(16) * state.leverage[window, y])
        at += LANES
    plane = state.pixels[plan.target]
    west, north, northwest, northeast = plane[r, c - 1], plane[r - 1, c], plane[r - 1, c - 1], plane[r - 1, c + 1]
    low, high = min(min(west, north), min(northwest, northeast)), max(max(west, north), max(northwest, northeast))
    out[at] = _log(high - low)
    out[at + LANES] = _log(abs(west - north))
    out[at + 2 * LANES] = _log(abs(north - northwest))
    out[at + 3 * LANES] = _log(abs(northwest - northeast))
    out[at + 4 * LANES] = mean * np.float32(1 / 64) - np.float32(2)
    at += 5 * LANES
    for p in range(len(earlier)):
        logs = state.logs[earlier[p]]
        for i in range(len(OTHER)):
            out[at] = logs[r + OTHER[i, 0], c + OTHER[i, 1]]
            at += LANES


@compiled
def _layer(inputs: Singles, weights: Singles, out: Singles, rectified: bool) -> None:
    """Rows of out = affine function of rows of inputs; weights [1 + inputs, outputs], the bias first, flat."""
    width, count = len(out) // LANES, len(weights) // (len(out) // LANES) - 1
    for k in range(0, width, GROUP):
        affine(inputs, weights, k, out, LANES * k, count, width)
    if rectified:
        for k in range(len(out)):
            out[k] = max(out[k], np.float32(0))


@compiled
def power(log2: float) -> float:
    """2^log2, the exponent rounded to 1 / POWER_STEPS and kept within POWER_RANGE."""
    scaled = np.floor(log2 * POWER_STEPS + 0.5) + POWER_RANGE * POWER_STEPS
    return POWER[int(min(max(scaled, 0.0), 2.0 * POWER_RANGE * POWER_STEPS))]


@compiled
def _components(state: State, y: int, lane: int, outputs: Singles, out: Floats) -> None:
    """Means, inverse scales and weights out [3 COMPONENTS] of the mixture that a lane's outputs stand for."""
    count, total = state.recent.shape[0] + 1, 0.0
    for k in range(COMPONENTS):
        weights, mean = 0.0, 0.0
        at = (3 * COMPONENTS + k * count) * LANES + lane
        for p in range(count):
            weight = power(outputs[at + p * LANES])
            weights += weight
            mean += weight * state.predicted[p, y]
        scale = power(outputs[k * LANES + lane] + START[k])
        out[k] = mean / weights + OFFSET * outputs[(2 * COMPONENTS + k) * LANES + lane] * scale
        out[COMPONENTS + k] = 1.0 / scale
        out[2 * COMPONENTS + k] = power(outputs[(COMPONENTS + k) * LANES + lane])
        total += out[2 * COMPONENTS + k]
    for k in range(COMPONENTS):
        out[2 * COMPONENTS + k] /= total


@compiled
def logistic(x: float) -> float:
    """1 / (1 + exp(-x)), from a table."""
    place = min(max((x + LOGISTIC_RANGE) * LOGISTIC_STEPS, 0.0), 2.0 * LOGISTIC_RANGE * LOGISTIC_STEPS)
    i = int(place)
    return LOGISTIC[i] + (LOGISTIC[i + 1] - LOGISTIC[i]) * (place - i)


@compiled
def _below(components: Floats, value: int) -> float:
    """P(pixel < value), value in 0 ... 256."""
    if value <= 0:
        return 0.0
    if value >= 256:
        return 1.0
    sum_ = 0.0
    for k in range(COMPONENTS):
        away = (value - 0.5 - components[k]) * components[COMPONENTS + k]
        sum_ += components[2 * COMPONENTS + k] * logistic(away)
    return sum_


@compiled
def _weights(components: Floats, first: int, step: int, out: Floats) -> None:
    """Whole weights out [K], at least 1, of the values first + k step ... first + (k + 1) step - 1."""
    low, high = _below(components, first), _below(components, first + step * len(out))
    factor, before = TOTAL / max(high - low, 1e-9), low
    for k in range(len(out)):
        after = high if k == len(out) - 1 else _below(components, first + step * (k + 1))
        out[k] = max(np.floor((after - before) * factor + 0.5), 1.0)
        before = after


@compiled
def distributions(
    plan: Plan, state: State, network: Network, first_block: int, last_block: int, time: int, earlier: Ints,
    components: Floats, coarse: Floats,
) -> None:  # fmt: skip
    """Mixtures, components [H, 3 COMPONENTS], of all pixels of blocks first_block ... last_block - 1 at `time`.

    coarse  float64 [H, 256 / COARSE], weights of each COARSE grey levels
    """
    for block in range(first_block, last_block):
        if not is_active(plan, block, time):
            continue
        inputs, outputs = network.inputs[block], network.outputs[block]
        for lane in range(LANES):
            y = block * LANES + lane
            x = time - SLANT * y
            if 0 <= x < plan.width and y < plan.height:
                features(plan, state, earlier, y, x, lane, inputs)
        _layer(inputs, network.weights[0], network.hidden0[block], True)
        _layer(network.hidden0[block], network.weights[1], network.hidden1[block], True)
        _layer(network.hidden1[block], network.weights[2], outputs, False)
        for lane in range(LANES):
            y = block * LANES + lane
            x = time - SLANT * y
            if 0 <= x < plan.width and y < plan.height:
                _components(state, y, lane, outputs, components[y])
                _weights(components[y], 0, COARSE, coarse[y])


@compiled
def fine_weights(components: Floats, first: int, coarse: Ints, out: Floats) -> None:
    """Weights out [N, COARSE] of the grey levels within the chosen sixteenths coarse [N] of rows first ... ."""
    for k in range(len(coarse)):
        _weights(components[first + k], COARSE * coarse[k], 1, out[k])

