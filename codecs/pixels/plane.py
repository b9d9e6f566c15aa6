"""Planes of pixels, one behind the other, along slanted lines: what the encoder and the decoder run alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import learning, mixture, prediction
from .lanes import GROUP, LANES
from .prediction import MARGIN, MIDDLE, SLANT, UNKNOWN_ERROR, Floats, Ints, Plan, Singles, State

WEIGHT_SCALE = 4096.0
BLOCKS_PER_THREAD = 2  # fewer are not worth a second thread

# Places (dy, dx) of regressors in the plane itself, all decoded before (0, 0), the most useful first ...
CAUSAL = (
    (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1), (0, -3), (-2, 2),
    (-2, -2), (-3, 0), (-1, -3), (-3, 1), (-3, -1), (0, -4),
)  # fmt: skip
# ... and in a plane that is known everywhere
AROUND = (
    (0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1), (0, -2), (-2, 0), (0, 2), (2, 0),
)  # fmt: skip
ESTIMATE_COUNT = 9  # regressors in the estimate of the plane, where there is one


class Model(NamedTuple):
    """A model of images, part of the file format.

    windows  (stride, left decay, above decay), see prediction.py
    counts   for the first, second and third plane and each order: regressors in the plane itself and in those before
    """

    windows: tuple[tuple[int, float, float], ...]
    counts: tuple[tuple[tuple[int, ...], ...], ...]


MODELS = {
    4: Model(
        ((1, 0.8, 0.75), (1, 0.9, 0.87), (1, 0.98, 0.97), (2, 0.97, 0.96)),
        (
            ((6,), (12,), (18,)),
            ((4, 5), (6, 9), (12, 13)),
            ((4, 1, 5), (6, 5, 9), (12, 9, 13)),
        ),
    ),
    5: Model(((1, 0.9, 0.87),), (((6,), (12,)), ((4, 5), (6, 9)), ((4, 1, 5), (6, 5, 9)))),
}
BEST, FAST = 4, 5

# source(first, last, time, weights [last - first, 16], part) gives, of the pixels of these rows at `time`, the
# sixteenth of the grey scale that they lie in (part 0), or where in it they lie (part 1)
Source = Callable[[int, int, int, Floats, int], Ints]
Watch = Callable[[Plan, State, int, int, int, Singles], None]


@lru_cache(4)
def parameters(model: int) -> tuple[tuple[list[Singles], Singles], ...]:
    """For the first, second and third plane: mixture.LAYERS, inputs and outputs padded to what lanes.py computes at a
    time, and the coefficients of a usual predictor."""
    result = []
    with np.load(Path(__file__).with_name("mixture.npz")) as stored:
        for position in range(3):
            *layers, usual = (
                (stored[f"{name}_{model}_{position}"] / WEIGHT_SCALE).astype(np.float32)
                for name in (*mixture.LAYERS, "usual")
            )
            padded = [np.pad(one, ((0, (1 - len(one)) % GROUP), (0, -one.shape[1] % LANES))) for one in layers]
            result.append((padded, usual))
    return tuple(result)


def regressors(model: int, order: tuple[int, ...], position: int) -> tuple[list[tuple[int, int, int]], list[int]]:
    """(plane, dy, dx) of the regressors of plane order[position], and how many each order of prediction takes."""
    own, *before = order[position], *order[:position]
    places: list[tuple[int, int, int]] = []
    orders = []
    for counts in MODELS[model].counts[position]:
        wanted = [(own, *place) for place in CAUSAL[: counts[0]]]
        for plane, count in reversed(list(zip(before, counts[1:], strict=True))):
            wanted += [(plane, *place) for place in AROUND[:count]]
        places += [place for place in wanted if place not in places]
        orders.append(len(places))
    return places, orders


class Planes:
    """Pixels decoded so far, and the errors of their predictions.

    estimate  float [3, H, W] in grey levels, which both sides know; None: there is none
    """

    def __init__(self, size: tuple[int, int], estimate: Floats | None = None) -> None:
        height, width = size
        self.size, self.has_estimate = size, estimate is not None
        shape = (height + 2 * MARGIN, width + 2 * MARGIN)
        self._pixels = np.full((3 if estimate is None else 6, *shape), MIDDLE, np.float32)
        if estimate is not None:
            self._pixels[3:] = np.pad(estimate, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="edge")
        self._errors = np.full((3, *shape), UNKNOWN_ERROR, np.float32)
        self._logs = np.full((3, *shape), mixture.LOG[int(16 * UNKNOWN_ERROR)], np.float32)

    @property
    def values(self) -> Singles:
        """float32 [3, H, W], the pixels."""
        return self._pixels[:3, MARGIN:-MARGIN, MARGIN:-MARGIN]

    def plan(self, order: tuple[int, ...], position: int, model: int) -> Plan:
        height, width = self.size
        places, orders = regressors(model, order, position)
        usual = np.zeros(len(places) + ESTIMATE_COUNT * self.has_estimate, np.float32)
        usual[: len(places)] = parameters(model)[position][1]
        if self.has_estimate:
            places = places + [(3 + order[position], *place) for place in AROUND[:ESTIMATE_COUNT]]
            orders = [*orders[:-1], len(places)]
        _, rows, columns = self._pixels.shape
        n = len(places)
        lengths = n + 1 - np.arange(n)
        strides, left, above = zip(*MODELS[model].windows, strict=True)
        return Plan(
            order[position], height, width,
            np.array([(plane * rows + dy) * columns + dx for plane, dy, dx in places], np.int64),
            np.array([plane for plane, _, _ in places], np.int64), usual, np.array(orders, np.int64),
            np.cumsum([0, *lengths]).astype(np.int64), np.cumsum([0, *(lengths + 1)]).astype(np.int64),
            np.array(strides, np.int64), np.array(left, np.float32), np.array(above, np.float32),
        )  # fmt: skip

    def run(
        self, order: tuple[int, ...], position: int, source: Source, model: int = BEST, threads: int = 1,
        watch: Watch | None = None,
    ) -> None:  # fmt: skip
        """Decode the plane order[position], those before it being decoded.

        model    one of MODELS
        watch    called with (plan, state, first, last, time, inputs) after each line, for training; the network then
                 does not learn on
        """
        height, width = self.size
        plan = self.plan(order, position, model)
        state = prediction.new_state(plan, self._pixels, self._errors, self._logs)
        blocks = state.vectors.shape[1]
        learner = learning.new_learner(mixture.new_network(parameters(model)[position][0], blocks))
        earlier = np.array(order[:position][::-1], np.int64)
        components = np.zeros((height, 3 * mixture.COMPONENTS))
        coarse = np.zeros((height, 256 // mixture.COARSE))
        fine = np.zeros((height, mixture.COARSE))

        def compute(first: int, last: int, time: int) -> None:
            prediction.predict(plan, state, first, last, time)
            mixture.distributions(plan, state, learner.network, first, last, time, earlier, components, coarse)

        with ThreadPoolExecutor(threads) as pool:
            for time in range(width + SLANT * (height - 1)):
                first, last = max(0, -((width - 1 - time) // SLANT)), min(height - 1, time // SLANT) + 1
                # statistics of blocks at either end go on while the rows beside them need them
                start, end = max(0, first // LANES - 1), min(blocks, (last - 1) // LANES + 2)
                parts = max(1, min(threads, (end - start) // BLOCKS_PER_THREAD))
                edges = [start + (end - start) * i // parts for i in range(parts + 1)]
                others = [pool.submit(compute, a, b, time) for a, b in itertools.pairwise(edges[1:])]
                compute(edges[0], edges[1], time)
                for other in others:
                    other.result()
                if last <= first:
                    continue
                high = source(first, last, time, coarse[first:last], 0)
                mixture.fine_weights(components, first, high, fine[first:last])
                pixels = mixture.COARSE * high + source(first, last, time, fine[first:last], 1)
                prediction.update(plan, state, mixture.LOG, first, last, time, pixels)
                if watch:
                    watch(plan, state, first, last, time, learner.network.inputs)
                else:
                    learning.learn(state, learner, first, last, components, pixels)
        plane = self._pixels[plan.target]
        plane[:] = np.pad(plane[MARGIN:-MARGIN, MARGIN:-MARGIN], MARGIN, mode="edge")
