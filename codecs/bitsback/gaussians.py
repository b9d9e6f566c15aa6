"""Integers under Gaussians on a stack: which Gaussians, and a stand-in for the stack that only counts bits.

The stds of p(z_s | z_t) and their correlation are what a file says about the denoiser's errors on its image.  A
denoiser errs alike in all three channels, so p takes green first and predicts red and blue from green's error; by which
gains, and how much error is left, is measured on the image (linear regression) and travels in the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..entropy import Floats
from ..pixel_residual import CODING_ORDER, GAIN_SCALE

Ints = NDArray[np.int64]
MEANS_PER_BIN = 16  # means are integers in sixteenths of a bin
STD_STEPS = 32  # stds are coded in steps of 2^(1/32), from 2^-1 of what a perfect denoiser would leave
NODE_BYTES = 6  # per node: three stds, three gains
MAX_NODES = 8


class GaussianStack(Protocol):
    """What entropy.BitStack and `CountingStack` both do: see there."""

    def push(self, symbols: Ints, means: Floats, stds: Floats, low: int, high: int) -> None: ...

    def pop(self, means: Floats, stds: Floats, low: int, high: int) -> NDArray[np.int32]: ...


class CountingStack:
    """In place of a BitStack, to measure: pops draw from a seeded generator, pushes count and keep nothing.

    bits  -log2 of the masses of all that was pushed, minus that of all that was popped
    """

    def __init__(self) -> None:
        self.rng, self.bits = np.random.default_rng(0), 0.0

    def push(self, symbols: Ints, means: Floats, stds: Floats, low: int, high: int) -> None:
        """Count integers [N] under N(means[n], stds[n]^2)."""
        self.bits -= _log2_mass(symbols - means, stds)

    def pop(self, means: Floats, stds: Floats, low: int, high: int) -> NDArray[np.int32]:
        """Draw integers [N] in low..high from N(means[n], stds[n]^2), and count them."""
        drawn = np.rint(means + stds * self.rng.standard_normal(len(means))).clip(low, high)
        self.bits += _log2_mass(drawn - means, stds)
        return drawn.astype(np.int32)


def _log2_mass(offsets: Floats, stds: Floats) -> float:
    """Sum of log2 of the Gaussian masses of [offset - 1/2, offset + 1/2], at least 2^-40 each."""
    distance = torch.from_numpy(np.abs(np.asarray(offsets, np.float64)))  # in the lower tail nothing cancels
    std = torch.from_numpy(stds)
    upper, lower = (torch.special.ndtr((shift - distance) / std) for shift in (0.5, -0.5))
    return float((upper - lower).clamp(min=2.0**-40).log2().sum())


@dataclass(frozen=True)
class GridGaussian:
    """A Gaussian over whole numbers of bins, around means in sixteenths of a bin.

    std    in bins
    reach  nothing lies further than so many bins from the mean
    """

    std: float
    reach: int

    def push_onto(self, stack: GaussianStack, symbols: Sequence[Ints], means: Sequence[Ints]) -> None:
        """Put arrays of integers, each around its own means of the same shape, on the stack."""
        mean = np.concatenate([array.ravel() for array in means])
        whole = (mean + MEANS_PER_BIN // 2) // MEANS_PER_BIN
        offsets = np.concatenate([array.ravel() for array in symbols]) - whole
        stack.push(offsets, *self._parameters(mean, whole), -self.reach, self.reach)

    def pop_from(self, stack: GaussianStack, means: Sequence[Ints]) -> list[Ints]:
        """Take arrays of integers around `means`, of the same shapes, from the stack; undoes `push_onto`."""
        mean = np.concatenate([array.ravel() for array in means])
        whole = (mean + MEANS_PER_BIN // 2) // MEANS_PER_BIN
        drawn = stack.pop(*self._parameters(mean, whole), -self.reach, self.reach) + whole
        ends = np.cumsum([array.size for array in means])[:-1]
        return [piece.reshape(array.shape) for piece, array in zip(np.split(drawn, ends), means, strict=True)]

    def _parameters(self, mean: Ints, whole: Ints) -> tuple[Floats, Floats]:
        return (mean - MEANS_PER_BIN * whole) / MEANS_PER_BIN, np.full(len(mean), self.std)


@dataclass(frozen=True)
class SideInformation:
    """Stds and gains at each of `steps` steps, linearly interpolated between some evenly spread ones, the nodes.

    data   NODE_BYTES per node, the noisiest first: a byte for the std of green, red, blue; signed gains
    steps  T

    8 nodes of 20 steps describe a photo as well as 20; the other 12 would be 1 % of a file of 64 x 64 pixels.
    """

    data: bytes
    steps: int

    @classmethod
    def fit(cls, residuals: Sequence[Floats], nodes: int = MAX_NODES) -> SideInformation:
        """From residuals [3, N] of z around its mean under p, one array per step, in stds of a perfect denoiser."""
        rows = []
        for step in _nodes(nodes, len(residuals)):
            green, red, blue = residuals[step][list(CODING_ORDER)]
            first = green @ red / max(green @ green, 1e-9)
            pair, target = np.stack([green, red]), blue
            both = np.linalg.lstsq(pair.T, target, rcond=None)[0]
            gains = np.rint(GAIN_SCALE * np.clip([first, *both], -1.9, 1.9)).astype(np.int8)
            red_green, blue_green, blue_red = gains / GAIN_SCALE
            left = (green, red - red_green * green, blue - blue_green * green - blue_red * red)
            octaves = np.log2(np.maximum([math.sqrt(float((error**2).mean())) for error in left], 2.0**-1))
            codes = np.minimum(255, np.rint(STD_STEPS * (octaves + 1))).astype(np.uint8)
            rows.append(codes.tobytes() + gains.tobytes())
        return cls(b"".join(rows), len(residuals))

    def std(self, step: int, position: int) -> float:
        """Of the channel coded at `position`, in stds of a perfect denoiser."""
        return rounded(2.0 ** (self._table[step][position] / STD_STEPS - 1))

    def gains(self, step: int) -> tuple[int, int, int]:
        """Red from green, blue from green, blue from red, in 1/GAIN_SCALE."""
        red, blue_green, blue_red = self._table[step][3:]
        return red, blue_green, blue_red

    @cached_property
    def _table(self) -> list[list[int]]:
        """Codes and gains of every step, in integers throughout."""
        pieces = [self.data[at : at + NODE_BYTES] for at in range(0, len(self.data), NODE_BYTES)]
        rows = [[*data[:3], *struct.unpack("3b", data[3:])] for data in pieces]
        table = [rows[0]]
        for (begin, left), (end, right) in pairwise(zip(_nodes(len(rows), self.steps), rows, strict=True)):
            length = end - begin
            for at in range(1, length + 1):
                both = zip(left, right, strict=True)
                table.append([(a * (length - at) + b * at + length // 2) // length for a, b in both])
        return table


def _nodes(count: int, steps: int) -> list[int]:
    """`count` of `steps` steps, or all, evenly spread, the first and the last among them."""
    count = min(count, steps)
    return [(2 * i * (steps - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def rounded(value: float) -> float:
    """To 2^-24, so that the last bits of exp and sqrt, which differ between machines, do not matter."""
    return round(value * 2**24) / 2**24
