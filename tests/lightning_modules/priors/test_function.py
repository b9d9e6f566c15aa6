"""Denoisers that are functions, and networks of other libraries, as priors: each gives the exact estimate.

In place of the networks stand exact denoisers of data N(CENTRE, SPREAD^2), through each library's own classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffpress import resource
from diffpress.codecs import container, get_codec
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma, diffuse, eps_from_x0
from diffpress.lightning_modules.networks.denoiser import SIGMA_DATA
from diffpress.lightning_modules.priors import adapters
from diffpress.lightning_modules.priors.function import DenoiserFunction
from diffpress.lightning_modules.priors.interface import Prior
from helpers import synthetic_photo

CENTRE, SPREAD = 0.1, 0.2  # of data in [-1, 1], which no estimate leaves


def exact(y: Tensor, sigma: Any, scale: float = 1.0, centre: float = CENTRE) -> Tensor:
    """E[x | y] of y = x + sigma n for x ~ N(centre, (scale * SPREAD)^2)."""
    power = (scale * SPREAD) ** 2
    return (power * y + sigma**2 * centre) / (power + sigma**2)


class ExactNetwork(nn.Module):
    """D(x; sigma) in [-1, 1], called as EDM and k-diffusion do."""

    sigma_min, sigma_max = 0.002, 80.0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(x),)
        return exact(x.double(), sigma.double().view(-1, 1, 1, 1)).to(x)


class BareNetwork(nn.Module):
    """F of the EDM preconditioning for which D is exact."""

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        sigma = torch.exp(4 * noise.double()).view(-1, 1, 1, 1)
        total = sigma**2 + SIGMA_DATA**2
        scaled = x.double() * total.sqrt()
        return ((exact(scaled, sigma) - scaled * SIGMA_DATA**2 / total) * total.sqrt() / (sigma * SIGMA_DATA)).to(x)


class GuidedDiffusion(nn.Module):
    """Noise and learned variance, six channels, at a timestep counted from 0."""

    alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        log_snr = float(torch.logit(self.alphas_cumprod[time[0]]))
        alpha, sigma = alpha_sigma(log_snr)
        eps = eps_from_x0(z.double(), exact(z.double() / alpha, float(sigma / alpha)), log_snr)
        return torch.cat([eps, torch.full_like(eps, 7)], 1)


def azula_denoiser() -> Any:
    azula, noise = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")

    class Backbone(nn.Module):
        """b of Azula's KarrasDenoiser, in unit variance preserving coordinates."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
            sigma = log_sigma.double().exp().view(-1, 1, 1, 1)
            y = x.double() * (1 + sigma**2).sqrt()
            return ((exact(y, sigma) - y / (1 + sigma**2)) * (1 + sigma**2).sqrt() / sigma).to(x)

    return azula.KarrasDenoiser(Backbone(), noise.VPSchedule())


PRIORS: dict[str, Callable[[], Prior]] = {
    "function": lambda: DenoiserFunction(lambda y, sigma: exact(y, sigma, 0.5, 0.5 + CENTRE / 2), (0.001, 30.0), "f"),
    "bytes": lambda: DenoiserFunction(
        lambda y, sigma: exact(y, sigma, 127.5, 127.5 * (1 + CENTRE)), (0.3, 7000.0), "b", value_range=(0.0, 255.0)
    ),
    "edm": lambda: adapters.edm(ExactNetwork()),
    "bare edm": lambda: adapters.edm(adapters.Preconditioned(BareNetwork()), (0.002, 80.0)),
    "guided-diffusion": lambda: adapters.guided_diffusion(GuidedDiffusion(), GuidedDiffusion.alphas_cumprod),
    "azula": lambda: adapters.azula(azula_denoiser()),
}


@pytest.mark.parametrize("name", PRIORS)
def test_exact_denoisers_give_the_exact_estimate_at_every_level(name: str) -> None:
    prior = PRIORS[name]()
    assert isinstance(prior, Prior)
    rng = torch.Generator().manual_seed(0)
    x, noise = CENTRE + SPREAD * torch.randn(2, 3, 16, 24, generator=rng), torch.randn(2, 3, 16, 24, generator=rng)
    for timestep in (1, 40, 200, 400, 600, 800, prior.num_levels - 1):
        log_snr = prior.log_snr(timestep)
        alpha, sigma = alpha_sigma(log_snr)
        z = diffuse(x, log_snr, noise)
        expected = exact(z.double() / alpha, float(sigma / alpha)).clamp(-1, 1).float()
        torch.testing.assert_close(prior.denoise(z, timestep), expected, atol=1e-5, rtol=0, msg=f"timestep {timestep}")


