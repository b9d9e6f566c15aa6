"""Planes of pixels, one behind the other, along slanted lines: what the encoder and the decoder run alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from . import mixture, prediction
from .prediction import AROUND, CAUSAL, MARGIN, PREDICTORS, SLANT, UNKNOWN_ERROR, Floats, Ints

CAUSAL_COUNTS = (18, 12, 12)  # regressors in the plane itself, of the first, second and third plane
AROUND_COUNTS = ((), (13,), (13, 9))  # ... in the planes before it
ESTIMATE_COUNT = 9  # ... in the estimate of the plane, where there is one
SPEEDS = ((1, 1, 1), (4, 4, 8))  # pixels for which each predictor keeps its coefficients; part of the file format
WEIGHT_SCALE = 4096.0
ROWS_PER_THREAD = 12  # fewer are not worth a second thread

Source = Callable[[int, int, int, Floats], Ints]


@lru_cache(1)
def parameters() -> tuple[tuple[mixture.Network, Floats], ...]:
    """For the first, second and third plane: the network, and the coefficients of a usual predictor."""
    path = Path(__file__).with_name("mixture.npz")
    result = []
    with np.load(path) as stored:
        for position in range(3):
            network = {name: stored[f"{name}_{position}"] / WEIGHT_SCALE for name in mixture.NETWORK}
            result.append((network, stored[f"usual_{position}"] / WEIGHT_SCALE))
    return tuple(result)


class Planes:
    """Pixels decoded so far, and the errors of their predictions.

    estimate  float64 [3, H, W] in grey levels, which both sides know; None: there is none
    """

    def __init__(self, size: tuple[int, int], estimate: Floats | None = None) -> None:
        height, width = size
        self.size, self.has_estimate = size, estimate is not None
        self.values = np.zeros((3 if estimate is None else 6, height, width))
        if estimate is not None:
            self.values[3:] = estimate
        self.errors = np.full((3, height + 2 * MARGIN, width + 2 * MARGIN), UNKNOWN_ERROR)

    def run(
        self, order: tuple[int, ...], position: int, source: Source, speed: int = 0, threads: int = 1,
        watch: Callable[[int, int, int, Floats, Floats, Floats], None] | None = None,
    ) -> None:  # fmt: skip
        """Decode the plane order[position], those before it being decoded.

        source  source(first, last, time, weights [last - first, 256]) gives the pixels of these rows at `time`
        speed   index into SPEEDS
        watch   called with (first, last, time, regressors, means, inputs) after each line, for fitting
        """
        height, width = self.size
        target, earlier = order[position], np.array(order[:position][::-1], np.int64)
        causal = CAUSAL[: CAUSAL_COUNTS[position]]
        around = [(order[p], *o) for p, count in enumerate(AROUND_COUNTS[position]) for o in AROUND[:count]]
        if self.has_estimate:
            around += [(3 + target, *o) for o in AROUND[:ESTIMATE_COUNT]]
        places = np.array(around, np.int64).reshape(-1, 3)
        network, known = parameters()[position]
        usual = np.zeros(len(causal) + len(places))
        usual[: len(known)] = known
        n = len(usual) + 1
        left = np.zeros((PREDICTORS, height, n * (n + 1) // 2))
        above = np.zeros((PREDICTORS, width, n * (n + 1) // 2))
        squared = np.full((PREDICTORS, *self.errors.shape[1:]), UNKNOWN_ERROR**2)
        coefficients, kept = np.zeros((PREDICTORS, height, n - 1)), np.array(SPEEDS[speed], np.int64)
        regressors, means, base = np.zeros((height, n)), np.zeros((height, PREDICTORS + 1)), np.zeros(height)
        inputs = np.zeros((height, mixture.feature_count(position)))
        weights = np.empty((min(height, (width + SLANT - 1) // SLANT), 256))
        layers = [network[name] for name in mixture.NETWORK]

        def model(first: int, last: int, time: int, out: Floats) -> None:
            prediction.predict(
                self.values, target, causal, places, usual, left, above, squared, coefficients, kept, first, last,
                time, regressors, means, base,
            )  # fmt: skip
            mixture.tables(
                regressors, means, self.errors, target, earlier, first, last, time, *layers, inputs, out
            )

        with ThreadPoolExecutor(threads) as pool:
            for time in range(width + SLANT * (height - 1)):
                first = max(0, -((width - 1 - time) // SLANT))
                last = min(height - 1, time // SLANT) + 1
                rows = last - first
                if rows <= 0:
                    continue
                parts = max(1, min(threads, rows // ROWS_PER_THREAD))
                edges = [first + rows * i // parts for i in range(parts + 1)]
                others = [
                    pool.submit(model, a, b, time, weights[a - first : b - first])
                    for a, b in itertools.pairwise(edges[1:])
                ]
                model(edges[0], edges[1], time, weights[: edges[1] - first])
                for other in others:
                    other.result()
                pixels = source(first, last, time, weights[:rows])
                prediction.update(
                    self.values, target, left, squared, self.errors, first, last, time, regressors, means, base,
                    pixels,
                )  # fmt: skip
                if watch:
                    watch(first, last, time, regressors, means, inputs)
