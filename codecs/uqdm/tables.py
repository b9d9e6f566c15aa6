"""Coding tables of UQDM: P(k) for the integers of a step, and P(x | z_0) for the pixels.

A step's integer k says that the latent differs by delta (k - u) from the predicted mean, u being the dither.  With G
the distribution function of the base density g (Yang et al. 2025, section 3.2),

    P(k) = G((k - u + 1/2) delta / std) - G((k - u - 1/2) delta / std),

which depends on the rounded std and the value of the dither alone, so that a few thousand tables serve all symbols of
all images.  Pixels depend on where z_0 lies between two grey levels, and near black and white on the grey level.
Tables are built on first use and hold whole numbers, so both sides have the same.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ...lightning_modules.diffusion.pixels import LEVELS, window_radius
from ...lightning_modules.diffusion.universal_quantization import BasePrior, interval_log_mass
from ..entropy import Table, integer_weights
from .latents import DITHERS, MIN_STD_INDEX, STDS_PER_OCTAVE, UNITS

_COVERED_STDS = {"logistic": 7.0, "gaussian": 4.8}  # on each side of the mean; 3e-6 of the mass is left to escapes
_MAX_RADIUS = 4096
PARTS_PER_LEVEL = 64  # z_0 / alpha_0 is rounded to 1/64 grey level for the pixels' tables


def step_index(std_index: NDArray[np.int32], dither: NDArray[np.int32]) -> NDArray[np.int64]:
    """Table numbers >= 0 for indices of std and of dither of one shape (StepParameters.std_index, UQDMChain.dither)."""
    return (std_index.astype(np.int64) - MIN_STD_INDEX) * DITHERS + dither


def step_table(base_prior: BasePrior, number: int) -> Table:
    """The table of integers k with this number (see `step_index`)."""
    std_row, dither = divmod(number, DITHERS)
    return _tables_of_std(base_prior, std_row)[dither]


@lru_cache(maxsize=512)
def _tables_of_std(base_prior: BasePrior, std_row: int) -> list[Table]:
    """The tables of one std, one per value of the dither: together they take hardly longer than one alone."""
    std = 2.0 ** ((std_row + MIN_STD_INDEX) / STDS_PER_OCTAVE)  # in deltas
    dither_value = (2.0 * torch.arange(DITHERS, dtype=torch.float64)[:, None] + 1 - DITHERS) / UNITS
    radius = min(_MAX_RADIUS, math.ceil(_COVERED_STDS[base_prior] * std) + 1)
    k = torch.arange(-radius, radius + 1, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    mass = interval_log_mass(k - dither_value, one, one * std, base_prior).exp().numpy()
    escape = [[max(0.0, 1.0 - row.sum())] for row in mass]
    return [Table(-radius, weights) for weights in integer_weights(np.concatenate([escape, mass], axis=1))]


class PixelTables:
    """P(x | z_0) for z_0 with noise of `log_snr_0` (Kingma et al. 2021, section 3.3).

    radius  pixels further than so many grey levels from z_0 / alpha_0 are not in its table
    """

    def __init__(self, log_snr_0: float) -> None:
        self.radius = window_radius(log_snr_0)
        self._precision = math.exp(log_snr_0) * (2.0 / LEVELS) ** 2  # of z_0 / alpha_0, per squared grey level
        self._cache: dict[int, Table] = {}

    def locate(self, mean: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(table numbers, base grey levels), shaped like `mean` = z_0 / alpha_0 in grey levels (`grey_levels`).

        The table gives the probabilities of pixel minus base.
        """
        margin = self.radius * PARTS_PER_LEVEL
        place = np.rint(mean * PARTS_PER_LEVEL).clip(-margin, (LEVELS - 1) * PARTS_PER_LEVEL + margin).astype(np.int64)
        base = (place + PARTS_PER_LEVEL // 2) // PARTS_PER_LEVEL
        inside = (base >= self.radius) & (base < LEVELS - self.radius)
        number = np.where(inside, place % PARTS_PER_LEVEL, PARTS_PER_LEVEL + margin + place)
        return number, base

    def table(self, number: int) -> Table:
        """The table with this number (see `locate`)."""
        if number not in self._cache:
            self._cache[number] = self._build(number)
        return self._cache[number]

    def _build(self, number: int) -> Table:
        if number < PARTS_PER_LEVEL:  # far from black and white: only the position between two grey levels matters
            place = number if number < PARTS_PER_LEVEL // 2 else number - PARTS_PER_LEVEL
            low, high = -self.radius, self.radius
        else:
            absolute = number - PARTS_PER_LEVEL - self.radius * PARTS_PER_LEVEL
            base = (absolute + PARTS_PER_LEVEL // 2) // PARTS_PER_LEVEL
            place = absolute - base * PARTS_PER_LEVEL
            low, high = max(-self.radius, -base), min(self.radius, LEVELS - 1 - base)
        distance = np.arange(low, high + 1) - place / PARTS_PER_LEVEL
        logits = -0.5 * self._precision * distance**2
        mass = np.exp(logits - logits.max())
        return Table(low, integer_weights(np.concatenate([[0.0], mass / mass.sum()])))
