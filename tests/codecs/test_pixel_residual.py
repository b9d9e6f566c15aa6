"""The lossless segment of DiffC: exact, short, readable when old, and loud when anything differs."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpress.codecs import CodecError, container
from diffpress.codecs.pixel_residual import (
    CRC_BYTES,
    EXTENDED,
    OTHER_ESTIMATE,
    PARAMETER_BYTES,
    decode_exact,
    encode_exact,
    exact_size,
)
from helpers import synthetic_photo

OLD = "433d41f16c6c6c6c6c6c6c6c6c6c6c6d4747474747474747474728531c1c1c1c1c1c1c1c1c1c1423df0e6fd3830f3e3aec5263c40fd918c9f383ebc48af7f70931b6441e"  # noqa: E501


def formula_image() -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [3, 6, 5] and an estimate of it, of whole numbers so that every machine has the same."""
    y, x = torch.arange(6)[:, None], torch.arange(5)[None]
    image = torch.stack([(20 * x + 30 * y + 7 * c + 13 * (x * y % 3)) % 256 for c in range(3)]).byte()
    return image, (image.float() + 6 * ((3 * x + 5 * y) % 4 - 1.5)) / 127.5 - 1


def noisy_estimate(image: torch.Tensor, std: float, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image.float() + std * noise).clamp(0, 255) / 127.5 - 1


def test_segment_of_commit_7c573aa_still_decodes() -> None:
    image, estimate = formula_image()
    assert torch.equal(decode_exact(bytes.fromhex(OLD), estimate, (6, 5)), image)


def test_segment_is_the_old_one_with_a_checksum_in_front() -> None:
    image, estimate = formula_image()
    crc = zlib.crc32(image.numpy().tobytes()).to_bytes(CRC_BYTES, "little")
    body = EXTENDED + crc + bytes.fromhex(OLD)[1:]
    assert encode_exact(image, estimate) == container.varint(len(body)) + body


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 8), st.floats(0, 300), st.integers(0, 2**32 - 1))
def test_any_image_comes_back_from_any_estimate(height: int, width: int, pad: int, std: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=rng, dtype=torch.uint8)
    estimate = torch.nn.functional.pad(noisy_estimate(image, std, seed), (0, pad, 0, pad))
    segment = encode_exact(image, estimate)
    assert exact_size(segment + b"more") == len(segment)
    assert torch.equal(decode_exact(segment, estimate, (height, width)), image)


def test_rate_is_the_entropy_of_the_error() -> None:
    """A smooth estimate, white noise of standard deviation 4 around it: nothing to learn from activity or channels."""
    ramp, std = torch.linspace(60, 190, 96).expand(3, 96, 96), 4.0
    image = (ramp + std * torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(0))).round().byte()
    bits = 8 * (len(encode_exact(image, ramp / 127.5 - 1)) - PARAMETER_BYTES) / image.numel()
    assert bits == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * std**2), abs=0.02)


def test_errors_shared_by_the_channels_are_paid_once() -> None:
    image = synthetic_photo(64, 64)
    common = 6 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    shared = len(encode_exact(image, (image + common) / 127.5 - 1))
    apart = len(encode_exact(image, noisy_estimate(image, 6.0)))
    assert shared < 0.45 * apart


def test_every_damaged_bit_is_noticed_or_harmless() -> None:
    """Harmless are stds of classes that do not occur, stds that hardly differ, and the end of the last word."""
    image, estimate = formula_image()
    segment = encode_exact(image, estimate)
    before = 1 + len(EXTENDED) + CRC_BYTES  # the length is one byte here
    stds = range(before + 3, before + PARAMETER_BYTES)
    for bit in range(8 * len(segment)):
        damaged = bytearray(segment)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode_exact(bytes(damaged), estimate, (6, 5))
        except CodecError:
            continue
        assert torch.equal(decoded, image), bit
        assert bit // 8 in stds or bit // 8 >= len(segment) - 4, bit


@pytest.mark.parametrize("shift", [1, 8, -3])
def test_estimate_of_another_machine_is_named(shift: int) -> None:
    """One of the estimates differs by `shift` eighths of a grey level."""
    image = synthetic_photo(32, 32)
    estimate = noisy_estimate(image, 3.0)
    segment = encode_exact(image, estimate)
    other = estimate.clone()
    other[1, 16, 16] += shift / 8 / 127.5
    with pytest.raises(CodecError) as caught:
        decode_exact(segment, other, (32, 32))
    assert str(caught.value) == OTHER_ESTIMATE


def test_truncated_segments_are_refused() -> None:
    image, estimate = formula_image()
    segment = encode_exact(image, estimate)
    for length in range(len(segment)):
        with pytest.raises(CodecError):
            decode_exact(segment[:length], estimate, (6, 5))
    for body in (b"", EXTENDED + b"1234" + bytes(PARAMETER_BYTES - 1)):
        with pytest.raises(CodecError, match="too short"):
            decode_exact(container.varint(len(body)) + body, estimate, (6, 5))
