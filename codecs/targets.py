"""Files of a named quality or size: so much PSNR, as good as a JPEG, or so many bytes.

Bytes are a limit that an encoder keeps.  For a PSNR, DiffC encodes and decodes until the file is the smallest that
reaches it, within TOLERANCE: about 3 times, starting from the size of a JPEG of that PSNR.  It cannot take a prefix of
one longer file, because what an encoder leaves out depends on where the file ends (codecs/diffc/encoder.py).  UQDM
can: one file is decoded to some of its segments, by bisection; many segments are longer than a lossless file.
"""

from __future__ import annotations

import bisect
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data.images import read_image, to_pil, to_tensor
from ..lightning_modules.diffusion.pixels import psnr as psnr_of
from . import container
from .base import Codec, CodecError, Progressive, Stream, check_image

TARGETS = ("bpp", "lossless", "psnr", "bytes", "quality")
CODECS_WITH_TARGETS = ("diffc", "uqdm")
TOLERANCE = 0.06  # dB above a PSNR that are not worth another search step: 1 % of the file
MOST_TRIALS = 12
STEEPEST = 4.0  # the slope between two files is at most so many times `usual_slope`, or a part of it


def encode_to(
    codec: Codec,
    image: torch.Tensor,
    *,
    psnr: float | None = None,
    bytes: int | None = None,
    quality: int | None = None,
    **options: Any,
) -> Stream:
    """The stream of uint8 `image` [3, H, W] that meets one target; with none, as codec.encode.

    psnr     least file that has this PSNR in dB, decided on the decoded image
    bytes    largest file of at most so many bytes
    quality  1 to 100: PSNR of a JPEG of that quality (without chroma subsampling)
    options  of codec.encode
    Raises CodecError, also for a target that cannot be met; it says what can.
    """
    targets = {name: value for name, value in (("psnr", psnr), ("bytes", bytes), ("quality", quality))
               if value is not None}  # fmt: skip
    check_targets(codec.name, options | targets)
    if codec.name not in CODECS_WITH_TARGETS:
        return codec.encode(image, **options)
    check_image(image)
    if bytes is not None:
        return codec.encode(image, bpp=bpp_of(bytes, image), **options)
    if quality is not None:
        _, psnr = jpeg(image, quality)
    if psnr is None:
        return codec.encode(image, **options)
    return (_fewest_segments if codec.name == "uqdm" else _least_bytes)(codec, image, psnr, options)


def check_targets(name: str, options: Mapping[str, Any]) -> None:
    """Raise CodecError where `options` of encode_to for the codec called `name` exclude each other or make no sense."""
    given = [target for target in TARGETS if options.get(target)]
    if name not in CODECS_WITH_TARGETS:
        for target in {"psnr", "bytes", "quality"}.intersection(given):
            raise CodecError(f"--{target} does not apply to --codec {name}")
    elif len(given) > 1 and given != ["bpp", "lossless"]:  # DiffC then sends a lossy picture first
        raise CodecError(f"--{given[0]} and --{given[1]} exclude each other")
    if not 0 < options.get("psnr", 1) < math.inf:
        raise CodecError("--psnr must be a positive number of dB")
    if not options.get("bytes", 1) > 0:
        raise CodecError("--bytes must be positive")
    if not 1 <= options.get("quality", 1) <= 100:
        raise CodecError("--quality must lie between 1 and 100")


def read_focus(path: str | Path) -> torch.Tensor:
    """float32 [H, W] for DiffC's `focus`: the brightness of an image file, 0 to 1; raises ImageError."""
    return read_image(path).float().mean(0) / 255


def bpp_of(size: int, image: torch.Tensor) -> float:
    """Bits per pixel that are `size` bytes, rounded up by less than a byte."""
    return 8 * (size + 0.5) / (image.shape[1] * image.shape[2])


def jpeg(image: torch.Tensor, quality: int) -> tuple[int, float]:
    """(bytes, PSNR) of uint8 `image` [3, H, W] as a JPEG."""
    file = io.BytesIO()
    to_pil(image).save(file, "JPEG", quality=quality, subsampling=0)
    return len(file.getvalue()), float(psnr_of(to_tensor(Image.open(file)), image))


