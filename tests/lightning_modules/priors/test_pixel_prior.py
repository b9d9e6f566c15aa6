"""Pixel-space priors: our denoiser, and diffusers' UNet2DModel in all parameterisations."""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma, diffuse
from diffpress.lightning_modules.networks.denoiser import SIGMA_DATA
from diffpress.lightning_modules.priors.interface import Prior
from diffpress.lightning_modules.priors.pixel import DenoiserPrior
from helpers import synthetic_photo


def test_untrained_denoiser_is_the_wiener_filter_of_white_data(tiny_prior: Path) -> None:
    prior = load_model(tiny_prior, device="cpu")
    x = SIGMA_DATA * torch.randn(1, 3, 32, 32)
    for level in (100, 400, 700):
        alpha, sigma = alpha_sigma(prior.log_snr(level))
        z = diffuse(x, prior.log_snr(level), torch.randn_like(x))
        gain = alpha * SIGMA_DATA**2 / (alpha**2 * SIGMA_DATA**2 + sigma**2)
        torch.testing.assert_close(prior.denoise(z, level), (gain.float() * z).clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_prior_interface(tiny_prior: Path) -> None:
    prior = load_model(tiny_prior, device="cpu")
    assert isinstance(prior, Prior)
    image = synthetic_photo(37, 91)[None]
    x0 = prior.encode(image)
    assert tuple(x0.shape[1:]) == prior.shape((37, 91))
    assert torch.equal(prior.decode(x0, (37, 91)), image)
    assert prior.condition() is None
    assert torch.equal(prior.denoise(x0, 500, [None]), prior.denoise(x0, 500))
    for prompt, guidance in (("a door", 1.0), ("", 2.0)):
        with pytest.raises(ModelError, match="knows no prompts"):
            prior.condition(prompt, guidance)
    assert (prior.lossless, prior.reconstruction, prior.schedule) == (True, "ensemble", None)
    assert prior.double().denoise(x0.double(), 500).dtype == torch.float64


def test_tiled_denoising_equals_whole(tiny_prior: Path) -> None:
    torch.manual_seed(1)
    whole, tiled = DenoiserPrior(tiny_prior), DenoiserPrior(tiny_prior, tile=64, overlap=64)
    for prior in (whole, tiled):
        torch.manual_seed(2)
        torch.nn.init.normal_(prior.network.head.weight, std=0.1)
    z = torch.randn(1, 3, 160, 96)
    torch.testing.assert_close(tiled.denoise(z, 500), whole.denoise(z, 500), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("pipeline", [False, True])
def test_unet2d_predictions_are_turned_into_x0(tmp_path: Path, prediction: str, pipeline: bool) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(prediction_type=prediction)
    if pipeline:
        DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    else:
        unet.save_pretrained(tmp_path)
        scheduler.save_pretrained(tmp_path)
    prior = load_model(tmp_path, device="cpu")
    z = torch.randn(1, 3, 16, 16)
    for level in (1, 300, 1000):
        output = unet(z, level - 1).sample.detach()
        cumulative = scheduler.alphas_cumprod[level - 1]
        expected = {
            "epsilon": (z - (1 - cumulative).sqrt() * output) / cumulative.sqrt(),
            "sample": output,
            "v_prediction": cumulative.sqrt() * z - (1 - cumulative).sqrt() * output,
        }[prediction].clamp(-1, 1)
        torch.testing.assert_close(prior.denoise(z, level), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("content", ["{}", "not json", '{"_class_name": "Sofa"}', "[]"])
def test_bad_model_folders_are_sentences(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="no model folder"):
        load_model(tmp_path / "absent")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_changes_little_and_stays_outside(tiny_prior: Path, dtype: str) -> None:
    """The network's layers round; z, the preconditioning and the estimate are float32 (and float64 in the copy)."""
    whole, half = load_model(tiny_prior, device="cpu"), load_model(tiny_prior, device="cpu", dtype=dtype)
    for prior in (whole, half):
        torch.manual_seed(2)
        torch.nn.init.normal_(prior.network.head.weight, std=0.1)
    z = torch.randn(1, 3, 32, 32)
    for timestep in (1, 300, 1000):
        exact, rounded = whole.denoise(z, timestep), half.denoise(z, timestep)
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        noise = math.exp(-0.5 * half.log_snr(timestep))  # c_out, by which an error of the layers is multiplied
        spread = noise * SIGMA_DATA / math.hypot(noise, SIGMA_DATA)
        assert float((rounded - exact).abs().max()) < 0.05 * spread
    twice = half.double().denoise(z.double(), 300)
    torch.testing.assert_close(twice, whole.double().denoise(z.double(), 300))


def test_too_little_memory_says_what_can_be_done(tiny_prior: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load_model(tiny_prior, device="cpu")
    for error, told in [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9000 GiB"), "--tile 512"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "--tile 512"),
        (RuntimeError("mat1 and mat2 must have the same dtype"), None),
    ]:
        monkeypatch.setattr(prior, "network", Mock(side_effect=error))
        with pytest.raises(ModelError if told else RuntimeError, match=told or "mat1"):
            prior.denoise(torch.zeros(1, 3, 32, 32), 10)
