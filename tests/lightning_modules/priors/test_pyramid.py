"""The denoiser at several scales: what is mixed, at which noise level, and that it pays."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from rich.progress import Progress
from torch.nn import functional as F

from diffpress.commands.calibrate import main as calibrate
from diffpress.commands.calibrate import use_pyramid
from diffpress.data import read_image, save_image
from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma, diffuse
from diffpress.lightning_modules.priors.pixel import DenoiserPrior, Pyramid, exact_average, exact_double
from helpers import synthetic_photo


def wiener(z: torch.Tensor, log_snr: float) -> torch.Tensor:
    """Estimate of independent pixels of variance 1/4: a network that knows nothing of neighbours."""
    alpha, sigma = (float(value) for value in alpha_sigma(log_snr))
    return z * (alpha / 4 / (alpha**2 / 4 + sigma**2))


def test_half_resolution_has_four_times_the_signal_to_noise_ratio() -> None:
    seen: list[tuple[float, tuple[int, ...]]] = []

    def network(z: torch.Tensor, log_snr: float) -> torch.Tensor:
        seen.append((log_snr, tuple(z.shape)))
        alpha, sigma = (float(value) for value in alpha_sigma(log_snr))
        assert float(z.mean()) == pytest.approx(0.5 * alpha, abs=0.05)  # variance-preserving at its own log-SNR
        assert float(z.std()) == pytest.approx(sigma, rel=0.05)
        return torch.full_like(z, float(len(seen)))

    image = torch.full((1, 3, 96, 64), 0.5)
    z = diffuse(image, -2.0, torch.randn(image.shape, generator=torch.Generator().manual_seed(0)))
    pyramid = Pyramid([(-9.0, 0.0, 0.0, 1.0), (-1.0, 0.2, 0.3, 0.5)], multiple=16)
    terms = pyramid.terms(network, z, -2.0)
    assert seen == [(-2.0, (1, 3, 96, 64)), (pytest.approx(-2 + math.log(4)), (1, 3, 48, 32))]
    assert [float(term.mean()) for term in terms] == pytest.approx([1, 1, 2])


def test_estimate_is_the_weighted_sum_of_its_terms() -> None:
    z = 0.3 * torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    pyramid = Pyramid([(-4.0, 0.1, 0.2, 0.6), (0.0, 0.5, -0.1, 0.4)], multiple=16)
    own, smooth, coarse = pyramid.weights(-1.0)
    assert (own, smooth, coarse) == pytest.approx((0.4, -0.025, 0.45))
    terms = pyramid.terms(wiener, z, -1.0)
    torch.testing.assert_close(terms[0], wiener(z, -1.0))
    smoothed = F.interpolate(F.avg_pool2d(wiener(z, -1.0), 2), scale_factor=2, mode="bicubic")
    torch.testing.assert_close(terms[1], smoothed)
    expected = torch.einsum("k,kbchw->bchw", torch.tensor([own, smooth, coarse]), terms)
    torch.testing.assert_close(pyramid.estimate(wiener, z, -1.0), expected)


def test_only_the_network_where_nothing_is_mixed() -> None:
    pyramid = Pyramid([(-4.0, 0.1, 0.2, 0.6), (0.0, 0.5, -0.1, 0.4)], multiple=16)
    z = 0.1 * torch.randn(1, 3, 64, 64)
    assert torch.equal(pyramid.estimate(wiener, z, 0.1), wiener(z, 0.1))  # above the last node
    assert torch.equal(Pyramid([], 16).estimate(wiener, z, -5.0), wiener(z, -5.0))
    small = z[..., :16, :]  # too small to halve
    assert torch.equal(pyramid.estimate(wiener, small, -2.0), wiener(small, -2.0))
    odd = pyramid.estimate(wiener, z[..., :37, :50], -2.0)
    assert odd.shape == (1, 3, 37, 50)
    assert pyramid.weights(-7.0) == pyramid.weights(-4.0)

    def no_network_at_full_size(z: torch.Tensor, log_snr: float) -> torch.Tensor:
        assert z.shape[-1] < 64
        return wiener(z, log_snr)

    Pyramid([(-4.0, 0.0, 0.0, 1.0), (-3.0, 0.0, 0.0, 1.0)], 16).estimate(no_network_at_full_size, z, -3.5)


def with_pyramid(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    settings = json.loads((folder / "prior.json").read_text())
    nodes = [[-8.0, 0.0, 0.0, 0.9], [-1.0, 0.4, -0.2, 0.8], [4.0, 1.0, -0.5, 0.5]]
    (folder / "prior.json").write_text(json.dumps(settings | {"pyramid": nodes}))
    return folder


def test_prior_with_pyramid_in_tiles_batches_and_float64(tiny_prior: Path, tmp_path: Path) -> None:
    folder = with_pyramid(tiny_prior, tmp_path / "model")
    whole, tiled = DenoiserPrior(folder), DenoiserPrior(folder, tile=64, overlap=64)
    for prior in (whole, tiled):
        torch.manual_seed(2)
        torch.nn.init.normal_(prior.network.head.weight, std=0.1)
    z = torch.randn(2, 3, 160, 96)
    together = whole.denoise(z, 500)
    torch.testing.assert_close(tiled.denoise(z, 500), together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.denoise(z[1:], 500)[0], together[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole.own_estimate(z, whole.log_snr(500)), together, atol=1e-2)
    exact = whole.double().denoise(z.double(), 500)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), together, atol=1e-4, rtol=1e-4)


def test_command_fits_the_pyramid(tiny_prior: Path, tmp_path: Path) -> None:
    """The untrained network is the Wiener filter of white pixels, so smooth photos gain from every coarser scale."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_prior, folder)
    before = load_model(folder, device="cpu")
    for number in range(2):
        save_image(synthetic_photo(96, 128, number), tmp_path / "photos" / f"{number}.png")
    arguments = ["--model", str(folder), "--data", str(tmp_path / "photos"), "--images", "2", "--stride", "250",
                 "--presets", '{"default": 2}', "--device", "cpu", "--pyramid"]  # fmt: skip
    assert calibrate(arguments) == 0
    prior = load_model(folder, device="cpu")
    assert prior.fingerprint != before.fingerprint
    assert list(prior.pyramid.nodes) == sorted(prior.pyramid.nodes)
    x0 = prior.encode(synthetic_photo(96, 128, 7)[None])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    for level in (400, 600, 800):
        z = diffuse(x0, prior.log_snr(level), noise)
        plain, mixed = (float((one.denoise(z, level) - x0).square().mean()) for one in (before, prior))
        assert mixed < 0.6 * plain
    calibrated = json.loads((folder / "calibration.json").read_text())["presets"][0]
    assert len(calibrated["mse"]) == len(calibrated["levels"])


