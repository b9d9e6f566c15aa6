"""The lossless segment: exact, shorter than other formats' files, the same bytes everywhere, loud when damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from diffpress.codecs import CodecError, container, get_codec
from diffpress.codecs.pixel_residual import OTHER_ESTIMATE
from diffpress.codecs.pixels.plane import BEST, Planes
from diffpress.codecs.pixels.segment import (
    COLOUR,
    GREY,
    STORED,
    WEBP,
    _decode_planes,
    _encode_planes,
    decode_pixels,
    encode_pixels,
    segment_size,
)
from diffpress.data import read_image
from helpers import ROOT, synthetic_photo

FROZEN = "b07fc492dadae431"


def none() -> torch.Tensor:
    raise AssertionError("no estimate is needed")


def formula_image(height: int, width: int) -> torch.Tensor:
    """uint8 [3, H, W] of whole numbers, so that every machine has the same."""
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    return torch.stack([(5 * x + 3 * y + 9 * c + (x * y + 7 * (x // 5)) % 13) % 256 for c in range(3)]).byte()


def estimate_of(image: torch.Tensor, std: float) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image.float() + std * noise).clamp(0, 255) / 127.5 - 1


def method_of(segment: bytes) -> int:
    _, begin = container.read_varint(segment, 0)
    return segment[begin + 6]


def line_art() -> torch.Tensor:
    image = torch.full((3, 64, 96), 255, dtype=torch.uint8)
    for k in range(0, 60, 7):
        image[:, k, : 30 + k] = 0
        image[:, :, k] = 0
    return image


def screenshot() -> torch.Tensor:
    """Panels of a few colours with rows of the same small glyphs."""
    image = torch.full((3, 96, 128), 240, dtype=torch.uint8)
    image[:, :12] = torch.tensor([40, 60, 90], dtype=torch.uint8)[:, None, None]
    glyphs = torch.rand(6, 7, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    for row in range(9):
        for column in range(19):
            glyph = glyphs[(row * 5 + column * column) % 6]
            image[:, 16 + 9 * row : 23 + 9 * row, 3 + 6 * column : 8 + 6 * column][:, glyph] = 30
    return image


ODD: dict[str, Callable[[], torch.Tensor]] = {
    "one pixel": lambda: synthetic_photo(1, 1),
    "one row": lambda: synthetic_photo(1, 50),
    "one column": lambda: synthetic_photo(50, 1),
    "3 x 1000": lambda: synthetic_photo(3, 1000),
    "grey": lambda: synthetic_photo(40, 50)[:1].expand(3, -1, -1).contiguous(),
    "flat": lambda: torch.full((3, 48, 64), 77, dtype=torch.uint8),
    "noise": lambda: torch.randint(
        0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    ),
    "line art": line_art,
    "screenshot": screenshot,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_exact_and_hardly_ever_longer_than_png(name: str) -> None:
    image = ODD[name]()
    segment = encode_pixels(image)
    assert torch.equal(decode_pixels(segment, (image.shape[1], image.shape[2]), none), image)
    assert len(segment) <= 1.02 * len(get_codec("png").encode(image).segments[0])
    expected = {"one pixel": STORED, "grey": GREY, "noise": STORED, "line art": WEBP, "screenshot": WEBP}
    assert method_of(segment) == expected.get(name, method_of(segment))


def test_patterns_that_make_regressors_depend_on_each_other() -> None:
    """Such normal equations have no solution in float32: what overflows must not reach the probabilities."""
    stripes = (torch.arange(40) % 2 * 255).byte().expand(3, 40, 40)
    for image in (stripes, stripes.mT, stripes ^ stripes.mT):
        pixels, grey = image.numpy(), np.full((3, 40, 40), 127.5)
        data = _encode_planes(Planes((40, 40), grey), pixels, 3, BEST, 1)
        assert np.array_equal(_decode_planes(Planes((40, 40), grey), data, 3, BEST, 1), pixels)


@pytest.mark.parametrize("std", [None, 2.0])
@pytest.mark.parametrize("fast", [False, True])
def test_photo_comes_back_whatever_the_threads(std: float | None, fast: bool) -> None:
    image = synthetic_photo(75, 77)
    estimate = None if std is None else estimate_of(image, std)
    segment = encode_pixels(image, estimate, fast, threads=1)
    assert segment == encode_pixels(image, estimate, fast, threads=2)
    assert segment_size(segment + b"more") == len(segment)
    found = decode_pixels(segment, (75, 77), none if estimate is None else lambda: estimate, threads=2)
    assert torch.equal(found, image)


def test_estimate_saves_bits() -> None:
    image = synthetic_photo(48, 64)
    assert len(encode_pixels(image, estimate_of(image, 1.0))) < 0.8 * len(encode_pixels(image))


def test_photo_is_shorter_than_as_jpeg_xl_or_webp() -> None:
    image = read_image(ROOT / "tests" / "golden" / "photo.png")
    segment = encode_pixels(image)
    assert method_of(segment) == COLOUR
    assert len(segment) < 0.95 * len(get_codec("webp").encode(image, lossless=True).segments[0])


def test_bytes_are_the_same_on_every_machine() -> None:
    image = read_image(ROOT / "tests" / "golden" / "photo.png")
    estimate = (image.float() + formula_image(24, 40).float() / 32 - 4) / 127.5 - 1
    segments = encode_pixels(image), encode_pixels(image, estimate, fast=True)
    assert [method_of(segment) for segment in segments] == [COLOUR, COLOUR]
    assert hashlib.sha256(b"".join(segments)).hexdigest()[:16] == FROZEN


def test_network_is_the_one_of_the_format() -> None:
    with np.load(ROOT / "codecs" / "pixels" / "mixture.npz") as stored:
        data = b"".join(stored[name].astype("<i4").tobytes() for name in sorted(stored.files))
    assert hashlib.sha256(data).hexdigest() in (ROOT / "docs" / "format.md").read_text()


def test_damage_is_noticed() -> None:
    image = synthetic_photo(16, 16)
    segment = encode_pixels(image)
    assert method_of(segment) == COLOUR
    for bit in range(0, 8 * len(segment), 29):
        damaged = bytearray(segment)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode_pixels(bytes(damaged), (16, 16), lambda: torch.zeros(3, 16, 16))
        except CodecError:
            continue
        assert torch.equal(decoded, image)
        assert bit // 8 >= len(segment) - 8, "only the end of the last word may be free"
    for length in range(0, len(segment), 7):
        with pytest.raises(CodecError):
            decode_pixels(segment[:length], (16, 16), none)


def test_another_estimate_is_named() -> None:
    image = synthetic_photo(32, 32)
    estimate = estimate_of(image, 3.0)
    segment, other = encode_pixels(image, estimate), estimate.clone()
    other[1, 16, 16] += 1 / 8 / 127.5
    with pytest.raises(CodecError) as caught:
        decode_pixels(segment, (32, 32), lambda: other)
    assert str(caught.value) == OTHER_ESTIMATE
