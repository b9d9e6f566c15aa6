"""Pixels given a denoised estimate that both sides have, but not their neighbours: what bits-back ends with, and the
last segment of lossless DiffC files until 2026-11.  What DiffC writes now is in pixels/.

Context-conditioned residual coding with discretised Gaussians.  As in RC (Mentzer et al. 2020) a lossy reconstruction
predicts the image and an entropy coder sends the rest; as in CALIC (Wu and Memon 1997) the activity around a pixel
selects the spread of its error; as in PixelCNN++ (Salimans et al. 2017, section 2.2) the mean of a channel depends
linearly on the channels before it.  Pixel x of channel c has the probability

    P(x) = mass of N(mean_c + gain * (errors of earlier channels), std(c, activity)^2) on [x - 1/2, x + 1/2],

green first, then red, then blue.  Gains and stds are fitted to the image by the encoder and sent in front.

The estimate is rounded to eighths of a grey level, and from there on everything is integer arithmetic or exact, so
that equal estimates give equal coding tables.  Unequal ones, as another machine's network may compute, are noticed by
a CRC-32 of the pixels.  docs/format.md has the bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import CodecError
from .entropy import Floats, GaussianDecoder

MEAN_SCALE = 8  # means are integers in 1/8 grey level
GAIN_SCALE = 64  # gains are integers in 1/64
STD_STEPS = 16  # stds are coded in steps of 2^(1/16), 4.4 %
MIN_STD = 1 / 16  # grey levels
ACTIVITIES = 12  # classes of activity, one per octave of the gradient
CODING_ORDER = (1, 0, 2)  # channels as coded: green, red, blue
PARAMETER_BYTES = 3 + 3 * ACTIVITIES  # gains and stds of a ResidualModel
EXTENDED = b"\x80"  # in place of the first gain, which is never -128: a CRC-32 of the pixels comes before the gains
CRC_BYTES = 4

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]

OTHER_ESTIMATE = (
    "the lossless pixels do not come out as they were written: this machine's network computes other estimates than "
    "the writer's, or the file is damaged"
)


def decode_residuals(body: bytes, estimate: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W] from the bytes of a segment behind its length, and the estimate [3, h, w]; `size` = (H, W).

    Raises CodecError: the segment is damaged, or the estimate is not the encoder's.  Files from before the checksum
    are decoded as well; for these, only some of the unequal estimates are noticed.
    """
    checksum = b""
    if body[:1] == EXTENDED:
        checksum, body = body[1 : 1 + CRC_BYTES], body[1 + CRC_BYTES :]
    if len(body) < PARAMETER_BYTES:
        raise CodecError("the lossless segment is too short")
    decoder = GaussianDecoder(body[PARAMETER_BYTES:], 0, 255)
    model = ResidualModel(body[:PARAMETER_BYTES])
    try:
        pixels = model.decode(to_means(estimate, size), decoder.decode)
    except CodecError as error:
        raise CodecError(OTHER_ESTIMATE) from error
    if checksum and checksum != checksum_of(pixels):
        raise CodecError(OTHER_ESTIMATE)
    return torch.from_numpy(pixels)


def to_means(estimate: Tensor, size: Sequence[int]) -> Ints:
    """Eighths of a grey level, int64 [3, H, W], of `estimate` [3, h >= H, w >= W], float in [-1, 1]."""
    grey = estimate[:, : size[0], : size[1]].double().add(1).mul(127.5 * MEAN_SCALE)
    return grey.round().clamp(0, 255 * MEAN_SCALE).long().cpu().numpy()


