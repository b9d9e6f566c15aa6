"""The last segment of a lossless file: every pixel, given a denoised estimate that both sides have.

The estimate, in grey levels, is rounded to eighths, so that the tables the entropy coder uses are integers' business
alone.  Pixels are coded as Gaussians around it, green first; red and blue are also predicted from the errors already
known at the same place.  The width of the Gaussian depends on how busy the estimate is around a pixel; the encoder
measures one width per class of busyness and channel and sends them in front.  Not for lossy coding (diffc.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


Ints = NDArray[np.int64]


def encode_exact(image: Tensor, estimate: Tensor) -> bytes:
    """The segment for uint8 `image` [3, H, W] given `estimate` [3, h >= H, w >= W] in [-1, 1]."""
    means, pixels = grey_eighths(estimate, image.shape[1:]), image.cpu().numpy()
    model = PixelModel.fit([pixels], [means])
    symbols, centres, widths = model.symbols(pixels, means)
    data = encode_gaussians(symbols, centres, widths, 0, 255)
    return container.varint(HEAD + len(data)) + model.head + data


def decode_exact(segment: bytes, estimate: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W] from the segment and the estimate that the encoder had; `size` = (H, W)."""
    _, begin = container.read_varint(segment, 0)
    if len(segment) < begin + HEAD:
        raise CodecError("the lossless segment is too short")
    decoder = GaussianDecoder(segment[begin + HEAD :], 0, 255)
    pixels = PixelModel(segment[begin : begin + HEAD]).decode(grey_eighths(estimate, size), decoder.decode)
    return torch.from_numpy(pixels)


def exact_size(rest: bytes | memoryview) -> int:
    """Bytes of the segment at the start of `rest`; raises container.Truncated."""
    length, begin = container.read_varint(rest, 0)
    return begin + length


def grey_eighths(estimate: Tensor, size: Sequence[int]) -> Ints:
    """Estimate [3, h >= H, w >= W] in [-1, 1] as eighths of a grey level, int64 [3, H, W]; `size` = (H, W)."""
    grey = estimate[:, : size[0], : size[1]].double().add(1).mul(127.5 * FRACTION)
    return grey.round().clamp(0, 255 * FRACTION).long().cpu().numpy()


class PixelModel:
    """Pixels as Gaussians around an estimate: what `head`, HEAD bytes, says about gains and widths.

    Pixels are uint8 [3, H, W]; estimates, `means`, are int64 [3, H, W] in eighths of a grey level.
    """

    def __init__(self, head: bytes) -> None:
        self.head = bytes(head)
        self.gains = np.frombuffer(self.head[:3], np.int8).astype(np.int64)
        codes = np.frombuffer(self.head[3:], np.uint8).reshape(3, CLASSES).astype(np.float64)
        # rounded, because the last bits of a power differ between machines
        self.widths = np.round(SMALLEST_WIDTH * 2.0 ** (codes / WIDTH_STEPS) * 2**20) / 2**20

    @classmethod
    def fit(cls, pixels: Sequence[NDArray[np.uint8]], means: Sequence[Ints]) -> PixelModel:
        """The model that suits these images, or pieces of one, best."""
        errors = [image.astype(np.int64) * FRACTION - mean for image, mean in zip(pixels, means, strict=True)]
        gains = _fit_gains(np.concatenate([error.reshape(3, -1) for error in errors], axis=1))
        rows = [bytes(int(gain) & 255 for gain in gains)]
        classes = [_busyness(mean) for mean in means]
        for position, channel in enumerate(ORDER):
            left = [(error[channel] - _correction(error, gains, position)).ravel() for error in errors]
            where = [busyness[channel].ravel() for busyness in classes]
            rows.append(_width_codes(np.concatenate(left), np.concatenate(where)))
        return cls(b"".join(rows))

    def symbols(
        self, pixels: NDArray[np.uint8], means: Ints
    ) -> tuple[Ints, NDArray[np.float64], NDArray[np.float64]]:
        """(pixels, centres, widths), each [3 H W], in the order in which they are coded."""
        errors, classes = pixels.astype(np.int64) * FRACTION - means, _busyness(means)
        centres = [means[channel] + _correction(errors, self.gains, p) for p, channel in enumerate(ORDER)]
        widths = [self.widths[p][classes[channel]] for p, channel in enumerate(ORDER)]
        symbols = np.concatenate([pixels[channel].ravel() for channel in ORDER]).astype(np.int64)
        return symbols, np.concatenate(centres, None) / FRACTION, np.concatenate(widths, None)

    def decode(
        self, means: Ints, draw: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.int32]]
    ) -> NDArray[np.uint8]:
        """Pixels; `draw` gives the next len(centres) symbols, given their centres and widths."""
        classes, errors, pixels = _busyness(means), np.zeros_like(means), np.zeros(means.shape, np.uint8)
        for position, channel in enumerate(ORDER):
            centre = means[channel] + _correction(errors, self.gains, position)
            drawn = draw(centre.ravel() / FRACTION, self.widths[position][classes[channel]].ravel())
            pixels[channel] = drawn.reshape(means.shape[1:])
            errors[channel] = pixels[channel].astype(np.int64) * FRACTION - means[channel]
        return pixels


def _fit_gains(errors: Ints) -> Ints:
    """Least-squares gains in 1/GAIN: red from green, blue from green, blue from what red leaves."""
    green, red, blue = (errors[channel].ravel().astype(np.float64) for channel in ORDER)

    def gain(target: NDArray[np.float64], source: NDArray[np.float64]) -> int:
        power = float(source @ source)
        return max(-127, min(127, round(GAIN * float(target @ source) / power))) if power else 0

    red_green, blue_green = gain(red, green), gain(blue, green)
    left_red = red - red_green / GAIN * green
    left_blue = blue - blue_green / GAIN * green
    return np.array([red_green, blue_green, gain(left_blue, left_red)])


def _correction(errors: Ints, gains: Ints, position: int) -> Ints:
    """What the errors of the channels coded before say about the one at `position`, in eighths."""
    green, red = errors[ORDER[0]], errors[ORDER[1]]
    if position == 0:
        return np.zeros_like(green)
    if position == 1:
        return (gains[0] * green) // GAIN
    left_red = red - (gains[0] * green) // GAIN
    return (gains[1] * green) // GAIN + (gains[2] * left_red) // GAIN


def _busyness(means: Ints) -> Ints:
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


def _width_codes(errors: Ints, classes: Ints) -> bytes:
    """Root mean square error of each class, coded; a class that does not occur gets that of all."""
    power = np.bincount(classes, (errors / FRACTION) ** 2, CLASSES)
    count = np.bincount(classes, minlength=CLASSES)
    mean = np.where(count, power / np.maximum(count, 1), power.sum() / len(errors))
    octaves = np.log2(np.maximum(np.sqrt(mean), SMALLEST_WIDTH) / SMALLEST_WIDTH)
    return bytes(np.minimum(255, np.ceil(WIDTH_STEPS * octaves)).astype(np.uint8))
