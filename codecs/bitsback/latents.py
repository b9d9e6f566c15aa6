"""The chain of noisy latents that bits-back coding walks, on integer grids that both sides share.

Level 0 is the noisiest of T, level T - 1 the cleanest; a latent at level i is delta_i times an integer, delta_i being
BIN of what a step of mean size changes there.  Three kinds of Gaussians over these integers are needed: `clean`,
q(z_{T-1} | x); `noisier`, q(z_i | z_{i+1}), one step of the forward process; and p(z_{i+1} | z_i), the reverse process,
whose mean needs the denoiser.  The error of the denoiser is alike in all three channels, so p takes green first and
predicts red and blue from what green turned out to be; how (Side) is measured on the image and travels in the file.

Nothing but the denoiser's output is computed in floating point that could differ between machines: constants are
rounded to multiples of 2^-24, means to sixteenths of a bin.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.tiling import crop, mirror_to_multiple
from ...lightning_modules.diffusion.gaussian import alpha_sigma, posterior
from ...lightning_modules.priors.interface import Prior
from ..base import CodecError
from ..threads import side_by_side

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BIN = 0.4  # of a step's deviation; half of that would save 0.25 % of the bits and borrow one more per latent
PART = 16  # means are rounded to sixteenths of a bin
CHANNELS = (1, 0, 2)  # as coded: green, red, blue
WIDTH_STEPS = 32  # deviations are coded in steps of 2^(1/32) from 2^-1 of what a perfect denoiser would leave
GAIN = 64  # gains between channels are coded in 1/64
SIDE_BYTES = 6  # per node: three deviations, three gains


@dataclass(frozen=True)
class Spacing:
    """Where the levels lie, log-SNR from `noisiest` (level 0) to `cleanest`, in ever smaller steps for `power` > 1,
    and how many of them, `nodes`, the side information describes.

    Below the first, an image says a few thousandths of a bit per dimension; above the last, predicting the pixels is
    cheaper than further steps (docs/decisions/0050-bits-back.md).
    """

    noisiest: float
    cleanest: float
    power: float
    nodes: int


EVEN = Spacing(-5.0, 10.5, 1.0, 255)  # of files whose header does not say otherwise
DENSER = Spacing(-4.0, 10.0, 1.25, 8)


class Stack(Protocol):
    """What BitStack does, and what a Sampler does instead of it."""

    def push(self, symbols: Ints, centres: Floats, widths: Floats, low: int, high: int) -> None: ...

    def pop(self, centres: Floats, widths: Floats, low: int, high: int) -> NDArray[np.int32]: ...


@dataclass(frozen=True)
class Gaussian:
    """Integers around a mean in sixteenths: `deviation` in bins, nothing further than `reach` bins from the mean."""

    deviation: float
    reach: int

    def push(self, stack: Stack, symbols: Sequence[Ints], means: Sequence[Ints]) -> None:
        """Put arrays of integers, each around its own means of the same shape, on the stack."""
        mean = np.concatenate([part.ravel() for part in means])
        whole = (mean + PART // 2) // PART
        offsets = np.concatenate([part.ravel() for part in symbols]) - whole
        stack.push(offsets, *self._parameters(mean, whole), -self.reach, self.reach)

    def pop(self, stack: Stack, means: Sequence[Ints]) -> list[Ints]:
        """Arrays of integers around `means`, from the stack."""
        mean = np.concatenate([part.ravel() for part in means])
        whole = (mean + PART // 2) // PART
        drawn = stack.pop(*self._parameters(mean, whole), -self.reach, self.reach) + whole
        ends = np.cumsum([part.size for part in means])[:-1]
        return [piece.reshape(part.shape) for piece, part in zip(np.split(drawn, ends), means, strict=True)]

    def _parameters(self, mean: Ints, whole: Ints) -> tuple[Floats, Floats]:
        return (mean - PART * whole) / PART, np.full(len(mean), self.deviation)


@dataclass(frozen=True)
class Side:
    """How wide `cleaner` is at each of `steps` levels: `data`, SIDE_BYTES for each of some evenly spread levels.

    Linear interpolation between 8 of them costs nothing on photos, and the other 12 of 20 would be 1 % of a file of
    64 x 64 pixels.
    """

    data: bytes
    steps: int

    @classmethod
    def fit(cls, residuals: Sequence[Floats], nodes: int = DENSER.nodes) -> Side:
        """From residuals [3, N] of z around the mean, one array per level, in deviations of a perfect denoiser."""
        rows = []
        for level in _nodes(nodes, len(residuals)):
            green, red, blue = residuals[level][list(CHANNELS)]
            first = green @ red / max(green @ green, 1e-9)
            pair, target = np.stack([green, red]), blue
            both = np.linalg.lstsq(pair.T, target, rcond=None)[0]
            gains = np.rint(GAIN * np.clip([first, *both], -1.9, 1.9)).astype(np.int8)
            left = (green, red - gains[0] / GAIN * green, blue - gains[1] / GAIN * green - gains[2] / GAIN * red)
            width = np.log2(np.maximum([math.sqrt(float((part**2).mean())) for part in left], 2.0**-1))
            codes = np.minimum(255, np.rint(WIDTH_STEPS * (width + 1))).astype(np.uint8)
            rows.append(codes.tobytes() + gains.tobytes())
        return cls(b"".join(rows), len(residuals))

    def width(self, level: int, position: int) -> float:
        """Deviation of the channel coded at `position`, in deviations of a perfect denoiser."""
        return _rounded(2.0 ** (self._table[level][position] / WIDTH_STEPS - 1))

    def gains(self, level: int) -> tuple[int, int, int]:
        """Red from green, blue from green, blue from red, in 1/GAIN."""
        red, blue_green, blue_red = self._table[level][3:]
        return red, blue_green, blue_red

    @cached_property
    def _table(self) -> list[list[int]]:
        """Codes and gains of every level, in integers throughout."""
        pieces = [self.data[at : at + SIDE_BYTES] for at in range(0, len(self.data), SIDE_BYTES)]
        rows = [[*data[:3], *struct.unpack("3b", data[3:])] for data in pieces]
        table = [rows[0]]
        for (begin, left), (end, right) in pairwise(zip(_nodes(len(rows), self.steps), rows, strict=True)):
            length = end - begin
            for at in range(1, length + 1):
                both = zip(left, right, strict=True)
                table.append([(a * (length - at) + b * at + length // 2) // length for a, b in both])
        return table


def _nodes(count: int, steps: int) -> list[int]:
    """`count` of `steps` levels, or all, evenly spread, the first and the last among them."""
    count = min(count, steps)
    return [(2 * i * (steps - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


class Chain:
    """Grids, levels and the network: everything both sides of a stream do alike, for tiles int64 [3, h, w].

    prior         works on pixels
    steps         T, the number of levels
    orientations  1, 2 or 4: the estimate is the average over so many quarter turns of the picture
    spacing       where the levels lie
    portable      run the network in float64
    workers       tiles at a time on the CPU
    """

    def __init__(
        self, prior: Prior, steps: int, *, orientations: int = 1, spacing: Spacing = DENSER, portable: bool = False,
        workers: int = 1,
    ) -> None:
        self.prior = _double(prior) if portable else prior
        self.dtype = torch.float64 if portable else torch.float32
        self.workers, self.steps, self.orientations = workers, steps, orientations
        self.levels = choose_levels(prior, steps, spacing)
        log_snrs = [prior.log_snr(level) for level in self.levels]
        pairs = [alpha_sigma(log_snr) for log_snr in log_snrs]
        fresh = math.sqrt(-math.expm1((log_snrs[0] - log_snrs[-1]) / (steps - 1)))  # share of the noise a step renews
        self.delta = [_rounded(BIN * fresh * float(sigma)) for _, sigma in pairs]
        alpha, sigma = (float(value) for value in pairs[-1])
        self._pixel = _rounded(PART * alpha / (255 * self.delta[-1]))
        self.clean = _noise(_rounded(sigma / self.delta[-1]))
        self.noisier, self._fade, self._keep, self._pull, self._perfect = [], [], [], [], [1 / self.delta[0]]
        one = torch.ones((), dtype=torch.float64)
        for i, (t, s) in enumerate(pairwise(log_snrs)):
            (alpha_t, sigma_t), (alpha_s, sigma_s) = pairs[i], pairs[i + 1]
            fade = alpha_t / alpha_s  # q(z_t | z_s) = N(fade z_s, sigma_t^2 - fade^2 sigma_s^2), VDM eq. 2
            spread = float((sigma_t**2 - fade**2 * sigma_s**2).sqrt())
            self.noisier.append(_noise(_rounded(spread / self.delta[i])))
            self._fade.append(_rounded(PART * float(fade) * self.delta[i + 1] / self.delta[i]))
            keep, deviation = posterior(one, 0 * one, s, t)
            pull, _ = posterior(0 * one, one, s, t)
            self._keep.append(_rounded(PART * float(keep) * self.delta[i] / self.delta[i + 1]))
            self._pull.append(_rounded(PART * float(pull) / self.delta[i + 1]))
            self._perfect.append(_rounded(float(deviation) / self.delta[i + 1]))

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Ints:
        """Means of q(z_{T-1} | x), in sixteenths."""
        return _whole(self._pixel * (2.0 * pixels - 255.0))

    def of_cleaner(self, z: Ints, level: int) -> Ints:
        """Means of q(z_level | z_{level+1} = z), in sixteenths."""
        return _whole(self._fade[level] * z)

    def of_noisier(self, z: Ints, x_hat: Tensor, level: int) -> Ints:
        """Means of p(z_{level+1} | z_level = z), in sixteenths; x_hat as of `denoise`."""
        estimate = x_hat.double().cpu().numpy()
        return _whole(self._keep[level] * z + self._pull[level] * np.nan_to_num(estimate))

    def denoise(self, tiles: Sequence[Ints], level: int) -> list[Tensor]:
        """x_hat [3, h, w] in [-1, 1] of every tile's latents at `level`: the same arithmetic whatever `workers` is."""
        step, multiple = self.levels[level], getattr(self.prior, "multiple", 1)

        def one(tile: Ints) -> Tensor:
            z = torch.from_numpy(tile * self.delta[level])[None].to(self.prior.device, self.dtype)
            z = mirror_to_multiple(z, multiple)
            total = torch.zeros_like(z)
            for quarters in range(self.orientations):
                turned = z.rot90(quarters, (-2, -1)).contiguous()
                total += self.prior.denoise(turned, step).rot90(-quarters, (-2, -1))
            return crop(total[0] / self.orientations, tile.shape[1:])

        return side_by_side(one, tiles, self.prior.device, self.workers)

    def residual(self, z: Ints, mean: Ints, level: int) -> Floats:
        """[3, N]: how far z at `level` is from its mean under p, in deviations of a perfect denoiser."""
        return ((z - mean / PART) / self._perfect[level]).reshape(3, -1)

    def push(self, stack: Stack, side: Side, level: int, tiles: Sequence[Ints], means: Sequence[Ints]) -> None:
        """Put latents at `level` on the stack under p, blue first, because green must come off first."""
        errors = [PART * z - mean for z, mean in zip(tiles, means, strict=True)]
        for position in (2, 1, 0):
            channel = CHANNELS[position]
            centres = [
                mean[channel] + self._correction(side, level, position, error)
                for mean, error in zip(means, errors, strict=True)
            ]
            self._cleaner(side, level, position).push(stack, [z[channel] for z in tiles], centres)

    def pop(self, stack: Stack, side: Side, level: int, means: Sequence[Ints]) -> list[Ints]:
        """Take latents at `level` from the stack under p; undoes `push`."""
        tiles = [np.zeros_like(mean) for mean in means]
        errors = [np.zeros_like(mean) for mean in means]
        for position, channel in enumerate(CHANNELS):
            centres = [
                mean[channel] + self._correction(side, level, position, error)
                for mean, error in zip(means, errors, strict=True)
            ]
            drawn = self._cleaner(side, level, position).pop(stack, centres)
            for z, error, mean, values in zip(tiles, errors, means, drawn, strict=True):
                z[channel] = values
                error[channel] = PART * values - mean[channel]
        return tiles

    def _error_bound(self, level: int) -> int:
        """Bins that separate z at `level` from its mean at most: an estimate wrong by all of [-1, 1], and the noise."""
        pull = 2 * self._pull[level - 1] / PART if level else 0.0
        return math.ceil(pull + 8 * self._perfect[level]) + 2

    def _cleaner(self, side: Side, level: int, position: int) -> Gaussian:
        # twice the bound, because the correction from other channels is limited to it once more
        return Gaussian(_rounded(side.width(level, position) * self._perfect[level]), 2 * self._error_bound(level))

    def _correction(self, side: Side, level: int, position: int, errors: Ints) -> Ints:
        """What the errors of the channels coded before say about the mean of the one at `position`, in sixteenths."""
        green, red = errors[CHANNELS[0]], errors[CHANNELS[1]]
        gains = side.gains(level)
        if position == 0:
            return np.zeros_like(green)
        guess = gains[0] * green if position == 1 else gains[1] * green + gains[2] * red
        limit = PART * self._error_bound(level)
        return np.clip(guess // GAIN, -limit, limit)


def choose_levels(prior: Prior, steps: int, spacing: Spacing) -> list[int]:
    """`steps` levels of the prior, noisiest first, spaced in log-SNR as far as its integer levels allow."""
    if steps < 2:
        raise CodecError("bits-back coding needs at least two steps")
    every = np.array([prior.log_snr(level) for level in range(1, prior.num_levels + 1)])
    noisiest, cleanest = max(spacing.noisiest, every[-1]), min(spacing.cleanest, every[0])
    wanted = cleanest - (cleanest - noisiest) * np.linspace(1, 0, steps) ** spacing.power
    levels = [0]
    for value in wanted[::-1]:  # from the cleanest, where a model's levels may lie further apart than is wanted
        levels.append(max(1 + int(np.abs(every - value).argmin()), levels[-1] + 1))
    if levels[-1] > prior.num_levels:
        raise CodecError(f"this model's levels are too coarse for {steps} steps")
    return levels[:0:-1]


def _noise(deviation: float) -> Gaussian:
    """q at a deviation in bins: whatever is drawn lies within 6.5 deviations."""
    return Gaussian(deviation, math.ceil(6.5 * deviation) + 1)


def _rounded(value: float) -> float:
    """To 2^-24, so that the last bits of exp and sqrt, which differ between machines, do not matter."""
    return round(value * 2**24) / 2**24


def _whole(values: NDArray[np.floating[Any]]) -> Ints:
    return np.rint(values).clip(-(2.0**40), 2.0**40).astype(np.int64)


def _double(prior: Prior) -> Prior:
    """A copy of the prior that computes in float64."""
    if not hasattr(prior, "double"):
        raise CodecError("--portable needs a model that can run in float64")
    return prior.double()