class ResidualModel:
    """p(pixels | estimate), as fitted to one image.

    parameters  PARAMETER_BYTES bytes: three signed gains (red from green, blue from green, blue from what green leaves
                of red), then a std code per channel in coding order and class of activity
    gains       int64 [3], in 1/64
    stds        float64 [3, ACTIVITIES], in grey levels

    Everywhere `pixels` are uint8 [3, H, W] and `means` int64 [3, H, W] of `to_means`.
    """

    def __init__(self, parameters: bytes) -> None:
        self.parameters = bytes(parameters)
        self.gains = np.frombuffer(self.parameters[:3], np.int8).astype(np.int64)
        codes = np.frombuffer(self.parameters[3:], np.uint8).reshape(3, ACTIVITIES).astype(np.float64)
        # rounded, because the last bits of a power differ between machines
        self.stds = np.round(MIN_STD * 2.0 ** (codes / STD_STEPS) * 2**20) / 2**20

    @classmethod
    def fit(cls, pixels: Sequence[Pixels], means: Sequence[Ints]) -> ResidualModel:
        """The most likely model of these images, or pieces of one."""
        errors = [image.astype(np.int64) * MEAN_SCALE - mean for image, mean in zip(pixels, means, strict=True)]
        gains = _fit_gains(np.concatenate([error.reshape(3, -1) for error in errors], axis=1))
        rows = [bytes(int(gain) & 255 for gain in gains)]
        activities = [_activity(mean) for mean in means]
        for position, channel in enumerate(CODING_ORDER):
            left = [(error[channel] - _predicted_error(error, gains, position)).ravel() for error in errors]
            classes = [activity[channel].ravel() for activity in activities]
            rows.append(_std_codes(np.concatenate(left), np.concatenate(classes)))
        return cls(b"".join(rows))

    def in_coding_order(self, pixels: Pixels, means: Ints) -> tuple[Ints, Floats, Floats]:
        """(pixels, their means, their stds), each [3 H W] and in grey levels, as the entropy coder takes them."""
        errors, activity = pixels.astype(np.int64) * MEAN_SCALE - means, _activity(means)
        channel_means = [means[c] + _predicted_error(errors, self.gains, p) for p, c in enumerate(CODING_ORDER)]
        stds = [self.stds[position][activity[channel]] for position, channel in enumerate(CODING_ORDER)]
        symbols = np.concatenate([pixels[channel].ravel() for channel in CODING_ORDER]).astype(np.int64)
        return symbols, np.concatenate(channel_means, None) / MEAN_SCALE, np.concatenate(stds, None)

    def decode(self, means: Ints, draw: Callable[[Floats, Floats], NDArray[np.int32]]) -> Pixels:
        """The pixels; draw(means [N], stds [N]), in grey levels, takes the next N of them from the entropy coder."""
        activity, errors, pixels = _activity(means), np.zeros_like(means), np.zeros(means.shape, np.uint8)
        for position, channel in enumerate(CODING_ORDER):
            mean = means[channel] + _predicted_error(errors, self.gains, position)
            drawn = draw(mean.ravel() / MEAN_SCALE, self.stds[position][activity[channel]].ravel())
            pixels[channel] = drawn.reshape(means.shape[1:])
            errors[channel] = pixels[channel].astype(np.int64) * MEAN_SCALE - means[channel]
        return pixels


def checksum_of(pixels: Pixels) -> bytes:
    """CRC-32 of the bytes [3, H, W]."""
    return zlib.crc32(pixels.tobytes()).to_bytes(CRC_BYTES, "little")


def _fit_gains(errors: Ints) -> Ints:
    """Least-squares gains [3] of errors [3, N]: red from green, blue from green, blue from what green leaves of red."""
    green, red, blue = (errors[channel].ravel().astype(np.float64) for channel in CODING_ORDER)

    def gain(target: Floats, source: Floats) -> int:
        power = float(source @ source)
        return max(-127, min(127, round(GAIN_SCALE * float(target @ source) / power))) if power else 0

    red_green, blue_green = gain(red, green), gain(blue, green)
    left_red = red - red_green / GAIN_SCALE * green
    left_blue = blue - blue_green / GAIN_SCALE * green
    return np.array([red_green, blue_green, gain(left_blue, left_red)])


def _predicted_error(errors: Ints, gains: Ints, position: int) -> Ints:
    """[H, W], in eighths: the error of the channel coded at `position`, as those of the channels before predict it."""
    green, red = errors[CODING_ORDER[0]], errors[CODING_ORDER[1]]
    if position == 0:
        return np.zeros_like(green)
    if position == 1:
        return (gains[0] * green) // GAIN_SCALE
    left_red = red - (gains[0] * green) // GAIN_SCALE
    return (gains[1] * green) // GAIN_SCALE + (gains[2] * left_red) // GAIN_SCALE


def _activity(means: Ints) -> Ints:
    """Class [3, H, W] of every sample: octave of the mean absolute gradient of the estimate around it, 3 x 3."""
    total = np.zeros_like(means)
    for axis in (1, 2):
        gradient = np.abs(np.diff(means, axis=axis, append=np.take(means, [-1], axis)))
        padded = np.pad(gradient, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = means.shape[1:]
        for dy in range(3):
            for dx in range(3):
                total += padded[:, dy : dy + rows, dx : dx + columns]
    # total is about 144 times the gradient in grey levels; frexp counts octaves exactly
    return np.clip(np.frexp(total.astype(np.float64))[1] - 2, 0, ACTIVITIES - 1).astype(np.int64)


def _std_codes(errors: Ints, classes: Ints) -> bytes:
    """Root mean square error of each class, coded; a class that does not occur gets that of all."""
    power = np.bincount(classes, (errors / MEAN_SCALE) ** 2, ACTIVITIES)
    count = np.bincount(classes, minlength=ACTIVITIES)
    mean = np.where(count, power / np.maximum(count, 1), power.sum() / len(errors))
    octaves = np.log2(np.maximum(np.sqrt(mean), MIN_STD) / MIN_STD)
    return bytes(np.minimum(255, np.ceil(STD_STEPS * octaves)).astype(np.uint8))
