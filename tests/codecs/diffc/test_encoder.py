"""What DiffC's encoder leaves out: differences that are small beside the noise at the end of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffpress.codecs import CodecError, container
from diffpress.codecs.diffc.codec import WATER_FILLING, DiffC
from diffpress.codecs.diffc.subbands import Subbands
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model
from helpers import synthetic_photo


@pytest.mark.parametrize("shape", [(3, 64, 96), (3, 45, 33), (4, 5, 7)])
def test_water_filling_is_by_subband_and_block(shape: tuple[int, int, int]) -> None:
    subbands = Subbands(shape, block=32)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(subbands.water_fill(x, 1e9), x, atol=1e-5, rtol=0)
    assert subbands.water_fill(x, 1e-9).abs().max() < 1e-6
    assert not subbands.water_fill(torch.zeros_like(x), 1.0).any()


def test_a_strong_block_stays_where_its_weak_neighbour_goes() -> None:
    subbands = Subbands((3, 32, 64), block=32)
    grey = torch.ones(1, 3, 32, 64)
    x = torch.cat([grey[..., :32], 0.01 * grey[..., 32:]], -1)
    # of three equal channels only brightness has a mean: its square is 32 * 32 * 3 in the first block's one coefficient
    u = 100.0
    kept = subbands.water_fill(x, u / (32 * 32 * 3))
    torch.testing.assert_close(kept[..., :32], x[..., :32] * u / (1 + u))
    torch.testing.assert_close(kept[..., 32:], x[..., 32:] * 0.01 / 1.01)


def test_water_filling_gains_quality_at_equal_size() -> None:
    prior, image = load_model("diffc-pixel", device="cpu"), synthetic_photo(96, 128)
    qualities = []
    for water_filling in (0.0, None):
        codec = DiffC(prior, preset="fast", water_filling=water_filling)
        file = container.write(codec.encode(image, bpp=0.25), codec)
        assert 0.97 * 0.25 < 8 * len(file) / image[0].numel() <= 0.25
        other = DiffC(prior, preset="fast", water_filling=5.0)  # the decoder's own setting has no say
        qualities.append(psnr(other.decode(container.read(file, other)), image))
    assert qualities[1] > qualities[0] + 0.3


def test_nothing_is_left_out_of_lossless_files_nor_for_realistic_reconstructions(tiny_prior: Path) -> None:
    prior, image = load_model(tiny_prior, device="cpu"), synthetic_photo(24, 40)
    plain, filled = (DiffC(prior, water_filling=water_filling) for water_filling in (0.0, 1.0))
    assert plain.encode(image, lossless=True, segments=4) == filled.encode(image, lossless=True, segments=4)
    assert plain.encode(image, segments=2) != filled.encode(image, segments=2)
    assert DiffC(prior).water_filling == DiffC(prior, reconstruction="mse").water_filling == WATER_FILLING
    assert not any(DiffC(prior, reconstruction=how).water_filling for how in ("flow", "ancestral"))


@pytest.mark.parametrize("water_filling", [-0.1, float("nan"), float("inf")])
def test_unusable_settings_are_refused(tiny_prior: Path, water_filling: float) -> None:
    with pytest.raises(CodecError, match="--water-filling"):
        DiffC(load_model(tiny_prior, device="cpu"), water_filling=water_filling)
