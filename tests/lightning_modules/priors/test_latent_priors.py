"""Priors over diffusers pipelines, on small ones with random weights: networks are called as they were trained."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pipelines import save_random_pipeline
from torch import Tensor

from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma, diffuse
from diffpress.lightning_modules.priors.interface import Prior
from diffpress.lightning_modules.priors.stable_diffusion import StableDiffusionPrior

MODELS = ["sd15", "sd21", "sdxl", "sdxl+refiner", "sdxl-turbo", "flux", "flux-schnell", "sd3", "sd35"]
CENTRE, SPREAD = 0.2, 0.9
# diffusers' Euler schedulers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: save_random_pipeline(kind, root / kind) for kind in (*MODELS, "sdxl-refiner") if "+" not in kind}


@pytest.fixture(scope="module")
def priors(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load(folders, name) for name in MODELS}


def load(folders: dict[str, Path], name: str, **options: Any) -> Any:
    base, _, extra = name.partition("+")
    if extra:
        options["refiner"] = folders["sdxl-refiner"]
    return load_model(folders[base], device="cpu", **options)


def picture(height: int, width: int, count: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1).mul(255).byte()


def exact_x0(z: Tensor, log_snr: float) -> Tensor:
    alpha, sigma = (part.to(z) for part in alpha_sigma(log_snr))
    return (SPREAD**2 * alpha * z + sigma**2 * CENTRE) / (SPREAD**2 * alpha**2 + sigma**2)


class ExactNetwork:
    """Stands in for a network and predicts, in its parameterisation, what is exact for latents ~ N(CENTRE, SPREAD^2).

    It goes by the time it is told, as a trained network would: a prior whose signal-to-noise ratio and time disagree
    gets other estimates.
    """

    def __init__(self, prior: Any) -> None:
        self.prior, self.calls = prior, 0

    def __call__(self, z: Tensor | None = None, time: Any = None, **given: Any) -> Any:
        self.calls += 1
        if z is not None:  # a U-Net of a DDPM schedule: 0-based timestep
            alpha_squared = self.alphas_cumprod[time[0]]
            log_snr = float(torch.logit(alpha_squared))
            x = exact_x0(z.double(), log_snr)
            alpha, sigma = alpha_sigma(log_snr)
            eps = (z - alpha * x) / sigma
            outputs = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x}
            return SimpleNamespace(sample=outputs[self.prior.pipeline.scheduler.config["prediction_type"]])
        z = given["hidden_states"].double()
        sigma_flow = float(given["timestep"][0]) / (1000 if z.ndim == 4 else 1)
        keep, power = 1 - sigma_flow, SPREAD**2
        x = (power * keep * z + sigma_flow**2 * CENTRE) / (power * keep**2 + sigma_flow**2)
        return SimpleNamespace(sample=(z - x) / sigma_flow)  # E[eps - x | z] = (z - E[x | z]) / sigma

    @property
    def alphas_cumprod(self) -> Tensor:
        config = self.prior.pipeline.scheduler.config
        betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
        return torch.cumprod(1 - betas, 0)


@pytest.mark.parametrize("name", MODELS)
def test_exact_network_gives_the_exact_estimate_at_the_levels_own_snr(
    name: str, priors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = priors[name]
    network = ExactNetwork(prior)
    monkeypatch.setattr(prior, "network", network)
    monkeypatch.setattr(prior, "refiner_network", network, raising=False)
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 8, 8, generator=rng) * SPREAD + CENTRE, torch.randn(2, 4, 8, 8, generator=rng)
    for level in (1, 40, 200, 500, 800, 999):
        z = diffuse(x, prior.log_snr(level), noise)
        torch.testing.assert_close(prior.denoise(z, level), exact_x0(z, prior.log_snr(level)), atol=1e-5, rtol=0)
    assert network.calls == 6


def test_levels_follow_the_model(priors: dict[str, Any]) -> None:
    for name in MODELS:
        prior = priors[name]
        levels = [prior.log_snr(level) for level in range(prior.num_levels + 1)]
        assert prior.num_levels == 1000
        assert isinstance(prior, Prior)
        assert (prior.lossless, prior.reconstruction) == (False, "flow")
        assert prior.schedule == name.split("+")[0].split("-")[0].replace("sd35", "sd3")
        assert prior.double() is None
        assert levels[0] == float("inf")
        assert levels == sorted(levels, reverse=True)
    assert priors["sd15"].log_snr(1) == pytest.approx(7.069, abs=1e-3)  # alphas_cumprod[0] = 1 - 0.00085
    assert priors["flux"].log_snr(500) == 0
    assert priors["sd21"].prediction == "v_prediction"


@pytest.mark.parametrize("name", MODELS)
def test_prompts_guidance_and_batches(name: str, priors: dict[str, Any]) -> None:
    prior = priors[name]
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    conditions = [prior.condition("a red door", 3.0), prior.condition(), prior.condition("a boat", 1.0)]
    for level in (700, 100):
        together = prior.denoise(z, level, conditions)
        alone = torch.cat([prior.denoise(z[i : i + 1], level, [conditions[i]]) for i in range(3)])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        plain = prior.denoise(z, level)
        torch.testing.assert_close(plain[1], together[1], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(plain[0], together[0], atol=1e-4)
        assert not torch.allclose(plain[2], together[2], atol=1e-4)
    if not name.startswith("flux"):  # classifier-free guidance: linear in the scale
        by_scale = [prior.denoise(z[:1], 700, [prior.condition("a red door", scale)]) for scale in (0.0, 1.0, 2.0)]
        torch.testing.assert_close(by_scale[2] - by_scale[1], by_scale[1] - by_scale[0], atol=1e-3, rtol=1e-3)
    if name == "flux":  # a guidance scale is an input of the network, also without a prompt
        assert not torch.equal(prior.denoise(z[:1], 700, [prior.condition("", 4.0)]), prior.denoise(z[:1], 700))


def test_networks_get_what_their_pipelines_would_give_them(priors: dict[str, Any]) -> None:
    """Time ids of SDXL and its refiner; where the refiner takes over; Flux packs as diffusers does."""
    prior = priors["sdxl+refiner"]
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Any:
        def network(z: Tensor, time: int, **given: Any) -> Any:
            seen.append((name, given["added_cond_kwargs"]["time_ids"]))
            return SimpleNamespace(sample=z)

        return network

    original = prior.network, prior.refiner_network
    prior.network, prior.refiner_network = watch("base"), watch("refiner")
    try:
        for level in (201, 200):
            prior.denoise(torch.zeros(1, 4, 8, 12), level, [prior.condition("a boat", 2.0)])
    finally:
        prior.network, prior.refiner_network = original
    assert [name for name, _ in seen] == ["base", "refiner"]
    assert seen[0][1].tolist() == [[64, 96, 0, 0, 64, 96]] * 2
    assert seen[1][1].tolist() == [[64, 96, 0, 0, 6.0], [64, 96, 0, 0, 2.5]]
    from diffusers import FluxPipeline

    z = torch.randn(1, 4, 6, 10)
    packed = FluxPipeline._pack_latents(z, 1, 4, 6, 10)
    torch.testing.assert_close(torch.nn.functional.pixel_unshuffle(z, 2).flatten(2).mT, packed)


@pytest.mark.parametrize("name", ["sd15", "flux", "sd3", "sdxl"])
@pytest.mark.parametrize("size", [(64, 64), (37, 91), (16, 50)])
def test_image_sizes(name: str, size: tuple[int, int], priors: dict[str, Any]) -> None:
    prior = priors[name]
    x0 = prior.encode(picture(*size))
    assert tuple(x0.shape[1:]) == prior.shape(size)
    assert x0.shape[2] * 8 % prior.multiple == 0
    assert prior.decode(x0, size).shape == (1, 3, *size)
    assert torch.isfinite(prior.denoise(torch.randn(x0.shape), 500)).all()


def test_autoencoder_is_scaled_shifted_and_takes_the_mode(priors: dict[str, Any]) -> None:
    prior, image = priors["flux"], picture(64, 64)
    mean = prior.vae.encode(image / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(prior.encode(image), (mean - 0.1159) * 0.3611, atol=1e-5, rtol=1e-5)
    assert torch.equal(prior.encode(image), prior.encode(image))
    expected = (prior.vae.decode(prior.encode(image) / 0.3611 + 0.1159).sample + 1) * 127.5
    assert torch.equal(prior.decode(prior.encode(image), (64, 64)).float(), expected.round().clamp(0, 255))


def test_large_images_go_through_the_autoencoder_in_tiles(folders: dict[str, Path]) -> None:
    whole, tiled = load(folders, "sd15"), load(folders, "sd15", tile=64)
    image = picture(104, 136)
    assert whole.encode(image).shape == tiled.encode(image).shape == (1, 4, 13, 17)
    assert tiled.decode(tiled.encode(image), (104, 136)).shape == image.shape
    assert not torch.equal(whole.encode(image), tiled.encode(image))
    with pytest.raises(ModelError, match="multiple of 64"):
        load(folders, "sd15", tile=100)


@pytest.mark.parametrize(("name", "size"), [("sd15", (15, 64)), ("flux", (8, 8)), ("sd3", (2000, 16))])
def test_sizes_a_model_cannot_take_are_refused_in_one_sentence(
    name: str, size: tuple[int, int], priors: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=f"a {size[1]} x {size[0]} image (is smaller|exceeds).* this model takes$"):
        priors[name].shape(size)


@pytest.mark.parametrize(("name", "options"), [
    ("sdxl+refiner", {"dtype": "bfloat16"}), ("flux", {"offload": "model", "dtype": torch.bfloat16}),
    ("sdxl+refiner", {"offload": "model"}),
])  # fmt: skip
def test_precision_and_offloading_change_little(
    name: str, options: dict[str, Any], folders: dict[str, Path], priors: dict[str, Any]
) -> None:
    prior, plain, image = load(folders, name, **options), priors[name], picture(64, 64)
    assert prior.fingerprint == plain.fingerprint
    coarse = "dtype" in options
    tolerance = 0.15 if coarse else 1e-4
    torch.testing.assert_close(prior.encode(image), plain.encode(image), atol=tolerance, rtol=tolerance)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    for level in (600, 100):
        estimates = [one.denoise(z, level, [one.condition("a boat", 2.0)]) for one in (prior, plain)]
        assert estimates[0].dtype == torch.float32
        assert float((estimates[0] - estimates[1]).square().mean()) < tolerance**2 * 4


@pytest.mark.slow
def test_compiled_network_agrees(folders: dict[str, Path], priors: dict[str, Any]) -> None:
    """Compiled once for every size, not for every timestep."""
    compiled = load(folders, "sd15", compile=True)
    for height in (8, 16):
        z = torch.randn(1, 4, height, 8)
        for number, timestep in enumerate((300, 301, 20)):
            with torch._dynamo.config.patch(error_on_recompile=number > 0):
                estimate = compiled.denoise(z, timestep)
            torch.testing.assert_close(estimate, priors["sd15"].denoise(z, timestep), atol=1e-3, rtol=1e-3)


def test_fingerprint_changes_with_what_is_used_and_nothing_else(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["sd15"], copy)
    base = load_model(copy, device="cpu").fingerprint
    assert base == load(folders, "sd15").fingerprint
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    (copy / "README.md").write_text("nothing")
    assert load_model(copy, device="cpu").fingerprint == base
    config = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"beta_end": 0.013}))
    assert load_model(copy, device="cpu").fingerprint != base
    save_random_pipeline("sd15", copy, seed=1)
    assert load_model(copy, device="cpu").fingerprint != base
    assert load(folders, "sdxl").fingerprint != load(folders, "sdxl+refiner").fingerprint


def test_half_precision_weights_are_found_by_themselves(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["sd15"], copy)
    for weights in list(copy.glob("*/*.safetensors")):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    assert load_model(copy, device="cpu").variant == "fp16"


def test_what_is_missing_is_said_in_one_sentence(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(match: str, name: str | Path, **options: Any) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            load_model(name, device="cpu", **options)
        assert "\n" not in str(caught.value)

    fails("no model folder", "nosuchmodel")
    fails("nobody/nothing.* not in the local cache.*cannot be reached", "nobody/nothing", local_files_only=True)
    fails("unknown dtype 'float8'", folders["sd15"], dtype="float8")
    fails("offload must be one of", folders["sd15"], offload="disk")
    fails("a refiner belongs to SDXL", folders["sd15"], refiner=folders["sdxl-refiner"])
    fails("not an SDXL refiner", folders["sdxl"], refiner=folders["sd15"])
    copy = tmp_path / "copy"
    shutil.copytree(folders["sd15"], copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:1000])
    fails("damaged weights|cannot be loaded", copy)
    weights.unlink()
    fails("no safetensors weights for its unet", copy)
    shutil.rmtree(copy / "vae")
    fails("no vae folder", copy)
    (copy / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    fails("cannot be loaded", copy)
    from huggingface_hub import errors

    def gated(*_: Any, **__: Any) -> None:
        raise errors.GatedRepoError("403", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    fails("is gated: accept its licence", "black-forest-labs/FLUX.1-dev")


def dropped_connection() -> Exception:
    """As the hub's HTTP client raises it, which is no OSError with the current one."""
    from huggingface_hub import errors

    client = import_module(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    return client.RemoteProtocolError("Server disconnected\nwithout sending a response.")


def unknown_id() -> Exception:
    from huggingface_hub import errors

    return errors.RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(("cause", "match"), [
    (dropped_connection, "^some/model cannot be downloaded: Server disconnected without sending a response.$"),
    (lambda: RuntimeError("Data processing error: CAS service error"), "^some/model cannot be downloaded: Data proc"),
    (unknown_id, "^there is no model 'some/model', neither as a folder nor on the Hugging Face hub$"),
])  # fmt: skip
def test_failing_downloads_are_one_sentence(cause: Any, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise cause()

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=match):
        load_model("some/model", device="cpu")


def test_the_refiner_is_looked_up_as_the_model_is(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """--local-files-only and --variant hold for both hub ids."""
    asked: list[tuple[str, bool, bool]] = []

    def snapshot(name: str, *, allow_patterns: list[str], local_files_only: bool, **_: Any) -> str:
        asked.append((name, local_files_only, "*/*.fp16*.safetensors" in allow_patterns))
        assert "*/*.jinja" in allow_patterns  # chat templates, which FLUX.2 and Qwen-Image need
        return str(folders[name.partition("/")[2]])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_model("org/sdxl", device="cpu", refiner="org/sdxl-refiner", local_files_only=True).refiner is not None
    with pytest.raises(ModelError, match="no fp16 safetensors"):  # both are found before weights are looked for
        load_model("org/sdxl", device="cpu", refiner="org/sdxl-refiner", variant="fp16")
    assert asked == [
        ("org/sdxl", True, False), ("org/sdxl-refiner", True, False),
        ("org/sdxl", False, True), ("org/sdxl-refiner", False, True),
    ]  # fmt: skip


def test_too_little_memory_says_what_can_be_done(priors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9000 GiB")

    prior = priors["sd15"]
    monkeypatch.setattr(prior, "network", exhausted)
    with pytest.raises(ModelError, match=r"not enough memory on cpu .*--offload model"):
        prior.denoise(torch.zeros(1, 4, 8, 8), 10)


def test_times_stay_float32(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 one in four of a flow's thousand timesteps would be left."""
    prior = load(folders, "sd3", dtype="bfloat16")
    times: list[Tensor] = []

    def network(hidden_states: Tensor, timestep: Tensor, **_: Any) -> Any:
        times.append(timestep)
        return SimpleNamespace(sample=hidden_states)

    monkeypatch.setattr(prior, "network", network)
    prior.denoise(torch.zeros(1, 4, 8, 8), 777)
    assert times[0].dtype == torch.float32
    assert float(times[0][0]) == pytest.approx(777, abs=1e-3)


def test_compiled_networks_are_cuda_graphs_on_a_gpu_where_their_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, mode: mode)
    prior = object.__new__(StableDiffusionPrior)
    for device, offload, mode in (("cuda", "none", "reduce-overhead"), ("cuda", "model", None), ("cpu", "none", None)):
        prior.device, prior.offload = torch.device(device), offload  # type: ignore[assignment]
        assert prior._prepare(torch.nn.Linear(3, 4), True) == mode
