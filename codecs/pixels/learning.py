"""The network of mixture.py goes on learning from the pixels that both sides have, while they are coded.

After every line of pixels each weight w takes a step against the gradient g of the line's bits, as RMSProp (Tieleman
and Hinton 2012) does, with the start of Adam (Kingma and Ba 2015):

    v = KEPT v + (1 - KEPT) g^2,        w = w - rate g / sqrt(v / (1 - KEPT^t)).

That compressors improve by learning as they go is known from PAQ (Mahoney 2005) and NNCP (Bellard 2019); here a network
that was trained on photos learns what is special about this one.

Arithmetic is that of prediction.py, in an order that depends on the image alone: every machine learns the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .lanes import GROUP, LANES, add_outer, affine
from .mixture import COMPONENTS, OFFSET, Network, logistic, power
from .prediction import Floats, Ints, Singles, State, compiled

RATES = np.array([0.0002, 0.0005, 0.002], np.float32)  # of the three layers
KEPT = np.float32(0.99)
_ONE, _TINY = np.float32(1), np.float32(1e-6)
LN2 = 0.6931471805599453
LEAST = 2.0**-22  # probability that a pixel is taken to have at least


class Learner(NamedTuple):
    """A network and what is needed to train it; float32, n hidden numbers, m outputs.

    gradients, squares  (v above) of its weights, like these
    backwards           weights of the second and third layer transposed, behind a row of zeros
    age                 [1], KEPT^t
    """

    network: Network
    gradients: tuple[Singles, Singles, Singles]
    squares: tuple[Singles, Singles, Singles]
    backwards: tuple[Singles, Singles]
    age: Singles


def new_learner(network: Network) -> Learner:
    """One that begins with `network`, whose numbers of inputs and outputs are multiples of GROUP and LANES."""

    def zeros() -> tuple[Singles, Singles, Singles]:
        first, second, third = (np.zeros_like(weights) for weights in network.weights)
        return first, second, third

    hidden, outputs = (kept.shape[1] // LANES for kept in (network.hidden0, network.outputs))
    backwards = tuple(np.zeros((1 + count) * hidden, np.float32) for count in (hidden, outputs))
    learner = Learner(network, zeros(), zeros(), (backwards[0], backwards[1]), np.ones(1, np.float32))
    transpose(learner)
    return learner


@compiled
def transpose(learner: Learner) -> None:
    """Bring learner.backwards up to date."""
    for layer in range(2):
        weights, back = learner.network.weights[layer + 1], learner.backwards[layer]
        hidden = learner.network.hidden0.shape[1] // LANES
        width = len(weights) // (1 + hidden)
        for i in range(hidden):
            for j in range(width):
                back[(1 + j) * hidden + i] = weights[(1 + i) * width + j]


@compiled
def _slopes(state: State, y: int, lane: int, components: Floats, outputs: Singles, pixel: int, out: Singles) -> None:
    """Derivatives out [m] of -log2(P(pixel)) by a lane's outputs; components [3 COMPONENTS] are its mixture."""
    count = state.recent.shape[0] + 1
    inside, above, below = np.empty(COMPONENTS), np.empty(COMPONENTS), np.empty(COMPONENTS)
    farther, nearer, total = np.empty(COMPONENTS), np.empty(COMPONENTS), LEAST
    for k in range(COMPONENTS):
        farther[k] = (pixel + 0.5 - components[k]) * components[COMPONENTS + k]
        nearer[k] = (pixel - 0.5 - components[k]) * components[COMPONENTS + k]
        high, low = logistic(farther[k]), logistic(nearer[k])
        above[k], below[k] = high * (1.0 - high), low * (1.0 - low)
        if pixel >= 255:
            high, above[k] = 1.0, 0.0
        if pixel <= 0:
            low, below[k] = 0.0, 0.0
        inside[k] = high - low
        total += components[2 * COMPONENTS + k] * inside[k]
    for k in range(COMPONENTS):
        share = components[2 * COMPONENTS + k] / total
        scale, offset = 1.0 / components[COMPONENTS + k], OFFSET * outputs[(2 * COMPONENTS + k) * LANES + lane]
        moved = share * (above[k] - below[k]) * components[COMPONENTS + k]  # by the mean
        out[k] = share * (farther[k] * above[k] - nearer[k] * below[k]) + moved * offset * scale
        out[COMPONENTS + k] = share * (total - inside[k])
        out[2 * COMPONENTS + k] = moved * scale * (OFFSET / LN2)
        at, sum_, mean = 3 * COMPONENTS + k * count, 0.0, components[k] - offset * scale
        for p in range(count):
            out[at + p] = power(outputs[(at + p) * LANES + lane])
            sum_ += out[at + p]
        for p in range(count):
            out[at + p] *= moved / sum_ * (state.predicted[p, y] - mean)


