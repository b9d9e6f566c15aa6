"""Measure FACTORS of trellis_format.py: bits to spend per bit of KL that the search delivers, at low rates.

    OMP_NUM_THREADS=1 python codecs/reverse_channel/tools/measure_factors.py [--bits 24000]

Open loop: scores of random Gaussian codewords for a mean spread evenly over the coordinates, searched like a step.
With normals of variance `share` per stage, shares adding up to 1, the best path's sum M delivers M^2 / (2 ln 2) bits.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from diffpress.codecs.reverse_channel.trellis_format import (
    BUDGETS,
    CODEWORD_STAGES,
    FLUSH,
    METRICS,
    stage_bounds,
)
from diffpress.kernels.trellis import max_score
from diffpress.kernels.trellis_numba import search_many

LABELS, K = 2048, 2


def factor(length: int, spent: int, runs: int) -> tuple[float, float]:
    """(bits spent per bit of KL delivered, its standard error) by codewords of `spent` bits."""
    stages = spent // K + FLUSH
    share = np.diff(stage_bounds(1 << 24, stages)) / (1 << 24)
    sums = []
    for seed in range(runs):
        scores = np.random.default_rng([length, spent, seed]).standard_normal((stages, LABELS // 2), dtype=np.float32)
        scores *= np.sqrt(share, dtype=np.float32)[:, None]
        unit = np.abs(scores).max() / max_score(length, K)
        whole = np.rint(np.concatenate([scores, -scores], 1) / unit).astype(np.int16)
        sums.append(unit * search_many(whole, np.array([stages]), length, K, FLUSH, 1)[1][0])
    mean = float(np.mean(sums))
    value = spent * 2 * math.log(2) / mean**2
    return value, 2 * value * float(np.std(sums, ddof=1)) / math.sqrt(runs) / mean


def main() -> None:
    """One line per constraint length and codeword, then the table for trellis_format.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=24000, help="bits spent per cell")
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 12, 14, 16], help="constraint lengths")
    arguments = parser.parse_args()
    for length in arguments.lengths:
        largest = min(CODEWORD_STAGES, METRICS >> length) * K
        points = []
        for spent in [8 << i for i in range(11) if 8 << i <= largest]:
            value, error = factor(length, spent, max(3, arguments.bits // spent))
            points.append((spent / value, value))
            print(f"L = {length}, {spent} bits deliver {spent / value:.1f}: {value:.4f} +- {error:.4f}", flush=True)
        kl, values = np.array(points).T
        print(f"    {length}: {tuple(round(float(x), 3) for x in np.interp(np.log(BUDGETS), np.log(kl), values))},")


if __name__ == "__main__":
    main()
