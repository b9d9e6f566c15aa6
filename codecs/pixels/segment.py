"""The last segment of a lossless DiffC file: the exact pixels, with or without an estimate that both sides have.

Bytes: LEB128 length of what follows; EXTENDED; CRC-32 of the pixels; EXTENDED; a method; for COLOUR and GREY a byte of
flags; data.  Files of earlier writers have a gain in place of the second EXTENDED and are read by pixel_residual.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import container, get_codec
from ..base import CodecError, Header, Stream
from ..entropy import WeightsDecoder, WeightsEncoder
from ..pixel_residual import (
    CODING_ORDER,
    CRC_BYTES,
    EXTENDED,
    MEAN_SCALE,
    OTHER_ESTIMATE,
    checksum_of,
    decode_residuals,
    to_means,
)

if TYPE_CHECKING:
    from .plane import Planes
    from .prediction import Floats, Ints

STORED, WEBP, COLOUR, GREY = range(4)  # methods: bytes [3, H, W], a WebP file, three planes, one plane for all three
ESTIMATE = 128  # flag: the decoder's estimate is used; the other bits are one of plane.MODELS
WEBP_SIDE = 16383  # pixels at most

Pixels = NDArray[np.uint8]


def encode_pixels(image: Tensor, estimate: Tensor | None = None, fast: bool = False, threads: int = 1) -> bytes:
    """The segment for uint8 `image` [3, H, W], by the method that makes it shortest.

    estimate  float [3, h >= H, w >= W] in [-1, 1], which the decoder will have; None: there is none
    fast      with the model that takes less time, not the one of the shortest files
    threads   that share the work; the bytes do not depend on it
    """
    from .plane import BEST, FAST, Planes  # with numba, which takes half a second to import

    model = FAST if fast else BEST
    pixels = image.cpu().numpy()
    method = GREY if (pixels == pixels[1]).all() else COLOUR
    flags = bytes([model | (0 if estimate is None else ESTIMATE)])
    planes = Planes((pixels.shape[1], pixels.shape[2]), _grey_levels(estimate, pixels.shape[1:]))
    bodies = {method: flags + _encode_planes(planes, pixels, 1 if method == GREY else 3, model, threads)}
    if max(pixels.shape) <= WEBP_SIDE:
        bodies[WEBP] = get_codec("webp").encode(image, lossless=True).segments[0]
    bodies[STORED] = pixels.tobytes()
    method = min(bodies, key=lambda one: len(bodies[one]))
    body = EXTENDED + checksum_of(pixels) + EXTENDED + bytes([method]) + bodies[method]
    return container.varint(len(body)) + body


def decode_pixels(
    segment: bytes, size: tuple[int, int], estimate: Callable[[], Tensor], threads: int = 1
) -> Tensor:
    """uint8 [3, H, W] from a segment of `encode_pixels`, or of an earlier version; `size` = (H, W).

    estimate  gives the encoder's estimate; called only where the segment needs it
    Raises CodecError: the segment is damaged, or the estimate is not the encoder's.
    """
    length, begin = container.read_varint(segment, 0)
    body, front = segment[begin:], len(EXTENDED) + CRC_BYTES
    if len(body) != length:
        raise CodecError("the length of the lossless segment is damaged")
    if body[:1] != EXTENDED or body[front : front + 1] != EXTENDED:
        return decode_residuals(body, estimate(), size)
    try:
        pixels = _decode_body(body[front + 1 :], size, estimate, threads)
    except CodecError as error:
        raise CodecError(OTHER_ESTIMATE) from error
    if checksum_of(pixels) != body[1:front]:
        raise CodecError(OTHER_ESTIMATE)
    return torch.from_numpy(pixels)


def segment_size(rest: bytes | memoryview) -> int:
    """Bytes of the segment at the start of `rest`; raises container.Truncated where `rest` is too short to tell."""
    length, begin = container.read_varint(rest, 0)
    return begin + length


def _decode_body(data: bytes, size: tuple[int, int], estimate: Callable[[], Tensor], threads: int) -> Pixels:
    method, data = data[:1], data[1:]
    if method == bytes([STORED]) and len(data) == 3 * size[0] * size[1]:
        return np.frombuffer(data, np.uint8).reshape(3, *size).copy()
    if method == bytes([WEBP]):
        return get_codec("webp").decode(Stream(Header("webp", *size), (data,), native=True)).numpy()
    from .plane import MODELS, Planes

    if method not in (bytes([COLOUR]), bytes([GREY])) or not data or data[0] % ESTIMATE not in MODELS:
        raise CodecError("the lossless segment is damaged, or written by a newer version")
    planes = Planes(size, _grey_levels(estimate(), size) if data[0] & ESTIMATE else None)
    count = 1 if method == bytes([GREY]) else 3
    return _decode_planes(planes, data[1:], count, data[0] % ESTIMATE, threads)


def _encode_planes(planes: Planes, pixels: Pixels, count: int, model: int, threads: int) -> bytes:
    """Words of the range coder for the first `count` planes in coding order."""
    from .mixture import COARSE
    from .prediction import SLANT

    encoder = WeightsEncoder()
    for position, channel in enumerate(CODING_ORDER[:count]):
        parts = np.divmod(pixels[channel].astype(np.int64), COARSE)

        def source(
            first: int, last: int, time: int, weights: Floats, part: int, parts: tuple[Ints, Ints] = parts
        ) -> Ints:
            rows = np.arange(first, last)
            symbols = parts[part][rows, time - SLANT * rows]
            encoder.encode(symbols, weights)
            return symbols

        planes.run(CODING_ORDER, position, source, model, threads)
    return encoder.data()


def _decode_planes(planes: Planes, data: bytes, count: int, model: int, threads: int) -> Pixels:
    decoder = WeightsDecoder(data)

    def source(first: int, last: int, time: int, weights: Floats, part: int) -> Ints:
        return decoder.decode(weights).astype(np.int64)

    for position in range(count):
        planes.run(CODING_ORDER, position, source, model, threads)
    if count == 1:
        return np.repeat(planes.values[CODING_ORDER[0]].astype(np.uint8)[None], 3, axis=0)
    return planes.values[:3].astype(np.uint8)


def _grey_levels(estimate: Tensor | None, size: tuple[int, ...]) -> Floats | None:
    return None if estimate is None else to_means(estimate, size) / MEAN_SCALE
