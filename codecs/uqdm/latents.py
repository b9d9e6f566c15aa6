"""The latents of a UQDM stream, which sender and receiver compute alike, in integers (Yang et al. 2025, section 3).

Step i of T leads from z_t to z_s.  Universal quantization sends z_s with the shared dither u ~ U(-1/2, 1/2):

    sender    k = round((m - mu) / delta + u),   m the mean of q(z_s | z_t, x), mu that of p(z_s | z_t)
    both      z_s = mu + delta (k - u)           = m + delta U(-1/2, 1/2), whatever mu is

k is coded under p(z_s | z_t), whose mean mu and standard deviation come from a network, and both sides must derive the
same coding tables from them.  So every latent is a whole number of units of delta / UNITS, mu is rounded to such units
and the std to sixteenths of an octave, and the network computes them the same way every time (threads.py), in batches
of a fixed size.  It does so in float64, where errors are about 1e-13 of a unit, so that rounding hides what differs
between machines (files of version 0.1 may say float32, which decodes on the like of the machine that wrote them).

No bits here: tables.py turns the integers into probabilities, codec.py into a stream.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels import get_backend
from ...lightning_modules.diffusion.universal_quantization import LOGISTIC_SCALE
from ...lightning_modules.uqdm import UQDM, Method
from ..threads import side_by_side

TILE = 64  # side of the square pieces that an image is coded in, in pixels
BATCH = 8  # tiles per network pass
DITHERS = 32  # values that the dither u can take
UNITS = 2 * DITHERS  # latents are multiples of delta / UNITS
STDS_PER_OCTAVE = 16  # grid of standard deviations
MIN_STD_INDEX, MAX_STD_INDEX = -8 * STDS_PER_OCTAVE, 16 * STDS_PER_OCTAVE - 1  # stds from 2^-8 to 2^16 deltas

NOISE_KEY = 0x5551444D  # of all shared noise
START_STREAM, ANCESTRAL_STREAM = 1 << 32, 1 << 33  # beside stream i, the dither of step i

Result = TypeVar("Result")
Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass
class StepParameters:
    """p(z_s | z_t) of one step without its uniform part, for all tiles; arrays [N, 3, TILE, TILE].

    mean       int32, in units of delta / UNITS
    std_index  int32, MIN_STD_INDEX .. MAX_STD_INDEX: the std is 2^(std_index / STDS_PER_OCTAVE) deltas
    unrounded  (mean, std), float64 in deltas, as the network gave them; None unless asked for
    """

    mean: Ints
    std_index: Ints
    unrounded: tuple[Floats, Floats] | None


class UQDMChain:
    """The latents of N tiles, [N, 3, TILE, TILE], from pure noise (step 0) to z_0 (step n_steps).

    step      number of steps done
    units     the latents, int32 in units of the last step's delta / UNITS; zero before the first step
    log_snrs  [n_steps + 1] log-SNR after 0, 1, ... steps
    """

    def __init__(self, model: UQDM, num_tiles: int, workers: int = 1, double: bool = True) -> None:
        """On the CPU `workers` batches are computed at a time; `double` runs the network in float64."""
        self.workers = workers
        self.model = copy.deepcopy(model).double() if double else model
        self.dtype = torch.float64 if double else torch.float32
        self.device = model.device
        self.backend = get_backend("cpu")
        self.num_tiles = num_tiles
        # All constants of the schedule as float64 scalars, from the weights as stored; by the CPU, because a GPU may
        # round linspace otherwise.
        times = torch.linspace(1.0, 0.0, model.n_steps + 1, dtype=torch.float64)
        with torch.no_grad():
            self.log_snrs: list[float] = copy.deepcopy(model.schedule).cpu()(times).tolist()
        self.step = 0
        noise = self.backend.normal_rows(NOISE_KEY, START_STREAM, torch.arange(num_tiles), 3 * TILE * TILE)
        self._initial_noise = noise.reshape(num_tiles, 3, TILE, TILE)
        self.units = np.zeros((num_tiles, 3, TILE, TILE), np.int32)

    def delta(self, step: int) -> float:
        """Quantization step from `step` to step + 1; delta^2 / 12 is the variance of q(z_s | z_t, x)."""
        return float(UQDM.delta(self.log_snrs[step], self.log_snrs[step + 1], torch.zeros((), dtype=torch.float64)))

    def latents(self, tiles: slice = slice(None)) -> Tensor:
        """The current latents of some tiles, float64 [n, 3, TILE, TILE] on the CPU."""
        if self.step == 0:
            return self._initial_noise[tiles].double()
        return torch.from_numpy(self.units[tiles]).double() * (self.delta(self.step - 1) / UNITS)

    def dither(self) -> Ints:
        """Which of the DITHERS values of u this step has where: int32 0 .. DITHERS - 1, shaped like the latents."""
        count = self.units.size
        words = self.backend.random_words(NOISE_KEY, self.step, torch.arange(-(-count // 16))).numpy()
        octets = words.astype("<u4").reshape(-1).view(np.uint8)[:count]
        return (octets >> 3).astype(np.int32).reshape(self.units.shape)

    @staticmethod
    def dither_value(dither: Ints) -> Ints:
        """delta u in units of delta / UNITS: odd numbers between -UNITS / 2 and UNITS / 2."""
        return 2 * dither + 1 - DITHERS

    def advance(self, units: Ints) -> None:
        """Make `units`, in this step's delta / UNITS, the latents of the next step."""
        self.units, self.step = units, self.step + 1

    def step_parameters(self, unrounded: bool = False) -> StepParameters:
        """The coding distribution of this step: one pass of the network over all tiles."""
        t, s, delta = self.log_snrs[self.step], self.log_snrs[self.step + 1], self.delta(self.step)

        def evaluate(tiles: slice) -> tuple[Floats, Floats]:
            z = self.latents(tiles).to(self.device, self.dtype)
            log_snr = torch.tensor([t, s], dtype=self.dtype, device=self.device)[:, None].expand(2, len(z))
            prior = self.model.step_prior(z, log_snr[0], log_snr[1])
            return (prior.mean.double() / delta).cpu().numpy(), (prior.std.double() / delta).cpu().numpy()

        mean, std = (np.concatenate(batches) for batches in zip(*self._in_batches(evaluate), strict=True))
        std_index = np.rint(STDS_PER_OCTAVE * np.log2(std)).clip(MIN_STD_INDEX, MAX_STD_INDEX).astype(np.int32)
        limit = 2.0**30  # keeps int32 arithmetic safe whatever a damaged stream makes of the latents
        return StepParameters(
            np.rint(np.nan_to_num(mean) * UNITS).clip(-limit, limit).astype(np.int32),
            std_index,
            (mean, std) if unrounded else None,
        )

    def reconstruct(self, method: Method) -> Tensor:
        """uint8 tiles [N, 3, TILE, TILE] from the current latents, by one of the model's three methods."""

        def evaluate(tiles: slice) -> Tensor:
            z = self.latents(tiles).to(self.device, self.dtype)
            return self.model.reconstruct(z, self.step, method, self._ancestral_noise(tiles)).cpu()

        return torch.cat(self._in_batches(evaluate))

    def _ancestral_noise(self, tiles: slice) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
        """Counter-based noise, so that the receiver's image does not depend on anything but the file."""

        def draw(z: Tensor, step: int) -> tuple[Tensor, Tensor]:
            first, count = tiles.start * 3 * TILE * TILE, z.numel()
            words = self.backend.random_words(NOISE_KEY, ANCESTRAL_STREAM + step, torch.arange(first, first + count))
            base, uniform = ((words[:, :2].double() + 0.5) / 2**32).T.reshape(2, *z.shape).to(z)
            if self.model.base_prior == "logistic":
                unit = torch.logit(base, eps=1e-7) * LOGISTIC_SCALE
            else:
                unit = torch.special.ndtri(base.clamp(1e-7, 1 - 1e-7))
            return unit, uniform - 0.5

        return draw

    def _in_batches(self, evaluate: Callable[[slice], Result]) -> list[Result]:
        """`evaluate` of every batch of tiles, in order, with the same arithmetic whatever the number of threads."""
        batches = [slice(first, min(first + BATCH, self.num_tiles)) for first in range(0, self.num_tiles, BATCH)]
        return side_by_side(evaluate, batches, self.device, self.workers)
