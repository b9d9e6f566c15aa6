"""Make index_masses.npy: integer class masses of PFR indices for both index models on a grid of chunk KLs.

The law of the index of an exact PFR is sampled without any search (Li and El Gamal 2018, section II).  With w = q / p,
the winning score theta = t / w is Exp(1) and independent of the winner z ~ q; the winner arrives at t = theta w(z), and
the number of earlier arrivals is Poisson with mean

    integral_0^t P_p(W < s / theta) ds = theta (w P_p(W < w) - P_q(W < w)).

For N(mu, I) against N(0, I), ln W is normal with mean -D, +D under p, q and variance 2 D (D in nats).  A variance v > 1
shifts the law slightly; docs/decisions/0011-pfr.md has the cost.  Zipf: s = 1 + 1 / (D + ln(e + 1) / e), D in bits.

    python -m diffpress.codecs.reverse_channel.tools.make_index_masses
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, zeta

from ..index_code import CLASSES, GRID, MAX_KL, MAX_OCTAVE, raw_bits

SAMPLES = 1 << 20
UNIT = 1 << 30  # integer masses are multiples of 2^-30, at least one unit each


def draw_indices(bits: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` indices (first candidate: 1) of exact PFR at a KL of `bits` bits, stratified in the winner's weight."""
    d = bits * math.log(2)
    deviation = math.sqrt(2 * d)
    log_w = d + deviation * ndtri((np.arange(count) + rng.random(count)) / count)
    w = np.exp(log_w)
    theta = rng.exponential(size=count)
    mean = np.maximum(theta * (w * ndtr((log_w + d) / deviation) - ndtr((log_w - d) / deviation)), 0)
    return 1 + np.where(mean < 1e9, rng.poisson(np.minimum(mean, 1e9)), np.round(mean))


def tabulated(bits: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Class probabilities of exact PFR, float64 [CLASSES]."""
    m = np.minimum(draw_indices(bits, SAMPLES, rng), 2.0**MAX_OCTAVE - 1)
    octave = np.frexp(m)[1] - 1
    label = np.where(octave < 2, m - 1, 4 * (octave - 2) + np.floor(m / 2.0 ** np.maximum(octave - 2, 0)) - 1)
    return np.bincount(label.astype(np.int64), minlength=CLASSES) / SAMPLES


def zipf(bits: float) -> NDArray[np.float64]:
    """Class probabilities of the Zipf law, float64 [CLASSES]."""
    s = 1 + 1 / (bits + math.log(math.e + 1) / math.e)
    labels = range(CLASSES)
    first = np.array([1.0, 2.0, 3.0] + [float((4 + (c - 3) % 4) << raw_bits(c)) for c in labels if c >= 3])
    edges = np.append(first, 2.0 ** (MAX_OCTAVE + 1))
    return (zeta(s, edges[:-1]) - zeta(s, edges[1:])) / zeta(s)


def main() -> None:
    """Write the table beside index_code.py."""
    rng = np.random.default_rng(20261121)
    grid = np.arange(1, int(MAX_KL * GRID) + 1) / GRID
    laws = np.array([[tabulated(bits, rng) for bits in grid], [zipf(bits) for bits in grid]])
    path = Path(__file__).resolve().parent.parent / "index_masses.npy"
    np.save(path, (1 + np.round(laws * UNIT)).astype(np.uint32))


if __name__ == "__main__":
    main()