def shipped_as_function() -> tuple[Callable[[Tensor, float], Tensor], Any]:
    """(denoise(y, sigma) for images in [0, 1], the shipped prior whose network it is)."""
    prior = load_model("diffc-pixel", device="cpu")

    def denoise(y: Tensor, sigma: float) -> Tensor:
        alpha, _ = alpha_sigma(-2 * math.log(2 * sigma))
        timestep = min(range(1, 1001), key=lambda t: abs(prior.log_snr(t) + 2 * math.log(2 * sigma)))
        return prior.denoise(float(alpha) * (2 * y - 1), timestep) / 2 + 0.5

    return denoise, prior


TRAINED = """
import math
import torch
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma

prior = load_model("diffc-pixel-2-float", device="cpu")
network, pyramid = prior.network, prior.pyramid
sigma_range = tuple(math.exp(-prior.log_snr(t) / 2) / 2 for t in (0, 1000))  # of images in [0, 1]

def estimate(network, z, log_snr):
    return network(z, torch.full((len(z),), log_snr)).clamp(-1, 1)

def denoise(y, sigma):
    log_snr, trained = -2 * math.log(2 * sigma), network
    z = float(alpha_sigma(log_snr)[0]) * (2 * y - 1)
    return pyramid.estimate(lambda z, log_snr: estimate(trained, z, log_snr), z, log_snr) / 2 + 0.5
"""


def test_real_weights_as_a_function_make_the_shipped_priors_files(tmp_path: Path, one_thread: None) -> None:
    (tmp_path / "trained.py").write_text(TRAINED)
    image, files, quality = synthetic_photo(64, 96), [], []
    for model in ("diffc-pixel-2-float", f"{tmp_path}/trained.py:denoise"):
        schedule = str(resource("checkpoints/diffc-pixel-2/calibration.json"))
        codec = get_codec("diffc", model=load_model(model, device="cpu"), schedule=schedule, reconstruction="mse")
        stream = codec.encode(image, segments=12)
        files.append(len(container.write(stream, codec)))
        quality.append(psnr(codec.decode(stream), image))
    assert files[1] == pytest.approx(files[0], rel=0.005)
    assert quality[1] == pytest.approx(quality[0], abs=0.02)


def test_above_its_range_a_denoiser_works_on_less_contrast_and_on_averages(one_thread: None) -> None:
    denoise, shipped = shipped_as_function()
    narrow = DenoiserFunction(denoise, (0.001, 0.2), "narrow")
    x = shipped.encode(synthetic_photo(64, 96)[None])
    for log_snr in (1.7, 0.7, -0.3, -2.0):  # below, so small an image has too few averages
        timestep = min(range(1, 1001), key=lambda t: abs(narrow.log_snr(t) - log_snr))
        z = diffuse(x, narrow.log_snr(timestep), torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
        whole = min(range(1, 1001), key=lambda t: abs(shipped.log_snr(t) - log_snr))
        mse, best = ((prior.denoise(z, t) - x).square().mean() for prior, t in ((narrow, timestep), (shipped, whole)))
        assert mse < 1.25 * best


def test_blind_denoisers_and_odd_sizes() -> None:
    def denoise(y: Tensor) -> Tensor:
        assert y.shape[-2] % 4 == y.shape[-1] % 4 == 0
        return 0.9 * y

    prior = DenoiserFunction(denoise, (0.01, 0.2), "blind", multiple=4)
    assert prior.shape((37, 91)) == (3, 37, 91)
    z = torch.zeros(1, 3, 37, 91)
    torch.testing.assert_close(prior.denoise(z, 1), torch.full_like(z, -0.1))


def test_identity_goes_by_weights_ranges_and_name() -> None:
    def made(name: str = "a", ends: tuple[float, float] = (0.0, 0.2), **options: Any) -> bytes:
        return DenoiserFunction(lambda y: y, ends, name, **options).fingerprint

    prints = [made(), made("b"), made(ends=(0.0, 0.3)), made(value_range=(-1.0, 1.0)), made(multiple=16)]
    assert len(set(prints)) == 5
    assert made() == made()
    torch.manual_seed(0)
    networks = [nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, bias=False)]
    assert len({adapters.digest(one) for one in networks}) == 3


