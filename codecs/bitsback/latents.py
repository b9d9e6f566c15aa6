"""The chain of noisy latents that bits-back coding walks, on integer grids that both sides share.

Step 0 is the noisiest of T timesteps, step T - 1 the cleanest; a latent at step i is delta_i times an integer, delta_i
being BIN_SIZE times the std of a transition of mean size there.  Three kinds of Gaussians over these integers
(Kingma et al. 2021, section 3 and appendix C):

    q(z_{T-1} | x)                  `q_clean`
    q(z_i | z_{i+1})                `q_forward[i]`, one step of the forward process
    p(z_{i+1} | z_i)                the reverse process: q(z_{i+1} | z_i, x = x_hat(z_i)), with std and channel
                                    correlation from the side information

Nothing but the denoiser's output is computed in floating point that could differ between machines: constants are
rounded to multiples of 2^-24, means to sixteenths of a bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.tiling import crop, mirror_to_multiple
from ...lightning_modules.diffusion.gaussian import alpha_sigma, posterior
from ...lightning_modules.priors.interface import Prior
from ...lightning_modules.priors.pixel import PixelPrior
from ..base import CodecError
from ..entropy import Floats
from ..pixel_residual import CODING_ORDER, GAIN_SCALE
from ..threads import side_by_side
from .gaussians import MAX_NODES, MEANS_PER_BIN, GaussianStack, GridGaussian, Ints, SideInformation, rounded

BIN_SIZE = 0.4  # in stds; half of that would save 0.25 % of the bits and borrow one more per latent


@dataclass(frozen=True)
class Spacing:
    """Where the timesteps lie.

    min_log_snr  of step 0: below -4, an image says a few thousandths of a bit per dimension
    max_log_snr  of step T - 1: above 10, predicting the pixels is cheaper than further steps
    power        the distance in log-SNR shrinks towards the clean end for power > 1; 1: evenly spaced
    nodes        how many of the steps the side information describes

    docs/decisions/0050-bits-back.md has the measurements.
    """

    min_log_snr: float
    max_log_snr: float
    power: float
    nodes: int


EVEN = Spacing(-5.0, 10.5, 1.0, 255)  # of files whose header does not say otherwise
DENSER = Spacing(-4.0, 10.0, 1.25, MAX_NODES)


class BitsBackChain:
    """Grids, timesteps and the network: everything both sides of a stream do alike, for tiles int64 [3, h, w].

    prior         works on pixels
    steps         T, the number of timesteps
    orientations  1, 2 or 4: the estimate is the average over so many quarter turns of the picture
    spacing       where the timesteps lie
    double        run the network in float64
    workers       tiles at a time on the CPU

    Means are in sixteenths of a bin of the step they belong to.
    """

    def __init__(
        self, prior: PixelPrior, steps: int, *, orientations: int = 1, spacing: Spacing = DENSER,
        double: bool = False, workers: int = 1,
    ) -> None:
        network = prior.double() if double else prior
        if network is None:
            raise CodecError("the file needs the network in float64, and this model has no such form")
        self.prior = network
        self.dtype = torch.float64 if double else torch.float32
        self.workers, self.steps, self.orientations = workers, steps, orientations
        self.timesteps = choose_timesteps(prior, steps, spacing)
        log_snrs = [prior.log_snr(timestep) for timestep in self.timesteps]
        pairs = [alpha_sigma(log_snr) for log_snr in log_snrs]
        fresh = math.sqrt(-math.expm1((log_snrs[0] - log_snrs[-1]) / (steps - 1)))  # share of the noise a step renews
        self.delta = [rounded(BIN_SIZE * fresh * float(sigma)) for _, sigma in pairs]
        alpha, sigma = (float(value) for value in pairs[-1])
        self._pixel_gain = rounded(MEANS_PER_BIN * alpha / (255 * self.delta[-1]))
        self.q_clean = _noise(rounded(sigma / self.delta[-1]))
        # one entry per transition between step i (t, noisier) and step i + 1 (s, cleaner), in bins
        self.q_forward: list[GridGaussian] = []
        self._forward_gain: list[float] = []
        self._posterior_z: list[float] = []
        self._posterior_x: list[float] = []
        self._perfect_std = [1 / self.delta[0]]  # of p were x_hat = x; first that of step 0, N(0, 1)
        one = torch.ones((), dtype=torch.float64)
        for i, (t, s) in enumerate(pairwise(log_snrs)):
            (alpha_t, sigma_t), (alpha_s, sigma_s) = pairs[i], pairs[i + 1]
            alpha_ts = alpha_t / alpha_s  # q(z_t | z_s) = N(alpha_ts z_s, sigma_t^2 - alpha_ts^2 sigma_s^2), VDM eq. 2
            std_ts = float((sigma_t**2 - alpha_ts**2 * sigma_s**2).sqrt())
            self.q_forward.append(_noise(rounded(std_ts / self.delta[i])))
            self._forward_gain.append(rounded(MEANS_PER_BIN * float(alpha_ts) * self.delta[i + 1] / self.delta[i]))
            of_z, std = posterior(one, 0 * one, s, t)
            of_x, _ = posterior(0 * one, one, s, t)
            self._posterior_z.append(rounded(MEANS_PER_BIN * float(of_z) * self.delta[i] / self.delta[i + 1]))
            self._posterior_x.append(rounded(MEANS_PER_BIN * float(of_x) / self.delta[i + 1]))
            self._perfect_std.append(rounded(float(std) / self.delta[i + 1]))

    def pixel_means(self, pixels: NDArray[np.uint8]) -> Ints:
        """Means of q(z_{T-1} | x) for pixels [3, h, w]."""
        return _whole(self._pixel_gain * (2.0 * pixels - 255.0))

    def forward_means(self, z: Ints, step: int) -> Ints:
        """Means of q(z_step | z_{step+1} = z)."""
        return _whole(self._forward_gain[step] * z)

    def reverse_means(self, z: Ints, x_hat: Tensor, step: int) -> Ints:
        """Means of p(z_{step+1} | z_step = z); x_hat as of `denoise`."""
        estimate = x_hat.double().cpu().numpy()
        return _whole(self._posterior_z[step] * z + self._posterior_x[step] * np.nan_to_num(estimate))

    def denoise(self, tiles: Sequence[Ints], step: int) -> list[Tensor]:
        """x_hat [3, h, w] in [-1, 1] of every tile's latents at `step`: the same arithmetic whatever `workers` is."""

        def one(tile: Ints) -> Tensor:
            z = torch.from_numpy(tile * self.delta[step])[None].to(self.prior.device, self.dtype)
            z = mirror_to_multiple(z, self.prior.multiple)
            total = torch.zeros_like(z)
            for quarters in range(self.orientations):
                turned = z.rot90(quarters, (-2, -1)).contiguous()
                total += self.prior.denoise(turned, self.timesteps[step]).rot90(-quarters, (-2, -1))
            return crop(total[0] / self.orientations, tile.shape[1:])

        return side_by_side(one, tiles, self.prior.device, self.workers)

    def residual(self, z: Ints, mean: Ints, step: int) -> Floats:
        """[3, h w]: how far z at `step` is from its mean under p, in stds of a perfect denoiser."""
        return ((z - mean / MEANS_PER_BIN) / self._perfect_std[step]).reshape(3, -1)

    def push_latents(
        self, stack: GaussianStack, side: SideInformation, step: int, tiles: Sequence[Ints], means: Sequence[Ints]
    ) -> None:
        """Put latents at `step` on the stack under p, blue first, because green must come off first."""
        errors = [MEANS_PER_BIN * z - mean for z, mean in zip(tiles, means, strict=True)]
        for position in (2, 1, 0):
            channel = CODING_ORDER[position]
            corrected = self._corrected_means(side, step, position, means, errors)
            self._p(side, step, position).push_onto(stack, [z[channel] for z in tiles], corrected)

    def pop_latents(
        self, stack: GaussianStack, side: SideInformation, step: int, means: Sequence[Ints]
    ) -> list[Ints]:
        """Take latents at `step` from the stack under p; undoes `push_latents`."""
        tiles = [np.zeros_like(mean) for mean in means]
        errors = [np.zeros_like(mean) for mean in means]
        for position, channel in enumerate(CODING_ORDER):
            corrected = self._corrected_means(side, step, position, means, errors)
            drawn = self._p(side, step, position).pop_from(stack, corrected)
            for z, error, mean, values in zip(tiles, errors, means, drawn, strict=True):
                z[channel] = values
                error[channel] = MEANS_PER_BIN * values - mean[channel]
        return tiles

    def _p(self, side: SideInformation, step: int, position: int) -> GridGaussian:
        # twice the bound, because the correction from other channels is limited to it once more
        std = rounded(side.std(step, position) * self._perfect_std[step])
        return GridGaussian(std, 2 * self._error_bound(step))

    def _error_bound(self, step: int) -> int:
        """Bins that separate z at `step` from its mean at most: an estimate wrong by all of [-1, 1], and the noise."""
        worst = 2 * self._posterior_x[step - 1] / MEANS_PER_BIN if step else 0.0
        return math.ceil(worst + 8 * self._perfect_std[step]) + 2

    def _corrected_means(
        self, side: SideInformation, step: int, position: int, means: Sequence[Ints], errors: Sequence[Ints]
    ) -> list[Ints]:
        """Means [h, w] of the channel coded at `position`, corrected by the errors of the channels before it."""
        channel, (red_green, blue_green, blue_red) = CODING_ORDER[position], side.gains(step)
        if position == 0:
            return [mean[channel] for mean in means]
        limit = MEANS_PER_BIN * self._error_bound(step)
        corrected = []
        for mean, error in zip(means, errors, strict=True):
            green, red = error[CODING_ORDER[0]], error[CODING_ORDER[1]]
            predicted = red_green * green if position == 1 else blue_green * green + blue_red * red
            corrected.append(mean[channel] + np.clip(predicted // GAIN_SCALE, -limit, limit))
        return corrected


def choose_timesteps(prior: Prior, steps: int, spacing: Spacing) -> list[int]:
    """`steps` timesteps of the prior, noisiest first, spaced in log-SNR as far as its integer ones allow.

    Raises CodecError for fewer than two and for more than the prior has in that range.
    """
    if steps < 2:
        raise CodecError("bits-back coding needs at least two steps")
    every = np.array([prior.log_snr(timestep) for timestep in range(1, prior.num_levels + 1)])
    low, high = max(spacing.min_log_snr, every[-1]), min(spacing.max_log_snr, every[0])
    wanted = high - (high - low) * np.linspace(1, 0, steps) ** spacing.power
    chosen = [0]
    for log_snr in wanted[::-1]:  # from the cleanest, where a model's timesteps may lie further apart than is wanted
        chosen.append(max(1 + int(np.abs(every - log_snr).argmin()), chosen[-1] + 1))
    if chosen[-1] > prior.num_levels:
        raise CodecError(f"this model's timesteps are too coarse for {steps} steps")
    return chosen[:0:-1]


def _noise(std: float) -> GridGaussian:
    """q at a std in bins: whatever is drawn lies within 6.5 stds."""
    return GridGaussian(std, math.ceil(6.5 * std) + 1)


def _whole(values: NDArray[np.floating[Any]]) -> Ints:
    return np.rint(values).clip(-(2.0**40), 2.0**40).astype(np.int64)
