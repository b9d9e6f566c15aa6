"""Gaussian diffusion algebra, once, in log-SNR form.

Everything is variance preserving (Kingma et al., "Variational diffusion models", 2021, section 3)::

    z_t = alpha_t x + sigma_t eps,   eps ~ N(0, I),   alpha_t^2 = sigmoid(log_snr_t),   sigma_t^2 = sigmoid(-log_snr_t)

so that alpha_t^2 + sigma_t^2 = 1 and SNR_t = alpha_t^2 / sigma_t^2 = exp(log_snr_t), natural logarithm.  t is the
noisier time, s the cleaner one: log_snr_s > log_snr_t.  log_snr_t = -inf is pure noise.

Shapes: x, z, eps and v are floating-point tensors of one shape [B, C, h, w], or any other.  A log-SNR is a float, or a
tensor that broadcasts against them: [] for all images alike, [B, 1, 1, 1] for one per image.  Nothing is checked and
nothing raised; a result has the shape, dtype and device of the data, and float log-SNRs are computed with in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

LogSNR = float | Tensor


def _tensor(log_snr: LogSNR) -> Tensor:
    return log_snr if isinstance(log_snr, Tensor) else torch.tensor(log_snr, dtype=torch.float64)


def as_factor(value: Tensor, data: Tensor) -> Tensor:
    """`value` in the dtype of `data` and ready to be multiplied with it: on its device, or on the CPU with shape [].

    PyTorch hands a single number on the CPU to a GPU's kernel as an argument; a copy of it would wait for the GPU.
    """
    return value.to(data.dtype) if value.ndim == 0 and value.device.type == "cpu" else value.to(data)


def alpha_sigma(log_snr: LogSNR) -> tuple[Tensor, Tensor]:
    """(alpha, sigma), both in [0, 1]: alpha^2 + sigma^2 = 1 and alpha^2 / sigma^2 = exp(log_snr).

    Both have the shape, dtype and device of a tensor `log_snr`; shape [] and float64 for a float.
    """
    value = _tensor(log_snr)
    return torch.sigmoid(value).sqrt(), torch.sigmoid(-value).sqrt()


def diffuse(x: Tensor, log_snr: LogSNR, noise: Tensor) -> Tensor:
    """z_t = alpha_t x + sigma_t noise, a sample of q(z_t | x) (VDM, eq. 1); `noise` ~ N(0, I), of the shape of x."""
    alpha, sigma = alpha_sigma(log_snr)
    return as_factor(alpha, x) * x + as_factor(sigma, x) * noise


def posterior(z_t: Tensor, x: Tensor, log_snr_s: LogSNR, log_snr_t: LogSNR) -> tuple[Tensor, Tensor]:
    """(mean, std) of q(z_s | z_t, x), Gaussian with independent coordinates (VDM, eq. 25 to 27)::

        mean = alpha_t sigma_s^2 / (alpha_s sigma_t^2) z_t + alpha_s (1 - SNR_t / SNR_s) x
        std  = sigma_s sqrt(1 - SNR_t / SNR_s)

    The mean has the shape of x, the std that of the log-SNRs, of
    floats [] on the CPU.  With x_hat for x this is the model's p(z_s | z_t).
    """
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    alpha_t, sigma_t = alpha_sigma(log_snr_t)
    gain = -torch.expm1(_tensor(log_snr_t) - _tensor(log_snr_s))  # 1 - SNR_t / SNR_s
    keep = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    mean = as_factor(keep, x) * z_t + as_factor(alpha_s * gain, x) * x
    return mean, as_factor(sigma_s * gain.sqrt(), x)


def flow_step(z_t: Tensor, x_hat: Tensor, log_snr_s: LogSNR, log_snr_t: LogSNR) -> Tensor:
    """z_s = alpha_s x_hat + sigma_s eps_hat, the deterministic step along the probability flow from t to s.

    Song et al., "Denoising diffusion implicit models", 2021, eq. 12 with eta = 0; x_hat is the estimate at z_t.
    """
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    return as_factor(alpha_s, x_hat) * x_hat + as_factor(sigma_s, x_hat) * eps_from_x0(z_t, x_hat, log_snr_t)


def x0_from_eps(z_t: Tensor, eps: Tensor, log_snr: LogSNR) -> Tensor:
    """x_hat = (z_t - sigma_t eps) / alpha_t of a prediction of the noise (Ho et al. 2020); infinite at pure noise."""
    alpha, sigma = alpha_sigma(log_snr)
    return (z_t - as_factor(sigma, eps) * eps) / as_factor(alpha, eps)


def eps_from_x0(z_t: Tensor, x_hat: Tensor, log_snr: LogSNR) -> Tensor:
    """eps_hat = (z_t - alpha_t x_hat) / sigma_t, the inverse of `x0_from_eps`."""
    alpha, sigma = alpha_sigma(log_snr)
    return (z_t - as_factor(alpha, x_hat) * x_hat) / as_factor(sigma, x_hat)


def x0_from_v(z_t: Tensor, v: Tensor, log_snr: LogSNR) -> Tensor:
    """x_hat = alpha_t z_t - sigma_t v of a prediction of v = alpha_t eps - sigma_t x (Salimans and Ho 2022, app. D)."""
    alpha, sigma = alpha_sigma(log_snr)
    return as_factor(alpha, v) * z_t - as_factor(sigma, v) * v


# what a network may predict, by the names of diffusers' schedulers (`prediction_type`)
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def x0_from_prediction(prediction: str, z_t: Tensor, output: Tensor, log_snr: LogSNR) -> Tensor:
    """x_hat of a network's `output` (shape of z_t), which is what `prediction`, one of PREDICTIONS, says."""
    if prediction == "epsilon":
        return x0_from_eps(z_t, output, log_snr)
    return x0_from_v(z_t, output, log_snr) if prediction == "v_prediction" else output