@compiled
def _back(slopes: Singles, weights: Singles, hidden: Singles, rows: Singles, out: Singles) -> None:
    """Derivatives out [n LANES] with respect to a hidden layer, and transposed rows [LANES n], from `slopes` [m LANES]
    of the layer behind it, whose transposed weights these are."""
    count, width = len(slopes) // LANES, len(out) // LANES
    for k in range(0, width, GROUP):
        affine(slopes, weights, k, out, LANES * k, count, width)
    for i in range(width):
        for lane in range(LANES):
            if hidden[i * LANES + lane] <= 0:
                out[i * LANES + lane] = 0
            rows[lane * width + i] = out[i * LANES + lane]


@compiled
def _add(gradient: Singles, inputs: Singles, rows: Singles) -> None:
    """Add a block's gradient of a layer with `inputs` [L LANES] and derivatives `rows` [LANES m]."""
    width, count = len(rows) // LANES, len(inputs) // LANES
    for lane in range(LANES):
        for j in range(width):
            gradient[j] += rows[lane * width + j]
    for i in range(0, count, GROUP):
        for j in range(0, width, LANES):
            add_outer(gradient, (1 + i) * width + j, inputs, i, rows, j, width, width)


@compiled
def _step(weights: Singles, gradient: Singles, squares: Singles, rate: float) -> None:
    """The step above for one layer, whose gradient begins anew."""
    for i in range(len(weights)):
        squares[i] = KEPT * squares[i] + (_ONE - KEPT) * (gradient[i] * gradient[i])
        weights[i] -= rate * gradient[i] / (np.sqrt(squares[i]) + _TINY)
        gradient[i] = 0


@compiled
def add_gradients(
    state: State, learner: Learner, first: int, last: int, components: Floats, pixels: Ints
) -> None:
    """Add the gradient of the bits, in units of ln 2, of rows first ... last - 1 to learner.gradients.

    components  [H, 3 COMPONENTS], mixtures that the network has just given; pixels [last - first]
    """
    network = learner.network
    outputs, hidden = network.outputs.shape[1] // LANES, network.hidden0.shape[1] // LANES
    rows2, slopes2 = np.zeros((LANES, outputs), np.float32), np.empty(outputs * LANES, np.float32)
    rows, slopes1 = np.empty(LANES * hidden, np.float32), np.empty(hidden * LANES, np.float32)
    slopes0 = np.empty(hidden * LANES, np.float32)
    for block in range(first // LANES, (last - 1) // LANES + 1):
        rows2[:] = 0
        for y in range(max(first, block * LANES), min(last, (block + 1) * LANES)):
            lane = y - block * LANES
            _slopes(state, y, lane, components[y], network.outputs[block], pixels[y - first], rows2[lane])
        _add(learner.gradients[2], network.hidden1[block], rows2.reshape(-1))
        for j in range(outputs):
            for lane in range(LANES):
                slopes2[j * LANES + lane] = rows2[lane, j]
        _back(slopes2, learner.backwards[1], network.hidden1[block], rows, slopes1)
        _add(learner.gradients[1], network.hidden0[block], rows)
        _back(slopes1, learner.backwards[0], network.hidden0[block], rows, slopes0)
        _add(learner.gradients[0], network.inputs[block], rows)


@compiled
def learn(state: State, learner: Learner, first: int, last: int, components: Floats, pixels: Ints) -> None:
    """A step against the gradient of a line; arguments as in add_gradients."""
    add_gradients(state, learner, first, last, components, pixels)
    learner.age[0] *= KEPT
    start = np.sqrt(_ONE - learner.age[0])
    for layer in range(3):
        _step(learner.network.weights[layer], learner.gradients[layer], learner.squares[layer], RATES[layer] * start)
    transpose(learner)
