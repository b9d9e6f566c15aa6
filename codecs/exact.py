"""The last segment of a lossless file: every pixel, given a denoised estimate that both sides have.

The estimate, in grey levels, is rounded to eighths, so that the tables the entropy coder uses are integers' business
alone.  Pixels are coded as Gaussians around it, green first; red and blue are also predicted from the errors already
known at the same place.  The width of the Gaussian depends on how busy the estimate is around a pixel; the encoder
measures one width per class of busyness and channel and sends them in front.  Not for lossy coding (diffc.py).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import container
from .base import CodecError
from .entropy import GaussianDecoder, encode_gaussians

CLASSES = 12  # classes of busyness, in octaves
FRACTION = 8  # estimates are rounded to 1/8 grey level
ORDER = (1, 0, 2)  # channels as coded: green, red, blue
WIDTH_STEPS = 16  # widths are coded in steps of 2^(1/16), 4.4 %
SMALLEST_WIDTH = 1 / 16  # grey levels
GAIN = 64  # cross-channel gains are coded in 1/64
HEAD = 3 * CLASSES + 3


def encode_exact(image: Tensor, estimate: Tensor) -> bytes:
    """The segment for uint8 `image` [3, H, W] given `estimate` [3, h >= H, w >= W] in [-1, 1]."""
    height, width = image.shape[1:]
    means = _round(estimate, height, width)
    pixels = image.cpu().numpy().astype(np.int64)
    errors = pixels * FRACTION - means
    gains = _fit_gains(errors)
    classes = _busyness(means)
    head = bytearray(int(gain) & 255 for gain in gains)
    symbols, centres, widths = [], [], []
    for position, channel in enumerate(ORDER):
        centre = _predict(means[channel], errors, gains, position)
        octaves = _width_codes(pixels[channel] * FRACTION - centre, classes[channel])
        head += bytes(octaves)
        symbols.append(pixels[channel].ravel())
        centres.append(centre.ravel())
        widths.append(_widths(octaves)[classes[channel]].ravel())
    data = encode_gaussians(
        np.concatenate(symbols), np.concatenate(centres) / FRACTION, np.concatenate(widths), 0, 255
    )
    return container.varint(HEAD + len(data)) + bytes(head) + data


def decode_exact(segment: bytes, estimate: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W] from the segment and the estimate that the encoder had; `size` = (H, W)."""
    _, begin = container.read_varint(segment, 0)
    if len(segment) < begin + HEAD:
        raise CodecError("the lossless segment is too short")
    head, data = segment[begin : begin + HEAD], segment[begin + HEAD :]
    means = _round(estimate, *size)
    gains = np.frombuffer(head[:3], np.int8).astype(np.int64)
    classes = _busyness(means)
    decoder = GaussianDecoder(data, 0, 255)
    pixels = np.zeros_like(means)
    errors = np.zeros_like(means)
    for position, channel in enumerate(ORDER):
        centre = _predict(means[channel], errors, gains, position)
        octaves = head[3 + position * CLASSES : 3 + (position + 1) * CLASSES]
        widths = _widths(octaves)[classes[channel]]
        pixels[channel] = decoder.decode(centre.ravel() / FRACTION, widths.ravel()).reshape(size)
        errors[channel] = pixels[channel] * FRACTION - means[channel]
    return torch.from_numpy(pixels.astype(np.uint8))


def exact_size(rest: bytes | memoryview) -> int:
    """Bytes of the segment at the start of `rest`; raises container.Truncated."""
    length, begin = container.read_varint(rest, 0)
    return begin + length


def _round(estimate: Tensor, height: int, width: int) -> NDArray[np.int64]:
    """Estimate in eighths of a grey level, int64 [3, height, width]."""
    grey = estimate[:, :height, :width].double().add(1).mul(127.5 * FRACTION)
    return grey.round().clamp(0, 255 * FRACTION).long().cpu().numpy()


def _fit_gains(errors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Least-squares gains in 1/GAIN: red from green, blue from green, blue from what red leaves."""
    green, red, blue = (errors[channel].ravel().astype(np.float64) for channel in ORDER)

    def gain(target: NDArray[np.float64], source: NDArray[np.float64]) -> int:
        power = float(source @ source)
        return max(-127, min(127, round(GAIN * float(target @ source) / power))) if power else 0

    red_green, blue_green = gain(red, green), gain(blue, green)
    left_red = red - red_green / GAIN * green
    left_blue = blue - blue_green / GAIN * green
    return np.array([red_green, blue_green, gain(left_blue, left_red)])


def _predict(
    mean: NDArray[np.int64], errors: NDArray[np.int64], gains: NDArray[np.int64], position: int
) -> NDArray[np.int64]:
    """Centre of the Gaussians of the channel coded at `position`, in eighths, from the errors of those before."""
    green, red = errors[ORDER[0]], errors[ORDER[1]]
    if position == 0:
        return mean
    if position == 1:
        return mean + (gains[0] * green) // GAIN
    left_red = red - (gains[0] * green) // GAIN
    return mean + (gains[1] * green) // GAIN + (gains[2] * left_red) // GAIN


def _busyness(means: NDArray[np.int64]) -> NDArray[np.int64]:
    """Class of every sample: octave of the mean absolute gradient of the estimate in its 3 x 3 neighbourhood."""
    total = np.zeros_like(means)
    for axis in (1, 2):
        steps = np.abs(np.diff(means, axis=axis, append=np.take(means, [-1], axis)))
        padded = np.pad(steps, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = means.shape[1:]
        for dy in range(3):
            for dx in range(3):
                total += padded[:, dy : dy + rows, dx : dx + columns]
    # total is about 144 times the gradient in grey levels; frexp counts octaves exactly
    return np.clip(np.frexp(total.astype(np.float64))[1] - 2, 0, CLASSES - 1).astype(np.int64)


def _width_codes(errors: NDArray[np.int64], classes: NDArray[np.int64]) -> list[int]:
    """Root mean square error of each class, as codes for :func:`_widths`."""
    power = np.bincount(classes.ravel(), (errors.ravel() / FRACTION) ** 2, CLASSES)
    count = np.bincount(classes.ravel(), minlength=CLASSES)
    codes = []
    for p, n in zip(power, count, strict=True):
        width = math.sqrt(p / n) if n else 0.0
        code = WIDTH_STEPS * math.log2(max(width, SMALLEST_WIDTH) / SMALLEST_WIDTH)
        codes.append(min(255, math.ceil(code)))
    return codes


def _widths(codes: bytes | list[int]) -> NDArray[np.float64]:
    widths = SMALLEST_WIDTH * 2.0 ** (np.array(list(codes), np.float64) / WIDTH_STEPS)
    return np.round(widths * 2**20) / 2**20  # the last bits of a power differ between machines
