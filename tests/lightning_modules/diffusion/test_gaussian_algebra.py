"""The diffusion algebra is proved on Gaussian data, whose denoiser is known: x ~ N(m, s^2 I)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffpress.codecs.diffc.header import snr_gain
from diffpress.codecs.diffc.subbands import step_bits
from diffpress.lightning_modules.diffusion.gaussian import (
    alpha_sigma,
    diffuse,
    flow_step,
    posterior,
    x0_from_prediction,
)
from diffpress.lightning_modules.priors.flow import flow_log_snr, to_flow, x0_from_velocity

CENTRE, SPREAD = 0.3, 0.8
LOG_SNRS = [-9.0, -4.0, -1.0, 0.0, 2.0, 5.0]


def exact_x0(z: Tensor, log_snr: float) -> Tensor:
    """E[x | z] of the Gaussian data."""
    alpha, sigma = alpha_sigma(log_snr)
    return (SPREAD**2 * alpha * z + sigma**2 * CENTRE) / (SPREAD**2 * alpha**2 + sigma**2)


def data(count: int = 4096, seed: int = 0) -> Tensor:
    return CENTRE + SPREAD * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("log_snr_t", LOG_SNRS)
def test_every_parameterisation_gives_the_same_posterior_means(prediction: str, log_snr_t: float) -> None:
    z = diffuse(data(), log_snr_t, data(seed=1))
    expected = exact_x0(z, log_snr_t)
    alpha, sigma = alpha_sigma(log_snr_t)
    eps = (z - alpha * expected) / sigma
    if prediction == "flow":  # the network would see the flow's z and predict E[eps - x | z]
        time = 1 / (1 + math.exp(log_snr_t / 2))
        assert flow_log_snr(time) == pytest.approx(log_snr_t)
        found = x0_from_velocity(to_flow(z.float(), time), (eps - expected).float(), time)
    else:
        output = {"epsilon": eps, "v_prediction": alpha * eps - sigma * expected, "sample": expected}[prediction]
        found = x0_from_prediction(prediction, z.float(), output.float(), log_snr_t)
    for log_snr_s in (log_snr_t + 0.3, log_snr_t + 3.0):
        mean, deviation = posterior(z.float(), found, log_snr_s, log_snr_t)
        exact_mean, exact_deviation = posterior(z, expected, log_snr_s, log_snr_t)
        torch.testing.assert_close(mean.double(), exact_mean, atol=1e-5, rtol=1e-5)
        assert float(deviation) == pytest.approx(float(exact_deviation), rel=1e-5)


def test_posterior_is_the_conditional_distribution() -> None:
    """Of (z_s, z_t) drawn by the forward process: mean and variance given z_t, by regression on two million pairs."""
    rng = torch.Generator().manual_seed(0)
    x, log_snr_s, log_snr_t = 0.7, 1.0, -0.5
    (alpha_s, sigma_s), (alpha_t, sigma_t) = alpha_sigma(log_snr_s), alpha_sigma(log_snr_t)
    z_s = alpha_s * x + sigma_s * torch.randn(1_000_000, generator=rng)
    keep = alpha_t / alpha_s
    z_t = keep * z_s + (sigma_t**2 - keep**2 * sigma_s**2).sqrt() * torch.randn(1_000_000, generator=rng)
    mean, deviation = posterior(z_t, torch.full_like(z_t, x), log_snr_s, log_snr_t)
    rest = z_s - mean
    assert float(rest.mean()) == pytest.approx(0, abs=3e-3)
    assert float((rest * (z_t - z_t.mean())).mean()) == pytest.approx(0, abs=3e-3)
    assert float(rest.std()) == pytest.approx(float(deviation), rel=3e-3)


@pytest.mark.parametrize(("log_snr_s", "log_snr_t"), [(-3.0, -math.inf), (0.5, -1.0), (3.0, 2.0)])
def test_kl_formula_equals_monte_carlo(log_snr_s: float, log_snr_t: float) -> None:
    d, draws = 8, 200_000
    rng = torch.Generator().manual_seed(1)
    x, x_hat = torch.randn(d, generator=rng), torch.randn(d, generator=rng)
    z_t = diffuse(x, log_snr_t, torch.randn(d, generator=rng))
    q_mean, deviation = posterior(z_t, x, log_snr_s, log_snr_t)
    p_mean, _ = posterior(z_t, x_hat, log_snr_s, log_snr_t)
    formula = snr_gain(log_snr_s, log_snr_t) * float((x - x_hat).square().sum()) / (2 * math.log(2))
    whitened = (q_mean - p_mean) / deviation
    assert float(whitened.square().sum()) / (2 * math.log(2)) == pytest.approx(formula, rel=1e-4)
    z_s = q_mean + deviation * torch.randn(draws, d, generator=rng)
    nats = (((z_s - p_mean) ** 2 - (z_s - q_mean) ** 2) / (2 * deviation**2)).sum(1)
    error = float(nats.std()) / math.sqrt(draws) / math.log(2)
    assert float(nats.mean()) / math.log(2) == pytest.approx(formula, abs=4 * error)
    # at the raised variance v = 1 + |mu|^2 / d, which the calibration counts with
    mu = (q_mean - p_mean) / deviation
    v = 1 + float(mu.square().mean())
    white = mu + torch.randn(draws, d, generator=rng)
    nats = (0.5 * math.log(v) + white**2 / (2 * v) - (white - mu) ** 2 / 2).sum(1)
    error = float(nats.std()) / math.sqrt(draws) / math.log(2)
    assert float(nats.mean()) / math.log(2) == pytest.approx(step_bits(d, v - 1), abs=4 * error)


@pytest.mark.parametrize("level", [1, 10, 250, 500, 900, 999, 1000])
def test_flow_transform_keeps_the_marginal(level: int) -> None:
    """The same x and eps give the flow's own z: not only the distribution, every sample is the right one."""
    sigma = level / 1000
    x, eps = data(), data(seed=1)
    z = to_flow(diffuse(x, flow_log_snr(sigma), eps), sigma)
    torch.testing.assert_close(z, (1 - sigma) * x + sigma * eps, atol=1e-12, rtol=0)


def test_ddim_step_is_eulers_step_of_the_flow() -> None:
    z_t, x_hat, t, s = data(), data(seed=2), 0.7, 0.55
    z_s = flow_step(z_t, x_hat, flow_log_snr(s), flow_log_snr(t))
    velocity = (to_flow(z_t, t) - x_hat) / t
    torch.testing.assert_close(to_flow(z_s, s), to_flow(z_t, t) + (s - t) * velocity, atol=1e-12, rtol=0)


def test_probability_flow_of_exact_denoiser_ends_in_the_data_distribution() -> None:
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for log_snr_t, log_snr_s in itertools.pairwise(-12 + 24 * i / 400 for i in range(401)):
        z = flow_step(z, exact_x0(z, log_snr_t), log_snr_s, log_snr_t)
    assert float(z.mean()) == pytest.approx(CENTRE, abs=0.02)
    assert float(z.std()) == pytest.approx(SPREAD, abs=0.02)
