"""The format of a step that the trellis coder sends: bytes, refinement layers, codewords and stages.

Both sides derive it from (size, bits, key) by integer or correctly rounded float64 arithmetic, so that every machine
finds the same: `step_format`, docs/method/reverse-channel.md, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from . import interface as base
from .codebook import CoordinateRows, equal_edges

FLUSH = 4  # last stages, which shift in no new bits
FLUSH_RATE = 0.25  # no flush above this many bits per coordinate, where every coordinate needs its bits
LAYER_RATE = 2.0  # bits per coordinate that one layer carries at most
LAYER_SURPLUS = 0.06  # extra bits of every layer but the last, against errors that the next one could not take back
METRICS = 1 << 26  # states times stages of a codeword at most, 128 MiB in the search; longer layers are several
CODEWORD_STAGES = 1 << 11  # and stages at most; longer codewords deliver no more
GROUP_SCORES = 1 << 25  # scores held at once, 64 MiB as 16-bit integers
RAMP_STAGES = 20  # the early stages that own fewer coordinates are at most this many

# Bits to spend per bit of KL so that the search delivers the step's KL, at these budgets per codeword and for these
# constraint lengths; linear in between.  Measured open loop (docs/results/coders.md).
BUDGETS = (6.0, 13.0, 28.0, 58.0, 118.0, 240.0, 480.0, 960.0, 3840.0)
FACTORS = {
    10: (1.390, 1.254, 1.169, 1.137, 1.119, 1.106, 1.097, 1.091, 1.090),
    12: (1.381, 1.235, 1.151, 1.111, 1.095, 1.078, 1.075, 1.071, 1.070),
    14: (1.401, 1.229, 1.133, 1.096, 1.083, 1.068, 1.064, 1.060, 1.057),
    16: (1.391, 1.230, 1.132, 1.090, 1.067, 1.056, 1.051, 1.049, 1.046),
}


@dataclass(frozen=True)
class CodewordGroup:
    """Codewords that are searched in one call.

    first, last  the coordinates they own, in rotated order
    num_bytes    payload bytes of each codeword
    k            bits per stage
    flush        last stages of each codeword, which carry no bits
    """

    first: int
    last: int
    num_bytes: tuple[int, ...]
    k: int
    flush: int

    @property
    def coordinates(self) -> slice:
        """The group's coordinates."""
        return slice(self.first, self.last)

    @property
    def stages(self) -> NDArray[np.int64]:
        """Stages of each codeword, flush included, int64 [codewords]."""
        return 8 // self.k * np.array(self.num_bytes) + self.flush

    @cached_property
    def rows(self) -> CoordinateRows:
        """The coordinates of every stage; the stages of all codewords one behind the other."""
        stage_edges = [np.zeros(1, np.int64)]
        codeword_edges = equal_edges(self.last - self.first, len(self.num_bytes))
        for start, size, stages in zip(codeword_edges, np.diff(codeword_edges), self.stages, strict=False):
            stage_edges.append(start + stage_bounds(int(size), int(stages))[1:])
        return CoordinateRows(torch.from_numpy(np.concatenate(stage_edges)))

    def pack(self, symbols: NDArray[np.uint8]) -> bytes:
        """Payload of the symbols uint8 [stages of all codewords], the first symbol in a byte's highest bits."""
        free = symbols[self._free()].reshape(-1, 8 // self.k).astype(np.int64)
        return (free << self._shifts()).sum(1).astype(np.uint8).tobytes()

    def unpack(self, payload: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The inverse of `pack`: uint8 [bytes] -> symbols int64 [stages of all codewords]."""
        symbols = np.zeros(int(self.stages.sum()), np.int64)
        free = (payload.astype(np.int64)[:, None] >> self._shifts()) & ((1 << self.k) - 1)
        symbols[self._free()] = free.reshape(-1)
        return symbols

    def _free(self) -> NDArray[np.bool_]:
        """Which stages carry bits: all but the last `flush` of each codeword."""
        to_end = np.repeat(np.cumsum(self.stages), self.stages) - np.arange(int(self.stages.sum()))
        return to_end > self.flush

    def _shifts(self) -> NDArray[np.int64]:
        return np.arange(8 - self.k, -1, -self.k)


@dataclass(frozen=True)
class RefinementLayer:
    """One layer of successive refinement (Equitz and Cover, 1991).

    A step below LAYER_RATE bits per coordinate has exactly one layer.

    With target t and sample s ~ N(gain t, I) of marginal variance `variance`, the step's sample gains
    weight * noise * s, and the next layer's target is shrink * (t - noise s).
    """

    num_bytes: int
    variance: float
    gain: float = 1.0
    noise: float = 1.0
    weight: float = 1.0
    shrink: float = 1.0

    def groups(self, step: StepFormat, labels: int) -> Iterator[CodewordGroup]:
        """The codewords of a layer of at least one byte, in groups of bounded memory."""
        longest = min(CODEWORD_STAGES, METRICS >> step.constraint_length) * step.k // 8
        count = -(-self.num_bytes // longest)
        sizes = np.diff(equal_edges(self.num_bytes, count)).tolist()
        edges = equal_edges(step.size, count)
        per_group = max(1, GROUP_SCORES // (labels * (8 // step.k * max(sizes) + step.flush)))
        for c in range(0, count, per_group):
            end = min(c + per_group, count)
            yield CodewordGroup(int(edges[c]), int(edges[end]), tuple(sizes[c:end]), step.k, step.flush)


@dataclass(frozen=True)
class StepFormat:
    """How a step of `size` coordinates is coded in `num_bytes` bytes, layer after layer."""

    size: int
    num_bytes: int
    constraint_length: int
    k: int
    flush: int
    layers: tuple[RefinementLayer, ...]


def stage_bounds(size: int, stages: int) -> NDArray[np.int64]:
    """Edges int64 [stages + 1] of the coordinates of one codeword's stages.

    Early stages get fewer coordinates, in proportion to min(1, 0.1 + j / ramp), ramp 0.35 of the stages or RAMP_STAGES:
    with equal stages a tree of n bits loses 3 / (2 theta) ln n, with energy growing along it a third of that
    (docs/method/reverse-channel.md, eq. 8).
    """
    ramp = min(0.35 * stages, RAMP_STAGES)
    weight = np.minimum(1000, 100 + ((np.arange(stages) + 0.5) * 1000 / ramp).astype(np.int64))
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(weight)])
    return (2 * total * size + total[-1]) // (2 * total[-1])


def bits_per_kl(bits: float, constraint_length: int) -> float:
    """Bits to spend per bit of KL in one codeword of `bits` bits of KL."""
    factors = FACTORS[min(max(constraint_length // 2 * 2, 10), 16)]
    if bits <= BUDGETS[0]:
        return factors[0]
    for b0, b1, f0, f1 in zip(BUDGETS, BUDGETS[1:], factors, factors[1:], strict=False):
        if bits < b1:
            return f0 + (f1 - f0) * ((bits - b0) / (b1 - b0))
    return factors[-1]


def automatic_constraint_length(bits: float, k: int, branches: float) -> int:
    """The largest of three constraint lengths that keeps the search of a step within `branches`, else the smallest."""
    for length in (16, 14):
        if bits / k * 2.0 ** (length + k) <= branches:
            return length
    return 12


def step_format(
    size: int, bits: float, dither: float, constraint_length: int, k: int, variance: base.Variance
) -> StepFormat:
    """The format of a step of `size` coordinates and `bits` bits of KL; `dither` in [0, 1) is shared randomness.

    The budget is rounded to whole bytes with the dither, so that many small steps spend on average what they should
    (a step that gets no byte is a shared draw from p).
    """
    rate = bits / size
    count = max(1, math.ceil(rate / LAYER_RATE)) if variance == "calibrated" else 1
    surplus = 1.0 + LAYER_SURPLUS * (count - 1) / count
    total = math.floor(bits * surplus * bits_per_kl(bits / count, constraint_length) / 8.0 + dither)
    early = (1.0 + LAYER_SURPLUS) / surplus / count  # share of every layer but the last
    edges = [math.floor(total * early * i) for i in range(count)] + [total]
    layers = []
    weight = 1.0
    for i in range(count):
        left = rate * (count - i) / count
        share = edges[i + 1] - edges[i]
        v = base.exp2(2.0 * left) if variance == "calibrated" else 1.0
        if i == count - 1:
            layers.append(RefinementLayer(share, v, weight=weight))
            break
        # z = z1 + z2, independent under p, var z2 = v2 with v2 + 1 = 2^(2 rate left after this layer).  Given mu,
        # z1 ~ N(mu x / v, noise), x = v - v2; given mu and z1, z2 ~ N(c (mu - z1), c), c = v2 / (v2 + 1).
        # The chain rule of mutual information makes the two layers cost what one would.
        v2 = base.exp2(2.0 * rate * (count - i - 1) / count) - 1.0
        x = v - v2
        noise = x - (v - 1.0) * (x / v) * (x / v)
        noise_std, shrink = math.sqrt(noise), math.sqrt(v2 / (v2 + 1.0))
        layers.append(RefinementLayer(share, x / noise, x / v / noise_std, noise_std, weight, shrink))
        weight *= shrink
    return StepFormat(size, total, constraint_length, k, FLUSH if rate <= FLUSH_RATE else 0, tuple(layers))
