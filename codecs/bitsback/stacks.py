"""Integers under Gaussians on a stack: what is put there, and a stand-in for the stack that only counts bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..entropy import Floats

Ints = NDArray[np.int64]
MEANS_PER_BIN = 16  # means are integers in sixteenths of a bin


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
