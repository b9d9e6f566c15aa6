"""Coding tables of UQDM: the integers of a step, and the pixels given z_0.

A step's integer k stands for the difference (k - u) delta between latent and predicted mean, u being the dither.  Its
probabilities depend on the rounded deviation and the position of the dither alone, so that a few thousand tables serve
all symbols of all images.  Pixels depend on where z_0 lies between two grey levels, and near black and white on the
grey level.  Tables are built on first use and hold whole numbers, so both sides have the same.
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
from .latents import DITHER, FINE, LOWEST, OCTAVE

_REACH = {"logistic": 7.0, "gaussian": 4.8}  # deviations that a table covers; 3e-6 of the mass is left to escapes
_MAX_RADIUS = 4096
PIXEL_STEPS = 64  # positions per grey level that z_0 is rounded to, for the pixels' tables


def step_index(scale: NDArray[np.int32], position: NDArray[np.int32]) -> NDArray[np.int64]:
    """Table numbers for indices of deviation and positions of the dither."""
    return (scale.astype(np.int64) - LOWEST) * DITHER + position


def step_table(base_prior: BasePrior, number: int) -> Table:
    """The table of integers k with this number (see `step_index`)."""
    scale, position = divmod(number, DITHER)
    return _tables_of_scale(base_prior, scale)[position]


def forget_step_tables() -> None:
    """Drop the tables built so far; for measurements."""
    _tables_of_scale.cache_clear()


@lru_cache(maxsize=512)
def _tables_of_scale(base_prior: BasePrior, scale: int) -> list[Table]:
    """The tables of one deviation, one per position of the dither: together they take hardly longer than one alone."""
    std = 2.0 ** ((scale + LOWEST) / OCTAVE)  # in quantization widths
    offset = (2.0 * torch.arange(DITHER, dtype=torch.float64)[:, None] + 1 - DITHER) / FINE
    radius = min(_MAX_RADIUS, math.ceil(_REACH[base_prior] * std) + 1)
    k = torch.arange(-radius, radius + 1, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    mass = interval_log_mass(k - offset, one, one * std, base_prior).exp().numpy()
    escape = [[max(0.0, 1.0 - row.sum())] for row in mass]
    return [Table(-radius, weights) for weights in integer_weights(np.concatenate([escape, mass], axis=1))]


class PixelTables:
    """Tables for pixels given z_0 with noise of `log_snr_0` (VDM, section 3.3)."""

    def __init__(self, log_snr_0: float) -> None:
        self.radius = window_radius(log_snr_0)
        self._precision = math.exp(log_snr_0) * (2.0 / LEVELS) ** 2  # of z_0 / alpha_0, per squared grey level
        self._cache: dict[int, Table] = {}

    def locate(self, centre: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(table numbers, base grey levels) for z_0 / alpha_0 in grey levels; tables are of pixel minus base."""
        margin = self.radius * PIXEL_STEPS
        place = np.rint(centre * PIXEL_STEPS).clip(-margin, (LEVELS - 1) * PIXEL_STEPS + margin).astype(np.int64)
        base = (place + PIXEL_STEPS // 2) // PIXEL_STEPS
        inside = (base >= self.radius) & (base < LEVELS - self.radius)
        number = np.where(inside, place % PIXEL_STEPS, PIXEL_STEPS + margin + place)
        return number, base

    def table(self, number: int) -> Table:
        """The table with this number (see `locate`)."""
        if number not in self._cache:
            self._cache[number] = self._build(number)
        return self._cache[number]

    def _build(self, number: int) -> Table:
        if number < PIXEL_STEPS:  # far from black and white: only the position between two grey levels matters
            place = number if number < PIXEL_STEPS // 2 else number - PIXEL_STEPS
            low, high = -self.radius, self.radius
        else:
            absolute = number - PIXEL_STEPS - self.radius * PIXEL_STEPS
            base = (absolute + PIXEL_STEPS // 2) // PIXEL_STEPS
            place = absolute - base * PIXEL_STEPS
            low, high = max(-self.radius, -base), min(self.radius, LEVELS - 1 - base)
        distance = np.arange(low, high + 1) - place / PIXEL_STEPS
        logits = -0.5 * self._precision * distance**2
        mass = np.exp(logits - logits.max())
        return Table(low, integer_weights(np.concatenate([[0.0], mass / mass.sum()])))
