"""The chain of latents that both sides of a UQDM stream walk, in integers.

Sender and receiver must derive the same coding tables from a neural network.  So every latent lies on a grid of
delta / FINE, delta being the step's quantization width; the network's mean is rounded to that grid and its deviation to
sixteenths of an octave, and both are computed the same way every time (reproducible.py), in batches of a fixed size.
In float64 ("portable") errors are about 1e-13 of a grid step, so that rounding hides them between machines, too.

No bits here: uqdm_tables.py turns the integers into probabilities, uqdm.py into a stream.
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

TILE = 64  # side of the square pieces that an image is coded in
BATCH = 8  # tiles per network pass
DITHER = 32  # positions of the dither within a quantization width
FINE = 2 * DITHER  # latents are multiples of delta / FINE
OCTAVE = 16  # steps per octave of the grid of deviations
LOWEST, HIGHEST = -8 * OCTAVE, 16 * OCTAVE - 1  # deviations between 2^-8 and 2^16 widths

KEY = 0x5551444D  # of all shared noise; streams: step i, then the start and the ancestral steps
START, ANCESTRAL = 1 << 32, 1 << 33

T = TypeVar("T")


@dataclass
class Parameters:
    """What the network says about a step, for all tiles.

    mean       int32 [N, 3, 64, 64], in units of delta / FINE
    scale      int32, index of the deviation: 2^(scale / OCTAVE) widths
    exact      unrounded (mean, deviation) in units of delta, float64, if asked for
    """

    mean: NDArray[np.int32]
    scale: NDArray[np.int32]
    exact: tuple[NDArray[np.float64], NDArray[np.float64]] | None


class Chain:
    """Latents of N tiles [N, 3, 64, 64], from the shared noise (step 0) to z_0 (step n_steps)."""

    def __init__(self, model: UQDM, tiles: int, portable: bool, workers: int = 1) -> None:
        """`portable` runs the network in float64; `workers` batches at a time on the CPU, see reproducible.py."""
        self.workers = workers
        self.model = copy.deepcopy(model).double() if portable else model
        self.dtype = torch.float64 if portable else torch.float32
        self.device = model.device
        self.backend = get_backend("cpu")
        self.tiles = tiles
        # All constants of the schedule as float64 scalars, from the weights as stored.
        with torch.no_grad():
            self.log_snrs: list[float] = [float(v) for v in model.log_snrs(torch.float64).cpu()]
        self.step = 0
        rows = torch.arange(tiles)
        noise = self.backend.normal_rows(KEY, START, rows, 3 * TILE * TILE)
        self.start = noise.reshape(tiles, 3, TILE, TILE)
        self.grid = np.zeros((tiles, 3, TILE, TILE), np.int32)  # the latents from step 1 on, in delta / FINE

    def delta(self, step: int) -> float:
        """Quantization width of the message that leads from `step` to step + 1."""
        return float(UQDM.delta(self.log_snrs[step], self.log_snrs[step + 1], torch.zeros((), dtype=torch.float64)))

    def latents(self, part: slice = slice(None)) -> Tensor:
        """The current latents of some tiles, float64 on the CPU."""
        if self.step == 0:
            return self.start[part].double()
        return torch.from_numpy(self.grid[part]).double() * (self.delta(self.step - 1) / FINE)

    def dither(self) -> NDArray[np.int32]:
        """Shared positions 0..DITHER-1 of this step's dither, int32 like the latents; their value is `offset`."""
        count = self.grid.size
        words = self.backend.random_words(KEY, self.step, torch.arange(-(-count // 16))).numpy()
        octets = words.astype("<u4").reshape(-1).view(np.uint8)[:count]
        return (octets >> 3).astype(np.int32).reshape(self.grid.shape)

    @staticmethod
    def offset(position: NDArray[np.int32]) -> NDArray[np.int32]:
        """Value of a dither position in units of delta / FINE: odd, between -FINE / 2 and FINE / 2."""
        return 2 * position + 1 - DITHER

    def advance(self, grid: NDArray[np.int32]) -> None:
        """Make `grid`, in units of this step's delta / FINE, the latents of the next step."""
        self.grid, self.step = grid, self.step + 1

    def parameters(self, exact: bool = False) -> Parameters:
        """This step's coding parameters (one pass of the network over all tiles)."""
        t, s, delta = self.log_snrs[self.step], self.log_snrs[self.step + 1], self.delta(self.step)

        def evaluate(part: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            z = self.latents(part).to(self.device, self.dtype)
            levels = torch.tensor([t, s], dtype=self.dtype, device=self.device)[:, None].expand(2, len(z))
            prior = self.model.step_prior(z, levels[0], levels[1])
            return (prior.mean.double() / delta).cpu().numpy(), (prior.std.double() / delta).cpu().numpy()

        parts = self._map(evaluate)
        mean, scale = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        index = np.rint(OCTAVE * np.log2(scale)).clip(LOWEST, HIGHEST).astype(np.int32)
        limit = 2.0**30  # keeps int32 arithmetic safe whatever a damaged stream makes of the latents
        return Parameters(
            np.rint(np.nan_to_num(mean) * FINE).clip(-limit, limit).astype(np.int32),
            index,
            (mean, scale) if exact else None,
        )

    def reconstruct(self, method: Method) -> Tensor:
        """uint8 tiles [N, 3, 64, 64] from the latents as they are, by one of the model's three methods."""

        def evaluate(part: slice) -> Tensor:
            z = self.latents(part).to(self.device, self.dtype)
            return self.model.reconstruct(z, self.step, method, self._ancestral_noise(part)).cpu()

        return torch.cat(self._map(evaluate))

    def _ancestral_noise(self, part: slice) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
        """Counter-based noise, so that the receiver's image does not depend on anything but the file."""

        def draw(z: Tensor, step: int) -> tuple[Tensor, Tensor]:
            first, count = part.start * 3 * TILE * TILE, z.numel()
            words = self.backend.random_words(KEY, ANCESTRAL + step, torch.arange(first, first + count))
            base, uniform = ((words[:, :2].double() + 0.5) / 2**32).T.reshape(2, *z.shape).to(z)
            if self.model.base_prior == "logistic":
                unit = torch.logit(base, eps=1e-7) * LOGISTIC_SCALE
            else:
                unit = torch.special.ndtri(base.clamp(1e-7, 1 - 1e-7))
            return unit, uniform - 0.5

        return draw

    def _map(self, evaluate: Callable[[slice], T]) -> list[T]:
        """`evaluate` of every batch of tiles, in order, with the same arithmetic whatever the number of threads."""
        parts = [slice(first, min(first + BATCH, self.tiles)) for first in range(0, self.tiles, BATCH)]
        return side_by_side(evaluate, parts, self.device, self.workers)