def test_consistency_model_of_diffusers(tmp_path: Path) -> None:
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = CMStochasticIterativeScheduler()
    ConsistencyModelPipeline(unet, scheduler).save_pretrained(tmp_path)
    prior = load_model(tmp_path, device="cpu")
    sigma = 5.0
    timestep = min(range(1, 1001), key=lambda t: abs(prior.log_snr(t) + 2 * math.log(sigma)))
    sigma = math.exp(-prior.log_snr(timestep) / 2)
    y = sigma * torch.randn(1, 3, 16, 16)
    scheduler.sigmas = torch.tensor([sigma, 0.0])  # the scheduler's own formulas, at our noise level
    scheduler.timesteps = torch.tensor(scheduler.sigma_to_t(np.array([sigma]))).float()
    scheduler._step_index, scheduler.is_scale_input_called = 0, True
    with torch.no_grad():
        output = unet(scheduler.scale_model_input(y, scheduler.timesteps[0]), scheduler.timesteps[0]).sample
    expected = scheduler.step(output, scheduler.timesteps[0], y, generator=torch.Generator().manual_seed(0))
    alpha, _ = alpha_sigma(prior.log_snr(timestep))
    torch.testing.assert_close(prior.denoise(float(alpha) * y, timestep), expected.prev_sample, atol=1e-5, rtol=1e-4)


FILE = """
import torch
from torch import nn

class Shrink(nn.Module):
    sigma_range = (1.0, 60.0)      # images in [0, 255]
    value_range = (0.0, 255.0)
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(WEIGHT))
    def forward(self, y):          # blind
        return self.weight * (y - 127.5) + 127.5

network = Shrink()
sigma_range = (0.0, 0.2)
def denoise(y, sigma):
    return network(255 * y) / 255
def unknown(y, sigma, more):
    return y
def weightless():
    torch.load("absent.pt")
"""


def test_names(tmp_path: Path) -> None:
    files = [tmp_path / f"{weight}.py" for weight in (0.5, 0.75)]
    for file in files:
        file.write_text(FILE.replace("WEIGHT", file.stem))
    priors = [load_model(f"{file}:{name}", device="cpu") for file in files for name in ("Shrink", "network", "denoise")]
    z = torch.zeros(1, 3, 16, 16)
    for prior, weight in zip(priors, (0.5, 0.5, 0.5, 0.75, 0.75, 0.75), strict=True):
        torch.testing.assert_close(prior.denoise(z, 1), z)
        torch.testing.assert_close(prior.denoise(z + 0.5, 1), z + 0.5 * weight, atol=2e-3, rtol=0)
    assert [prior.blind for prior in priors] == [True, True, False] * 2
    assert priors[0].fingerprint == priors[1].fingerprint
    assert len({prior.fingerprint for prior in priors}) == 4
    with pytest.raises(ModelError, match=r"weightless cannot be made here: .*No such file.*absent\.pt"):
        load_model(f"{files[0]}:weightless", device="cpu")
    files[0].write_text("import torch; network = torch.load('absent.pt')")
    with pytest.raises(ModelError, match=r"0\.5\.py cannot be run: .*No such file.*absent\.pt"):
        load_model(f"{files[0]}:network", device="cpu")


@pytest.mark.parametrize(("name", "told"), [
    ("deepinv:Dunet", "no 'Dunet'"),
    ("absent_package.denoisers:net", "needs the package absent_package, which is not installed"),
    ("absent.py:net", "no file absent.py"),
    ("math:pi", "no denoiser"),
    ("math:sin", "for which noise"),
    ("diffpress.lightning_modules.identity:WEIGHTS", "has no 'WEIGHTS'"),
])  # fmt: skip
def test_wrong_names_are_sentences(name: str, told: str) -> None:
    if name.startswith("deepinv"):
        pytest.importorskip("deepinv")
    with pytest.raises(ModelError, match=told):
        load_model(name, device="cpu")
    with pytest.raises(ModelError, match="without the option variant"):
        load_model(name, device="cpu", variant="fp16")


def test_denoisers_of_deepinverse(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("deepinv.models")
    median = load_model("deepinv:MedianFilter", device="cpu")
    flat = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(median.denoise(flat, 1), flat, atol=2e-3, rtol=0)
    torch.manual_seed(0)
    drunet = models.DRUNet(nc=(4, 4, 4, 4), nb=1, pretrained=None)
    monkeypatch.setattr(models, "DRUNet", lambda: drunet)
    prior = load_model("deepinv:DRUNet", device="cpu")
    sigma, y = math.exp(-prior.log_snr(300) / 2), torch.rand(1, 3, 16, 16)
    alpha, _ = alpha_sigma(prior.log_snr(300))
    expected = drunet(y, sigma / 2).mul(2).sub(1).clamp(-1, 1)
    torch.testing.assert_close(prior.denoise(float(alpha) * (2 * y - 1), 300), expected, atol=1e-5, rtol=1e-4)
