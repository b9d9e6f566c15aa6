"""Calibration: the measured error is the analytic one, the shortest path is the shortest, the files fit the codec."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import save_random_pipeline
from torch import Tensor

from diffpress import resource
from diffpress.codecs import container, get_codec
from diffpress.codecs.diffc.calibrate import (
    Errors,
    calibrate,
    choose_path,
    excess,
    measure,
    payload_ratio,
    shortest_path,
    step_costs,
)
from diffpress.codecs.diffc.header import Schedule, parse_schedules, snr_gain
from diffpress.codecs.reverse_channel import get_coder
from diffpress.commands.calibrate import main
from diffpress.data import save_image
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma
from diffpress.lightning_modules.priors.interface import Prior

SPREADS = torch.tensor([0.1, 0.6, 2.0])  # of the three channels


class GaussianPrior(Prior):
    """Gaussian data with its exact denoiser; an image only says which data to draw.

    Were all spreads equal, one step from noise to the end would cost no more than many: its variance fits exactly.
    """

    folder, device, num_levels, fingerprint, lossless = Path("."), torch.device("cpu"), 40, b"test", False

    def encode(self, image: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(int(image.sum()))
        return SPREADS.view(1, 3, 1, 1) * torch.randn(1, 3, 64, 64, generator=rng)

    def decode(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        return x0.mul(32).add(128).clamp(0, 255).byte()

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        return 3, 64, 64

    def log_snr(self, timestep: int) -> float:
        return 6.0 - 12.0 * timestep / self.num_levels

    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        alpha, sigma = (float(part) for part in alpha_sigma(self.log_snr(timestep)))
        power = SPREADS.view(1, 3, 1, 1) ** 2
        return power * alpha / (power * alpha**2 + sigma**2) * z

    def error(self, step: int) -> float:
        """E |x - x0_hat|^2 per dimension at a level: the posterior variance."""
        return float((SPREADS**2 / (SPREADS**2 * math.exp(self.log_snr(step)) + 1)).mean())


IMAGES = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (1, 2, 3)]


def test_measured_error_is_the_posterior_variance() -> None:
    prior = GaussianPrior()
    levels = [40, 30, 20, 10, 1]
    mse = measure(prior, IMAGES, levels).mse.mean(0)
    # at "pure noise" the network sees noise without signal, and its estimate adds its own power to the data's
    gain = prior.denoise(torch.ones(1, 3, 1, 1), 40).flatten()
    assert mse[0] == pytest.approx(float((SPREADS**2 + gain**2).mean()), rel=0.03)
    for level, error in zip(levels[1:], mse[1:], strict=True):
        assert error == pytest.approx(prior.error(level), rel=0.03)


@pytest.mark.parametrize("price", [0.0, 0.003, 0.03, 0.3])
def test_shortest_path_equals_brute_force_over_all_schedules(price: float) -> None:
    prior = GaussianPrior()
    levels = [40, 36, 31, 27, 22, 18, 13, 9, 4, 1]
    log_snr = [-math.inf, *(prior.log_snr(level) for level in levels[1:])]
    costs = step_costs(log_snr, measure(prior, IMAGES[:2], levels))

    def total(path: tuple[int, ...]) -> float:
        return sum(costs[i, j] + price for i, j in itertools.pairwise(path))

    between = range(1, len(levels) - 1)
    schedules = [
        (0, *chosen, len(levels) - 1) for k in range(len(levels) - 1) for chosen in itertools.combinations(between, k)
    ]
    assert len(schedules) == 2 ** (len(levels) - 2)
    best = min(schedules, key=total)
    found = tuple(shortest_path(costs, price))
    assert total(found) == pytest.approx(total(best), rel=1e-12)
    if price:
        assert found == best


def test_step_cost_is_the_kl_of_the_raised_variance_of_every_band() -> None:
    errors = Errors(np.array([[[3 * 0.5, 1 * 4.0], [3 * 0.25, 0.0], [0.0, 0.0]]]), np.array([[3, 1]]))
    costs = step_costs([-math.inf, -1.0, 2.0], errors)
    first = 3 * math.log2(1 + math.exp(-1) * 0.5) + math.log2(1 + math.exp(-1) * 4.0)
    assert costs[0, 1] == pytest.approx(0.5 * first / 4)
    assert costs[1, 2] == pytest.approx(0.5 * 3 / 4 * math.log2(1 + (math.exp(2) - math.exp(-1)) * 0.25))
    assert np.isinf(costs[2, 1])
    two = Errors(np.repeat(errors.sums, 2, 0) * [[[1.0]], [[0.0]]], np.repeat(errors.counts, 2, 0))
    assert step_costs([-math.inf, -1.0, 2.0], two)[0, 1] == pytest.approx(costs[0, 1] / 2)  # the mean of images


def test_bits_wasted_early_count_more() -> None:
    costs = np.array([[np.inf, 1.0, 16.5], [np.inf, np.inf, 15.0], [np.inf, np.inf, np.inf]])
    wasted = excess(costs, rate=16.0)
    assert wasted[0] == pytest.approx([np.inf, 0.0, 0.5])  # 16 by the cheapest way
    assert excess(costs, rate=32.0)[0, 2] == pytest.approx(0.5 * 2**0.25)
    assert excess(costs, rate=4.0)[0, 2] == pytest.approx(0.5)  # beyond the rate that counts, all bits are alike
    assert wasted[1, 2] == 0
    assert np.isinf(wasted[2]).all()


def test_number_of_steps_is_kept() -> None:
    prior = GaussianPrior()
    levels = [*range(40, 0, -1)]
    costs = step_costs([-math.inf, *(prior.log_snr(level) for level in levels[1:])], measure(prior, IMAGES, levels))
    lengths = []
    for steps in (2, 4, 8):
        path = choose_path(costs, steps, rate=0.5)
        spent = np.cumsum([costs[i, j] for i, j in itertools.pairwise(path)])
        assert int(np.searchsorted(spent, 0.5)) + 1 <= steps
        lengths.append(len(path))
    assert lengths == sorted(set(lengths))


def test_calibrated_codec_spends_what_it_expects() -> None:
    prior = GaussianPrior()
    table = calibrate(prior, IMAGES, {"default": 8}, rate=0.5, stride=1)
    (schedule,) = parse_schedules(table, "table")
    codec = get_codec("diffc", model=prior, schedules=[schedule], reconstruction="mse")
    stream = codec.encode(torch.full((3, 64, 64), 7, dtype=torch.uint8))
    expected = 3 * 64 * 64 * sum(table["presets"][0]["bits_per_dimension"])
    assert stream.payload_bits == pytest.approx(expected, rel=0.15)
    assert container.read(container.write(stream, codec), codec) == stream


def test_coder_is_charged_what_it_spends() -> None:
    ratio = payload_ratio(get_coder("trellis"), dimensions=1024, rates=(1 / 32, 1 / 2))
    assert ratio(np.array([1 / 32]))[0] == pytest.approx(1, abs=0.3)
    assert ratio(np.array([0.5]))[0] == pytest.approx(1, abs=0.1)
    table = calibrate(GaussianPrior(), IMAGES[:1], {"default": 6}, rate=0.5, stride=4, coder=get_coder("trellis"))
    assert parse_schedules(table, "table")[0].timesteps[-1] == 1


@pytest.mark.parametrize(("name", "steps"), [("sd15", 161), ("sd21", 161), ("sdxl", 161), ("flux", 152), ("sd3", 152)])
def test_shipped_schedules_hold_the_published_figures(name: str, steps: int, shared: Path) -> None:
    """The longest preset gives back the published KL, at unit variance and for the published dimensions."""
    published = json.loads((shared / "reference" / "diffc_schedules.json").read_text())
    key, dimensions = {
        "sd15": ("SD-1.5", 24_576), "sd21": ("SD-2.1", 24_576), "sdxl": ("SDXL", 65_536),
        "flux": ("Flux", 262_144), "sd3": ("Flux", 262_144),
    }[name]  # fmt: skip
    presets = parse_schedules(json.loads(resource(f"configs/diffc/{name}.json").read_text()), name)
    assert [preset.name for preset in presets] == ["12", "20", "54", "163"]
    assert [len(preset.timesteps) for preset in presets] == [12, 20, 54, steps]
    full = presets[-1]
    assert list(full.timesteps) == published[key]["encoding_timesteps"]
    log_snr = _flow if key == "Flux" else _ddpm
    start = log_snr(1000)  # where the published chain begins
    for mse, level, before, bits in zip(
        full.mse, full.timesteps, (None, *full.timesteps[:-1]), published[key]["dkl_per_step_bits"], strict=True
    ):
        gain = snr_gain(log_snr(level), start if before is None else log_snr(before))
        assert gain * mse * dimensions / (2 * math.log(2)) == pytest.approx(bits, rel=1e-3)
    for preset in presets[:-1]:
        assert set(preset.timesteps) <= set(full.timesteps)
        errors = dict(zip((1000, *full.timesteps), full.mse, strict=False))
        assert preset.mse == tuple(errors[level] for level in (1000, *preset.timesteps[:-1]))


def _ddpm(level: int) -> float:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return float(torch.logit(torch.cumprod(1 - betas, 0)[level - 1]))


def _flow(level: int) -> float:
    return -math.inf if level == 1000 else 2 * math.log(1000 / level - 1)


def test_command_calibrates_a_latent_prior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_random_pipeline("sd15", tmp_path / "model")
    photos = tmp_path / "photos"
    image = (torch.arange(64 * 64 * 3) % 251).to(torch.uint8).reshape(3, 64, 64)
    save_image(image, photos / "a.png")
    out = tmp_path / "own.json"
    command = ["--model", str(model), "--data", str(photos), "--size", "64", "--stride", "200", "--presets",
               '{"own": 3}', "--device", "cpu", "-o", str(out), "--coder", "trellis"]  # fmt: skip
    assert main(command) == 0
    assert "own: " in capsys.readouterr().out
    before = get_codec("diffc", model=load_model(model, device="cpu")).fingerprint
    codec = get_codec("diffc", model=load_model(model, device="cpu"), schedule=str(out))
    assert isinstance(codec.schedules[0], Schedule)
    assert codec.schedules[0].name == "own"
    (model / "calibration.json").write_text(out.read_text())
    beside = get_codec("diffc", model=load_model(model, device="cpu"))
    assert beside.schedules == codec.schedules
    assert len({before, codec.fingerprint, beside.fingerprint}) == 3