def guessed_bpp(jpeg_bpp: float) -> float:
    """bpp of a DiffC file of the PSNR of a JPEG: fitted to Kodak, 28 to 42 dB; off by a factor 1.13 (deviation)."""
    return 0.32 * jpeg_bpp**1.25


def usual_slope(bpp: float) -> float:
    """dB per doubling of a DiffC file: fitted to Kodak, 28 to 42 dB; off by 0.6 (deviation)."""
    return max(4.8 + 0.8 * math.log2(bpp), 2.0)


def _least_bytes(codec: Codec, image: torch.Tensor, target: float, options: dict[str, Any]) -> Stream:
    """A secant search over the logarithm of the file's size, held between what is too little and what is enough."""
    better = bisect.bisect_left(range(1, 100), True, key=lambda quality: jpeg(image, quality)[1] >= target)
    per_pixel = 8 / (image.shape[1] * image.shape[2])  # bpp of a byte
    size = math.log2(guessed_bpp(jpeg(image, 1 + better)[0] * per_pixel) / per_pixel)
    trials: list[tuple[float, float]] = []  # log2 of the bytes, PSNR
    best: Stream | None = None
    for _ in range(MOST_TRIALS):
        try:
            stream = codec.encode(image, bpp=bpp_of(round(2**size), image), **options)
        except CodecError:
            if len(trials) == 3 and best is None:
                raise
            trials.append((size, -math.inf))  # too little for a single step
        else:
            found = float(psnr_of(codec.decode(stream), image))
            used = math.log2(len(container.write(stream, codec)))
            if found < target and used < size - 0.1:
                raise CodecError(f"this model gives at most {found:.2f} dB for this image, in {round(2**used)} bytes")
            if found >= target and all(used < one for one, psnr in trials if psnr >= target):
                best = stream
            # with up to so many bytes it is too little: asking for fewer would only give the same file again
            trials.append((used if found >= target else max(used, size), found))
        high = min((trial for trial in trials if trial[1] >= target), default=None)
        low = max((trial for trial in trials if trial[1] < target), default=None)
        between = 2 ** high[0] - 2 ** low[0] if high and low else math.inf  # bytes
        if high and (high[1] <= target + TOLERANCE or between < max(1.5, 2 ** high[0] / 300)):
            break
        size = _next_size(trials, low, high, target + TOLERANCE / 2, usual_slope(per_pixel * 2**size))
    if best is None:
        raise CodecError(f"no file of {target:.2f} dB was found in {MOST_TRIALS} trials")
    return best


def _next_size(
    trials: list[tuple[float, float]], low: tuple[float, float] | None, high: tuple[float, float] | None,
    wanted: float, usual: float,
) -> float:  # fmt: skip
    """The size, log2 of bytes, to try behind `trials`, of which `low` and `high` enclose the one wanted.

    usual  dB per doubling to go by after one trial, or where two say something much different
    """
    if low and high:
        share = (wanted - low[1]) / (high[1] - low[1]) if low[1] > -math.inf else 0.5
        return low[0] + min(max(share, 0.1), 0.9) * (high[0] - low[0])
    if low and low[1] == -math.inf:
        return low[0] + 1
    (before, then), (size, found) = trials[-2:] if len(trials) > 1 else [trials[0]] * 2
    slope = (found - then) / (size - before) if size != before else usual
    return size + (wanted - found) / min(max(slope, usual / STEEPEST), usual * STEEPEST)


def _fewest_segments(codec: Codec, image: torch.Tensor, target: float, options: dict[str, Any]) -> Stream:
    """By bisection: each prefix that is looked at is decoded once; the lossless file, where that is shorter."""
    assert isinstance(codec, Progressive)
    whole = codec.encode(image, **{"segments": codec.max_segments, **options})
    found: dict[int, float] = {}

    def reached(count: int) -> bool:
        found[count] = float(psnr_of(codec.decode(whole, segments=count), image))
        return found[count] >= target

    count = 1 + bisect.bisect_left(range(1, len(whole.segments) + 1), True, key=reached)
    if count > len(whole.segments):
        raise CodecError(f"the first {max(found)} segments give at most {found[max(found)]:.2f} dB for this image")
    stream = codec.prefix(whole, count)
    if "segments" in options:
        return stream
    return min(stream, codec.encode(image, lossless=True, **options), key=lambda one: len(container.write(one, codec)))
