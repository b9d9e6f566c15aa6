"""The Gaussian algebra against the definitions it follows from."""

from __future__ import annotations

import math

import pytest
import torch

from diffpress.lightning_modules.diffusion import gaussian as g

LEVELS = [(2.0, -1.0), (9.0, 8.5), (-3.0, -8.0), (0.5, -math.inf)]


def test_variance_is_preserved() -> None:
    for level in (-8.0, 0.0, 13.0):
        alpha, sigma = g.alpha_sigma(level)
        assert float(alpha**2 + sigma**2) == pytest.approx(1)
        assert math.log(float(alpha**2 / sigma**2)) == pytest.approx(level)


@pytest.mark.parametrize(("s", "t"), LEVELS)
def test_posterior_composes_to_the_marginal(s: float, t: float) -> None:
    """z_t from x, then z_s from q(z_s | z_t, x), must have the mean and variance of q(z_s | x)."""
    x = torch.tensor([0.7], dtype=torch.float64)
    alpha_s, sigma_s = g.alpha_sigma(s)
    alpha_t, sigma_t = g.alpha_sigma(t)
    mean, deviation = g.posterior(alpha_t * x, x, s, t)
    assert float(mean) == pytest.approx(float(alpha_s * x))
    shifted, _ = g.posterior(alpha_t * x + sigma_t, x, s, t)
    assert float((shifted - mean) ** 2 + deviation**2) == pytest.approx(float(sigma_s**2))


@pytest.mark.parametrize(("s", "t"), LEVELS)
def test_flow_step_keeps_noise_and_moves_signal(s: float, t: float) -> None:
    x, eps = torch.randn(2, 100, dtype=torch.float64)
    z_s = g.flow_step(g.diffuse(x, t, eps), x, s, t)
    torch.testing.assert_close(z_s, g.diffuse(x, s, eps))


def test_parameterisations_agree() -> None:
    x, eps = torch.randn(2, 100, dtype=torch.float64)
    for level in (-4.0, 0.0, 6.0):
        alpha, sigma = g.alpha_sigma(level)
        z = g.diffuse(x, level, eps)
        torch.testing.assert_close(g.x0_from_eps(z, eps, level), x)
        torch.testing.assert_close(g.x0_from_v(z, alpha * eps - sigma * x, level), x)
        torch.testing.assert_close(g.eps_from_x0(z, x, level), eps)


@pytest.mark.parametrize(("s", "t"), LEVELS)
def test_whitened_difference_is_the_snr_gain(s: float, t: float) -> None:
    """|mu|^2 = (SNR_s - SNR_t) |x - x_hat|^2, which is how DiffC knows a step's bits in advance."""
    z, x, x_hat = torch.randn(3, 50, dtype=torch.float64)
    wanted, deviation = g.posterior(z, x, s, t)
    mean, _ = g.posterior(z, x_hat, s, t)
    mu = (wanted - mean) / deviation
    gain = math.exp(s) - math.exp(t)
    assert float(mu.square().sum()) == pytest.approx(gain * float((x - x_hat).square().sum()))
