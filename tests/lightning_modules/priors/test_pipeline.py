"""Text-to-image pipelines driven through their own call: no code per model, and each gives the exact estimate."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import save_random_pipeline
from safetensors.torch import load_file
from torch import Tensor

from diffpress.codecs import container, get_codec
from diffpress.codecs.diffc.chain import SharedChain, State
from diffpress.commands import compress, decompress
from diffpress.data import read_image, save_image
from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma, diffuse, eps_from_x0
from diffpress.lightning_modules.diffusion.pixels import from_signed, to_signed
from diffpress.lightning_modules.priors.interface import Prior
from helpers import ROOT, synthetic_photo

CENTRE, SPREAD = 0.2, 0.9
OWN_ADAPTERS = ("sd35", "sdxl-turbo", "flux-schnell")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),  # Chroma's own import
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers' Euler schedulers
]


def cumulative(betas: Tensor) -> Tensor:
    return torch.cumprod(1 - betas, 0).double()  # in float32, as diffusers' schedulers do


# what the network is told of time, as sigma of the flow, or the signal's share of a DDPM schedule
FLOWS: dict[str, Callable[[Any], float]] = {
    "chroma": lambda time: float(time[0]),
    "flux2": lambda time: float(time[0]),
    "flux2-dev": lambda time: float(time[0]),
    "qwen-image": lambda time: float(time[0]),
    "sana": lambda time: float(time[0]) / 1000,
    "sana-sprint": lambda time: float(time[0]),
    "z-image": lambda time: 1 - float(time[0]),
}
DDPMS = {
    "pixart": cumulative(torch.linspace(1e-4, 0.02, 1000)),
    "lcm": cumulative(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
}
MULTIPLES = dict.fromkeys([*FLOWS, *DDPMS], 16) | {"sana": 32, "sana-sprint": 32, "lcm": 8}


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: load_model(save_random_pipeline(kind, root / kind), device="cpu") for kind in [*FLOWS, *DDPMS]}


def exact_x0(z: Tensor, alpha: float, sigma: float) -> Tensor:
    return (SPREAD**2 * alpha * z + sigma**2 * CENTRE) / (SPREAD**2 * alpha**2 + sigma**2)


def exact_network(kind: str) -> Callable[..., Any]:
    """forward of a network that knows its time alone, and latents ~ N(CENTRE, SPREAD^2), and predicts what is exact."""

    def forward(z: Any = None, time: Any = None, *args: Any, **given: Any) -> Any:
        z, time = given.get("hidden_states", z), given.get("timestep", time)
        if kind in DDPMS:
            log_snr = float(torch.logit(DDPMS[kind][int(time.flatten()[0])]))
            alpha, sigma = (float(one) for one in alpha_sigma(log_snr))
            eps = eps_from_x0(z.double(), exact_x0(z.double(), alpha, sigma), log_snr)
            return (torch.cat([eps, eps], 1) if kind == "pixart" else eps,)  # float64, which the adapter keeps
        sigma = FLOWS[kind](time)
        if kind == "z-image":  # which takes a list, and predicts x - eps
            return ([-(one - exact_x0(one, 1 - sigma, sigma)) / sigma for one in z],)
        return ((z - exact_x0(z, 1 - sigma, sigma)) / sigma,)

    return forward


@pytest.mark.parametrize("kind", [*FLOWS, *DDPMS])
def test_exact_network_gives_the_exact_estimate(
    kind: str, priors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = priors[kind]
    assert isinstance(prior, Prior)
    network = prior.pipeline.components.get("transformer") or prior.pipeline.unet
    shape = prior.shape((64, 96))
    monkeypatch.setattr(network, "forward", exact_network(kind))
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, *shape, generator=rng) * SPREAD + CENTRE, torch.randn(2, *shape, generator=rng)
    for level in (1, 40, 200, 500, 800, 999):
        alpha, sigma = (float(one) for one in alpha_sigma(prior.log_snr(level)))
        z = diffuse(x, prior.log_snr(level), noise)
        torch.testing.assert_close(prior.denoise(z, level), exact_x0(z, alpha, sigma), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [*FLOWS, *DDPMS])
def test_latents_are_the_autoencoders_own(kind: str, priors: dict[str, Any]) -> None:
    prior, image = priors[kind], synthetic_photo(64, 96)[None]
    assert (prior.multiple, prior.lossless, prior.num_levels) == (MULTIPLES[kind], False, 1000)
    assert prior.schedule == ("flux" if kind in FLOWS else None)
    x0 = prior.encode(image)
    assert x0.shape[1:] == prior.shape((64, 96)) == prior.shape((60, 90))
    pixels = to_signed(image)
    vae = prior.pipeline.vae
    with torch.inference_mode():
        coded = vae.encode(pixels[:, :, None] if kind == "qwen-image" else pixels)
        decoded = vae.decode(coded.latent if "sana" in kind else coded.latent_dist.mode()).sample
    expected = from_signed(decoded[:, :, 0] if kind == "qwen-image" else decoded)
    assert int((prior.decode(x0, (64, 96)).int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("kind", ["chroma", "z-image", "qwen-image", "flux2-dev", "sana-sprint", "pixart", "lcm"])
def test_prompts_and_guidance(kind: str, priors: dict[str, Any]) -> None:
    prior = priors[kind]
    z = torch.randn(2, *prior.shape((32, 32)), generator=torch.Generator().manual_seed(1))
    conditions = [prior.condition("a red door", 3.0), prior.condition()]
    together = prior.denoise(z, 700, conditions)
    torch.testing.assert_close(together[:1], prior.denoise(z[:1], 700, conditions[:1]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1:], prior.denoise(z[1:], 700), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[:1], prior.denoise(z[:1], 700), atol=1e-4)


FRESH = """
import sys
from safetensors.torch import save_file
from diffpress.codecs import container, get_codec
from diffpress.codecs.diffc.chain import SharedChain
from diffpress.lightning_modules import load_model

