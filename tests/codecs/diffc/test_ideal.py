"""The ideal coder: what DiffC's steps would cost, and look like, without any loss in coding."""

from __future__ import annotations

import math

import pytest
import torch

from diffpress.codecs import container
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.diffc.ideal import ideal_curve
from diffpress.codecs.diffc.subbands import step_bits
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model
from helpers import synthetic_photo


def test_bits_of_a_step_are_the_kl_at_the_best_variance() -> None:
    rng = torch.Generator().manual_seed(0)
    mu = 1.5 * torch.randn(16, generator=rng, dtype=torch.float64)
    energy = float(mu.square().mean())

    def kl_bits(variance: float) -> float:
        """KL(N(mu, I) || N(0, variance I)) by drawing."""
        z = mu + torch.randn(100_000, 16, generator=rng, dtype=torch.float64)
        nats = (z.square() / variance - (z - mu).square() + math.log(variance)) / 2
        return float(nats.sum(1).mean()) / math.log(2)

    assert step_bits(16, energy) == pytest.approx(kl_bits(1 + energy), rel=0.01)
    assert step_bits(16, energy) < min(kl_bits(factor * (1 + energy)) for factor in (0.7, 1.4))


@pytest.mark.parametrize("lossless", [False, True])
def test_files_need_somewhat_more_than_an_ideal_coder(lossless: bool) -> None:
    """At equal steps a real file looks alike; the coder, its ends and the header cost more where there is little."""
    codec, image = DiffC(load_model("diffc-pixel", device="cpu"), preset="fast"), synthetic_photo(160, 160)
    whole = codec.encode(image, lossless=True, segments=8) if lossless else None
    for ideal in ideal_curve(codec, image, [3, 8], lossless=lossless):
        stream = codec.prefix(whole, ideal.segments) if whole else codec.encode(image, segments=ideal.segments)
        file_bits = 8 * len(container.write(stream, codec))
        assert 1.05 < file_bits / ideal.bits < (1.6 if ideal.segments == 3 else 1.3)
        assert psnr(ideal.image, image) == pytest.approx(psnr(codec.decode(stream), image), abs=0.4)


def test_what_is_left_out_saves_bits() -> None:
    codec, image = DiffC(load_model("diffc-pixel", device="cpu"), preset="fast"), synthetic_photo(96, 128)
    less, everything = (ideal_curve(codec, image, [6], lossless=lossless)[0] for lossless in (False, True))
    assert less.bits < 0.8 * everything.bits