def test_other_models_have_no_pyramid() -> None:
    with pytest.raises(ModelError, match="not one of our denoisers"):
        use_pyramid(SimpleNamespace(folder=Path("latents")), [], Progress(disable=True))  # type: ignore[arg-type]


def test_only_priors_are_calibrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(["--model", "uqdm-photo", "--data", str(tmp_path), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "error: uqdm-photo is no prior for DiffC, and only priors are calibrated\n"


def test_a_fit_for_another_file_is_refused(
    tiny_prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With -o the model's own folder must stay as it is, and the pyramid lies there."""
    before = (tiny_prior / "prior.json").read_bytes()
    arguments = ["--model", str(tiny_prior), "--data", str(tmp_path), "--device", "cpu", "--pyramid"]
    assert calibrate([*arguments, "-o", str(tmp_path / "own.json")]) == 2
    assert "cannot be combined" in capsys.readouterr().err
    assert (tiny_prior / "prior.json").read_bytes() == before


def test_shipped_prior_gains_on_a_photo(shared: Path) -> None:
    prior = load_model("diffc-pixel", device="cpu")
    x0 = prior.encode(read_image(shared / "data" / "kodak" / "kodim23.png")[None, :, 128:384, 128:384])
    noises = [torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4, 5)]
    for level, factor, limit in ((856, 0.9, 0.115), (712, 0.9, 0.0325), (592, 0.95, 0.0085)):
        noisy = [diffuse(x0, prior.log_snr(level), noise) for noise in noises]
        plain = [float((prior.own_estimate(z, prior.log_snr(level)) - x0).square().mean()) for z in noisy]
        mixed = [float((prior.denoise(z, level) - x0).square().mean()) for z in noisy]
        assert fmean(mixed) < min(factor * fmean(plain), limit)


def test_exact_scales_are_the_usual_ones() -> None:
    image = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exact_average(image), F.avg_pool2d(image, 2))
    bicubic = F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)
    torch.testing.assert_close(exact_double(image), bicubic)
