"""Metrics and Bjøntegaard deltas against independent implementations and published examples."""

import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from diffpress.evaluation.bd import bd_quality, bd_rate, overlap
from diffpress.evaluation.metrics import bits_per_dimension, bits_per_pixel, psnr, ssim_scores

# Usage example in the README of the PyPI package bjontegaard (libx265, two presets); expected values from version 1.3.0
# of that package with method="pchip".
X265 = (
    [9487.76, 4593.60, 2486.44, 1358.24],
    [40.037, 38.615, 36.845, 34.851],
    [9787.80, 4469.00, 2451.52, 1356.24],
    [40.121, 38.651, 36.970, 34.987],
)
# The example circulating with the VCEG-M33 implementations; the same package, the same method.
VCEG = (
    [686.76, 309.58, 157.11, 85.95],
    [40.28, 37.18, 34.24, 31.42],
    [893.34, 407.8, 204.93, 112.75],
    [40.39, 37.21, 34.17, 31.24],
)


def images(height: int, width: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 12, generator=generator) * 255
    clean = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    noisy = clean + noise * torch.randn(3, height, width, generator=generator)
    return noisy.clamp(0, 255).round().byte(), clean.clamp(0, 255).round().byte()


@pytest.mark.parametrize(
    ("curves", "rate", "quality"),
    [(X265, -4.417485350589045, 0.11969278542479489), (VCEG, 31.379878202397627, -1.1834724046224592)],
)
def test_published_examples(curves: tuple[list[float], ...], rate: float, quality: float) -> None:
    assert bd_rate(*curves) == pytest.approx(rate, rel=1e-9)
    assert bd_quality(*curves) == pytest.approx(quality, rel=1e-9)
    assert bd_rate(*(curve[::-1] for curve in curves)) == pytest.approx(rate, rel=1e-9)


def test_a_curve_against_itself_and_at_half_the_rate() -> None:
    rate, quality = [0.1, 0.3, 0.7, 1.5], [25.0, 28.0, 31.0, 35.0]
    assert bd_rate(rate, quality, rate, quality) == pytest.approx(0, abs=1e-9)
    assert bd_rate(rate, quality, [r / 2 for r in rate], quality) == pytest.approx(-50)
    assert bd_quality(rate, quality, rate, [q + 1.5 for q in quality]) == pytest.approx(1.5)


def test_curves_that_cannot_be_compared_give_none() -> None:
    assert bd_rate([1, 2, 3], [30, 31, 32], [1, 2, 3], [40, 41, 42]) is None
    assert bd_rate([1, 2], [30, 31], [1, 2, 3], [30, 31, 32]) is None
    assert bd_rate([1, 2, 3], [30, 31, math.inf], [1, 2, 3], [30, 31, 32]) is None
    assert overlap([30, 32], [31, 40]) == (31, 32)
    assert overlap([30, 31], [31, 40]) is None


def test_points_that_are_dearer_and_worse_are_left_out() -> None:
    rate, quality = [0.1, 0.3, 0.7, 1.5], [25.0, 28.0, 31.0, 35.0]
    extra = bd_rate(rate, quality, [*rate, 0.9], [*quality, 27.0])
    assert extra == pytest.approx(0, abs=1e-9)


def test_psnr_and_rates() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert psnr(image, image) == math.inf
    assert psnr(image + 255, image) == 0
    assert psnr(image + 1, image) == pytest.approx(48.1308, abs=1e-4)
    assert bits_per_pixel(96, 16, 16) == 3.0
    assert bits_per_dimension(3.0) == 1.0
    with pytest.raises(ValueError, match="uint8"):
        psnr(image.float(), image)


@pytest.mark.parametrize("noise", [2.0, 20.0])
def test_ssim_equals_torchmetrics(noise: float) -> None:
    image, original = images(170, 201, noise)
    _, per_pixel = structural_similarity_index_measure(
        image[None].double(), original[None].double(), data_range=255.0, return_full_image=True
    )
    inside = per_pixel[..., 5:-5, 5:-5]  # windows that lie in the image; torchmetrics' own mean adds a reflected border
    assert ssim_scores(image, original)[0] == pytest.approx(float(inside.mean()), abs=2e-5)


def test_ms_ssim_is_defined_above_160_pixels_only() -> None:
    assert ssim_scores(*images(160, 300, 5))[1] is None
    assert ssim_scores(*images(10, 300, 5)) == (None, None)
    image, original = images(161, 170, 5)
    ssim, ms_ssim = ssim_scores(image, original)
    assert ssim is not None
    assert ms_ssim is not None
    assert ssim < ms_ssim < 1
    assert ssim_scores(original, original) == pytest.approx((1, 1))


def test_ms_ssim_of_the_definition_written_out() -> None:
    """Five scales in float64, windows by unfold: slow, and nothing shared with the implementation."""
    image, original = images(176, 180, 12)
    offsets = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(offsets**2) / 4.5)
    kernel = (window[:, None] * window[None]) / window.sum() ** 2
    x, y, result = image.double(), original.double(), torch.ones(3, dtype=torch.float64)
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            x, y = (t.unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)) for t in (x, y))
        u, v = (t.unfold(1, 11, 1).unfold(2, 11, 1) for t in (x, y))
        mean_u, mean_v = (u * kernel).sum((3, 4)), (v * kernel).sum((3, 4))
        var_u = ((u - mean_u[..., None, None]) ** 2 * kernel).sum((3, 4))
        var_v = ((v - mean_v[..., None, None]) ** 2 * kernel).sum((3, 4))
        cov = ((u - mean_u[..., None, None]) * (v - mean_v[..., None, None]) * kernel).sum((3, 4))
        term = (2 * cov + 58.5225) / (var_u + var_v + 58.5225)
        if scale == 4:
            term = term * (2 * mean_u * mean_v + 6.5025) / (mean_u**2 + mean_v**2 + 6.5025)
        result = result * term.mean((1, 2)) ** weight
    assert ssim_scores(image, original)[1] == pytest.approx(float(result.mean()), abs=2e-5)
