"""Gaussian diffusion algebra, once, in log-SNR form.

Everything is variance preserving: z_t = alpha_t x + sigma_t eps with alpha_t^2 = sigmoid(log_snr_t) and
sigma_t^2 = sigmoid(-log_snr_t) (Kingma et al., Variational Diffusion Models, 2021, section 3).  `t` is the noisier
level, `s` the cleaner one (log_snr_s > log_snr_t).  log_snr_t = -inf is allowed and means pure noise.
Log-SNRs are Python floats, or tensors that broadcast against x.
"""

from __future__ import annotations

import torch
from torch import Tensor

Level = float | Tensor


def _tensor(log_snr: Level) -> Tensor:
    return log_snr if isinstance(log_snr, Tensor) else torch.tensor(log_snr, dtype=torch.float64)


def alpha_sigma(log_snr: Level) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with alpha^2 + sigma^2 = 1 and alpha^2 / sigma^2 = exp(log_snr)."""
    level = _tensor(log_snr)
    return torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()


def diffuse(x: Tensor, log_snr: Level, noise: Tensor) -> Tensor:
    """z_t ~ q(z_t | x) from standard normal `noise` (VDM eq. 1)."""
    alpha, sigma = alpha_sigma(log_snr)
    return alpha.to(x) * x + sigma.to(x) * noise


def posterior(z_t: Tensor, x: Tensor, log_snr_s: Level, log_snr_t: Level) -> tuple[Tensor, Tensor]:
    """Mean (like x) and standard deviation of q(z_s | z_t, x) (VDM eq. 25-27)."""
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    alpha_t, sigma_t = alpha_sigma(log_snr_t)
    gain = -torch.expm1(_tensor(log_snr_t) - _tensor(log_snr_s))  # 1 - SNR_t / SNR_s
    keep = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    return keep.to(x) * z_t + (alpha_s * gain).to(x) * x, (sigma_s * gain.sqrt()).to(x)


def flow_step(z_t: Tensor, x_hat: Tensor, log_snr_s: Level, log_snr_t: Level) -> Tensor:
    """Deterministic DDIM step along the probability flow from level t to level s (DDIM eq. 12 with eta = 0)."""
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    return alpha_s.to(x_hat) * x_hat + sigma_s.to(x_hat) * eps_from_x0(z_t, x_hat, log_snr_t)


def x0_from_eps(z_t: Tensor, eps: Tensor, log_snr: Level) -> Tensor:
    """x_hat of an epsilon-prediction: (z - sigma eps) / alpha."""
    alpha, sigma = alpha_sigma(log_snr)
    return (z_t - sigma.to(eps) * eps) / alpha.to(eps)


def eps_from_x0(z_t: Tensor, x_hat: Tensor, log_snr: Level) -> Tensor:
    """eps_hat of an x0-prediction: (z - alpha x) / sigma."""
    alpha, sigma = alpha_sigma(log_snr)
    return (z_t - alpha.to(x_hat) * x_hat) / sigma.to(x_hat)


def x0_from_v(z_t: Tensor, v: Tensor, log_snr: Level) -> Tensor:
    """x_hat of a v-prediction, v = alpha eps - sigma x (Salimans and Ho 2022, appendix D)."""
    alpha, sigma = alpha_sigma(log_snr)
    return alpha.to(v) * z_t - sigma.to(v) * v
