"""The Gaussian algebra against the definitions it follows from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class CopiesFromTheCPU(TorchDispatchMode):
    """Counts tensors that are copied from the CPU to another device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target = (kwargs or {}).get("device")
        if target is not None and torch.device(target).type != "cpu" and args and args[0].device.type == "cpu":
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_float_log_snrs_are_not_copied_to_the_device() -> None:
    """Each copy would wait for a GPU; torch's device without data stands in for one."""
    z, x = torch.zeros(2, 1, 3, 8, 8, device="meta")
    with CopiesFromTheCPU() as copies:
        mean, std = g.posterior(z, x, 2.0, -1.0)
        results = [mean + std * z, g.diffuse(x, 2.0, z), g.flow_step(z, x, 2.0, -1.0)]
        results += [g.x0_from_eps(z, x, 2.0), g.x0_from_v(z, x, 2.0)]
        assert copies.count == 0
        assert all((y.device, y.dtype, y.shape) == (x.device, x.dtype, x.shape) for y in results)
        torch.zeros([], dtype=torch.float64).to(x)
        assert copies.count == 1  # what is counted does occur


def test_numbers_are_rounded_before_they_multiply() -> None:
    """A number on the CPU gives the bits that its copy in the data's dtype gives."""
    value, x = torch.tensor(1 / 3, dtype=torch.float64), torch.randn(1000)
    assert torch.equal(g.as_factor(value, x) * x, value.float() * x)
    assert g.as_factor(value, x).dtype == torch.float32
    assert g.as_factor(value.expand(5, 1), x.double()[None]).dtype == torch.float64
