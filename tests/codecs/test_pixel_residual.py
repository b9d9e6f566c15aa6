"""The lossless segment of DiffC files of before 2026-11: still readable, and loud when anything differs."""

from __future__ import annotations

import pytest
import torch

from diffpress.codecs import CodecError, container
from diffpress.codecs.pixel_residual import (
    EXTENDED,
    OTHER_ESTIMATE,
    PARAMETER_BYTES,
    ResidualModel,
    checksum_of,
    to_means,
)
from diffpress.codecs.pixels.segment import decode_pixels
from helpers import encode_gaussians, synthetic_photo

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
    assert torch.equal(decode_pixels(bytes.fromhex(OLD), (6, 5), lambda: estimate), image)


def written_before(image: torch.Tensor, estimate: torch.Tensor) -> bytes:
    """The segment that lossless DiffC files ended with until 2026-11."""
    pixels, means = image.numpy(), to_means(estimate, image.shape[1:])
    model = ResidualModel.fit([pixels], [means])
    words = encode_gaussians(*model.in_coding_order(pixels, means), 0, 255)
    body = EXTENDED + checksum_of(pixels) + model.parameters + words
    return container.varint(len(body)) + body


def test_segment_with_a_checksum_in_front_decodes() -> None:
    image, estimate = formula_image()
    segment = written_before(image, estimate)
    assert segment.endswith(bytes.fromhex(OLD)[1:])
    assert torch.equal(decode_pixels(segment, (6, 5), lambda: estimate), image)


@pytest.mark.parametrize("shift", [1, 8, -3])
def test_estimate_of_another_machine_is_named(shift: int) -> None:
    """One of the estimates differs by `shift` eighths of a grey level."""
    image = synthetic_photo(32, 32)
    estimate = noisy_estimate(image, 3.0)
    segment = written_before(image, estimate)
    other = estimate.clone()
    other[1, 16, 16] += shift / 8 / 127.5
    with pytest.raises(CodecError) as caught:
        decode_pixels(segment, (32, 32), lambda: other)
    assert str(caught.value) == OTHER_ESTIMATE


def test_truncated_segments_are_refused() -> None:
    image, estimate = formula_image()
    segment = written_before(image, estimate)
    for length in range(len(segment)):
        with pytest.raises(CodecError):
            decode_pixels(segment[:length], (6, 5), lambda: estimate)
    for body in (b"", EXTENDED + b"1234" + bytes(PARAMETER_BYTES - 1)):
        with pytest.raises(CodecError, match="too short"):
            decode_pixels(container.varint(len(body)) + body, (6, 5), lambda: estimate)