states, advance = {}, SharedChain.advance

def watched(*given):
    after = advance(*given)
    states[f"{name} {len(states):03d}"] = after.z.contiguous()
    return after

SharedChain.advance = watched
for folder in sys.argv[2:]:
    name = folder.rpartition("/")[2]
    codec = get_codec("diffc", model=load_model(folder, device="cpu"), schedule="flux", preset=12, reconstruction="mse")
    image = codec.decode(container.read(open(f"{folder}.dfc", "rb").read(), codec))
    states[f"{name} image"] = image.contiguous()
save_file(states, sys.argv[1])
"""


def test_a_fresh_process_decodes_the_encoders_latents(
    priors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of each pipeline, and of the newest ones that have adapters of their own."""
    more, sent = tmp_path_factory.mktemp("more"), dict[str, list[Tensor]]()
    own = {kind: load_model(save_random_pipeline(kind, more / kind), device="cpu") for kind in OWN_ADAPTERS}
    advance, image, images = SharedChain.advance, synthetic_photo(64, 96), {}

    def watched(*given: Any) -> State:
        after = advance(*given)
        sent[kind].append(after.z)
        return after

    for kind, prior in (priors | own).items():
        codec = get_codec("diffc", model=prior, schedule="flux", preset=12, reconstruction="mse", water_filling=0.0)
        with monkeypatch.context() as patched:
            patched.setattr(SharedChain, "advance", watched)
            sent[kind] = []
            stream = codec.encode(image, segments=4)
        Path(f"{prior.folder}.dfc").write_bytes(container.write(stream, codec))
        images[kind] = codec.decode(stream)
    folders = [str(prior.folder) for prior in (priors | own).values()]
    there = more / "states.safetensors"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", FRESH, str(there), *folders], check=True, env=environment)
    received = load_file(there)
    for kind, latents in sent.items():
        theirs = [z for name, z in sorted(received.items()) if name.rpartition(" ")[0] == kind and name[-1].isdigit()]
        assert len(theirs) == 4
        for mine, other in zip(latents[-4:], theirs, strict=True):  # a small image has a dry run before
            torch.testing.assert_close(other, mine, atol=1e-4, rtol=1e-4)
        assert int((received[f"{kind} image"].int() - images[kind].int()).abs().max()) <= 1


@pytest.mark.parametrize("kind", ["flux2-dev", "qwen-image", "z-image", "sana-sprint", "lcm"])
def test_half_precision_keeps_the_latents(kind: str, priors: dict[str, Any]) -> None:
    half, image = load_model(priors[kind].folder, device="cpu", dtype="bfloat16"), synthetic_photo(64, 64)[None]
    z = torch.randn(1, *half.shape((64, 64)), generator=torch.Generator().manual_seed(2))
    assert half.encode(image).dtype == half.denoise(z, 500).dtype == torch.float32
    torch.testing.assert_close(half.encode(image), priors[kind].encode(image), atol=5e-2, rtol=5e-2)


def test_files_there_and_back(tmp_path: Path, priors: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(priors["z-image"].folder)
    save_image(synthetic_photo(64, 64), tmp_path / "photo.png")
    words = ["--model", folder, "--device", "cpu", "--preset", "12"]
    assert compress.main([str(tmp_path / "photo.png"), *words, "--segments", "6", "--prompt", "a red door"]) == 0
    assert "schedule published for flux, by signal-to-noise ratio" in capsys.readouterr().out
    decode = ["--model", folder, "--device", "cpu", "--reconstruction", "mse", "-o", str(tmp_path / "back.png")]
    assert decompress.main([str(tmp_path / "photo.dfc"), *decode]) == 0
    codec = get_codec("diffc", model=priors["z-image"], preset=12, reconstruction="mse", water_filling=0.0)
    stream = codec.encode(read_image(tmp_path / "photo.png"), segments=6, prompt="a red door")
    assert container.write(stream, codec) == (tmp_path / "photo.dfc").read_bytes()
    assert torch.equal(codec.decode(stream), read_image(tmp_path / "back.png"))


def test_what_the_driver_does_not_offer_is_said(priors: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="without that option"):
        load_model(priors["chroma"].folder, device="cpu", offload="model")
    with pytest.raises(ModelError, match=r"no calibration\.json; make one with calibrate\.py"):
        get_codec("diffc", model=priors["pixart"])
