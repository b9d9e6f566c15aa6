"""The arithmetic of a trellis step that both sides must agree on: bytes, layers, codewords, stages and labels.

Everything follows from (size, bits, key) by integer or correctly rounded float64 arithmetic, so that every machine
makes the same plan.  No randomness is drawn here and no sample is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import Variance, exp2
from .layout import Layout

FLUSH = 4  # last stages, which shift in no new bits
FLUSH_RATE = 0.25  # no flush above this many bits per coordinate, where every coordinate needs its bits
LAYER_RATE = 2.0  # bits per coordinate that one layer carries at most
LAYER_SURPLUS = 0.06  # extra bits of every layer but the last, against errors that the next one could not take back
CODEWORD_BYTES = 128  # a longer layer is cut into codewords of about this many bytes
GROUP_FLOATS = 1 << 25  # scores held at once, 128 MiB
BRANCHES = 8e7  # the automatic constraint length keeps the search of a step within this (0.2 s of one core)
RAMP_STAGES = 20  # the early stages that own fewer coordinates are at most this many

Payload = bytes  # the classes below have a field of that name

# Bits to spend per bit of KL so that the search delivers the step's KL, at these budgets per codeword and for these
# constraint lengths; linear in between.  Measured open loop, see docs/decisions/0010-trellis-coder.md.
BUDGETS = (6.0, 13.0, 28.0, 58.0, 118.0, 240.0, 480.0, 960.0)
FACTORS = {
    10: (1.41, 1.27, 1.19, 1.15, 1.127, 1.115, 1.104, 1.10),
    12: (1.41, 1.24, 1.157, 1.12, 1.10, 1.088, 1.081, 1.077),
    14: (1.40, 1.22, 1.135, 1.10, 1.083, 1.072, 1.064, 1.060),
    16: (1.40, 1.215, 1.128, 1.092, 1.068, 1.055, 1.053, 1.050),
}


@dataclass(frozen=True)
class Group:
    """Codewords that are searched in one call.

    first, last  the coordinates they own, in rotated order
    bytes        payload bytes of each codeword
    stages       stages of each codeword, flush included
    """

    first: int
    last: int
    bytes: tuple[int, ...]
    k: int
    flush: int

    @property
    def coordinates(self) -> slice:
        """The group's coordinates."""
        return slice(self.first, self.last)

    @property
    def stages(self) -> list[int]:
        """Stages of each codeword, flush included."""
        return [8 // self.k * count + self.flush for count in self.bytes]

    @cached_property
    def layout(self) -> Layout:
        """The stages of all codewords, one behind the other, as rows of coordinates."""
        bounds = [np.zeros(1, np.int64)]
        edges = deal(self.last - self.first, len(self.bytes))
        for c, stages in enumerate(self.stages):
            bounds.append(edges[c] + stage_bounds(int(edges[c + 1] - edges[c]), stages)[1:])
        return Layout(torch.from_numpy(np.concatenate(bounds)))

    def stage_rows(self) -> Tensor:
        """Rows of the layout as a matrix int64 [codewords, longest], the last row repeated behind short codewords."""
        stages = torch.tensor(self.stages)
        start = torch.cumsum(stages, 0) - stages
        return (start[:, None] + torch.arange(int(stages.max()))).clamp(max=int(stages.sum()) - 1)

    def pack(self, symbols: NDArray[np.uint8]) -> Payload:
        """Payload of symbols uint8 [codewords, longest]."""
        parts = []
        for c, stages in enumerate(self.stages):
            free = symbols[c, : stages - self.flush].reshape(-1, 8 // self.k).astype(np.int64)
            parts.append((free << self._shifts()).sum(1).astype(np.uint8).tobytes())
        return b"".join(parts)

    def unpack(self, payload: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """Symbols of each codeword, flush included; the inverse of `pack`."""
        free = (payload.astype(np.int64)[:, None] >> self._shifts()) & ((1 << self.k) - 1)
        pieces = np.split(free.reshape(-1), np.cumsum(self.stages - np.full(len(self.bytes), self.flush))[:-1])
        return [np.concatenate([piece, np.zeros(self.flush, np.int64)]) for piece in pieces]

    def _shifts(self) -> NDArray[np.int64]:
        return np.arange(8 - self.k, -1, -self.k)


@dataclass(frozen=True)
class Layer:
    """One round of successive refinement; a step below LAYER_RATE bits per coordinate has exactly one.

    With target t and sample s ~ N(gain t, I) of marginal variance `variance`, the step's sample gains
    weight * noise * s, and the next layer's target is shrink * (t - noise s).
    """

    bytes: int
    variance: float
    gain: float = 1.0
    noise: float = 1.0
    weight: float = 1.0
    shrink: float = 1.0

    def groups(self, plan: Plan, labels: int) -> Iterator[Group]:
        """The codewords of a layer of at least one byte, in groups of bounded memory."""
        count = -(-self.bytes // CODEWORD_BYTES)
        sizes = np.diff(deal(self.bytes, count)).tolist()
        edges = deal(plan.size, count)
        per_group = max(1, GROUP_FLOATS // (labels * (8 // plan.k * max(sizes) + plan.flush)))
        for c in range(0, count, per_group):
            end = min(c + per_group, count)
            yield Group(int(edges[c]), int(edges[end]), tuple(sizes[c:end]), plan.k, plan.flush)


@dataclass(frozen=True)
class Plan:
    """How a step of `size` coordinates is coded in `bytes` bytes."""

    size: int
    bytes: int
    constraint_length: int
    k: int
    flush: int
    layers: tuple[Layer, ...]


def deal(total: int, parts: int) -> NDArray[np.int64]:
    """Edges int64 [parts + 1] of nearly equal integer shares of `total`."""
    return np.arange(parts + 1, dtype=np.int64) * total // parts


def stage_bounds(size: int, stages: int) -> NDArray[np.int64]:
    """Edges int64 [stages + 1] of the coordinates of one codeword's stages.

    Early stages get fewer coordinates, in proportion to min(1, 0.1 + j / ramp), ramp 0.35 of the stages or RAMP_STAGES:
    with equal stages a tree of n bits loses 3 / (2 theta) ln n, with energy growing along it a third of that
    (reverse_channel.md, section 3).
    """
    ramp = min(0.35 * stages, RAMP_STAGES)
    weight = np.minimum(1000, 100 + ((np.arange(stages) + 0.5) * 1000 / ramp).astype(np.int64))
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(weight)])
    return (2 * total * size + total[-1]) // (2 * total[-1])


def spend_factor(bits: float, constraint_length: int) -> float:
    """Bits to spend per bit of KL in one codeword of `bits` bits of KL."""
    factors = FACTORS[min(max(constraint_length // 2 * 2, 10), 16)]
    if bits <= BUDGETS[0]:
        return factors[0]
    for b0, b1, f0, f1 in zip(BUDGETS, BUDGETS[1:], factors, factors[1:], strict=False):
        if bits < b1:
            return f0 + (f1 - f0) * ((bits - b0) / (b1 - b0))
    return factors[-1]


def automatic_length(bits: float, k: int) -> int:
    """The largest of three constraint lengths that keeps the search of a step within BRANCHES, else the smallest."""
    for length in (16, 14):
        if bits / k * 2.0 ** (length + k) <= BRANCHES:
            return length
    return 12


def make_plan(
    size: int, bits: float, dither: float, constraint_length: int | None, k: int, variance: Variance
) -> Plan:
    """The plan of a step; `dither` in [0, 1) is shared randomness.

    The budget is rounded to whole bytes with the dither, so that many small steps spend on average what they should
    (a step that gets no byte is a shared draw from p).
    """
    rate = bits / size
    count = max(1, math.ceil(rate / LAYER_RATE)) if variance == "calibrated" else 1
    length = constraint_length or automatic_length(bits, k)
    surplus = 1.0 + LAYER_SURPLUS * (count - 1) / count
    total = math.floor(bits * surplus * spend_factor(bits / count, length) / 8.0 + dither)
    early = (1.0 + LAYER_SURPLUS) / surplus / count  # share of every layer but the last
    edges = [math.floor(total * early * i) for i in range(count)] + [total]
    layers = []
    weight = 1.0
    for i in range(count):
        left = rate * (count - i) / count
        share = edges[i + 1] - edges[i]
        v = exp2(2.0 * left) if variance == "calibrated" else 1.0
        if i == count - 1:
            layers.append(Layer(share, v, weight=weight))
            break
        # z = z1 + z2, independent under p, var z2 = v2 with v2 + 1 = 2^(2 rate left after this layer).  Given mu,
        # z1 ~ N(mu x / v, noise), x = v - v2; given mu and z1, z2 ~ N(c (mu - z1), c), c = v2 / (v2 + 1).
        # The chain rule of mutual information makes the two layers cost what one would.
        v2 = exp2(2.0 * rate * (count - i - 1) / count) - 1.0
        x = v - v2
        noise = x - (v - 1.0) * (x / v) * (x / v)
        deviation, shrink = math.sqrt(noise), math.sqrt(v2 / (v2 + 1.0))
        layers.append(Layer(share, x / noise, x / v / deviation, deviation, weight, shrink))
        weight *= shrink
    return Plan(size, total, length, k, FLUSH if rate <= FLUSH_RATE else 0, tuple(layers))


def hash_labels(content: Tensor, labels: int) -> Tensor:
    """Labels of branches int64, by multiplicative hashing (Knuth, TAOCP 3, 6.4): the top bits of a 32-bit product.

    Labels come in antipodal pairs: label m >= labels / 2 is the negative of codeword m - labels / 2.
    """
    return ((content * 0x9E3779B1) & 0xFFFFFFFF) >> (32 - (labels.bit_length() - 1))


@lru_cache(maxsize=16)
def branch_labels(constraint_length: int, k: int, labels: int) -> Tensor:
    """Labels int64 [2^(L + k)] of all branches, for the search."""
    return hash_labels(torch.arange(1 << (constraint_length + k)), labels)


def path_labels(symbols: list[NDArray[np.int64]], constraint_length: int, k: int, labels: int) -> Tensor:
    """Labels int64 along the paths of several codewords, concatenated."""
    digits = constraint_length // k
    chosen = []
    for path in symbols:
        padded = np.concatenate([np.zeros(digits, np.int64), path])
        content = padded[: len(path)] << constraint_length  # the symbol that the register drops
        stage = np.arange(len(path))
        for back in range(digits):
            place = constraint_length - k * ((stage - back) % digits + 1)
            content += padded[digits - back : len(padded) - back] << place
        chosen.append(content)
    return hash_labels(torch.from_numpy(np.concatenate(chosen)), labels)
