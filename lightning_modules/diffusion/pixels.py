"""8-bit pixels: the two maps to a model's range [-1, 1] and back, p(x | z_0), the last, lossless step, and PSNR.

Denoisers and latent models put the values 0 and 255 at -1 and 1 (`to_signed`); VDM and UQDM cut [-1, 1] into 256 bins
and put each value at the centre of its bin (`to_bin_centres`).  For these, p(x | z_0) is a Gaussian around
z_0 / alpha_0 with the noise of z_0, restricted to the 256 pixel values (VDM, section 3.3).  Only values near z_0 have
any mass, so sums run over a window, not over all 256.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 256  # grey levels


def to_signed(image: Tensor) -> Tensor:
    """float32 v / 127.5 - 1 of pixel values v, 0 to 255: black is -1, white is 1 (denoisers, autoencoders)."""
    return image.float() / 127.5 - 1


def from_signed(x: Tensor) -> Tensor:
    """uint8, of the shape of x: the nearest pixel values to 127.5 (x + 1)."""
    return x.add(1).mul(127.5).round().clamp(0, LEVELS - 1).byte()


def to_bin_centres(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """2 (v + 1/2) / 256 - 1 of pixel values v, 0 to 255: the centres of 256 bins that fill [-1, 1] (VDM, UQDM)."""
    return (image.to(dtype) + 0.5) * (2.0 / LEVELS) - 1.0


def from_bin_centres(x: Tensor) -> Tensor:
    """uint8, of the shape of x: the pixel values whose bins hold x, or lie nearest to it."""
    return ((x + 1.0) * (LEVELS / 2) - 0.5).round().clamp(0, LEVELS - 1).to(torch.uint8)


def window_radius(log_snr_0: float) -> int:
    """Grey levels beyond which a value's probability, so far from z_0 / alpha_0, is below exp(-32)."""
    sigma = LEVELS / 2 * math.exp(-log_snr_0 / 2)  # noise relative to the signal, in grey levels
    return min(LEVELS - 1, math.ceil(8 * sigma) + 1)


def log_likelihood(image: Tensor, z_0: Tensor, log_snr_0: Tensor) -> Tensor:
    """log p(x | z_0) in nats, per sample: the shape of z_0.

    image      pixel values 0 to 255, shape of z_0
    z_0        variance-preserving latents of `to_bin_centres(image)`, any shape
    log_snr_0  their log-SNR, shape []
    """
    center = ((z_0 / torch.sigmoid(log_snr_0).sqrt() + 1.0) * LEVELS - 1.0) / 2.0  # in grey levels
    precision = torch.exp(log_snr_0) * (2.0 / LEVELS) ** 2
    radius = window_radius(float(log_snr_0.detach()))
    offsets = torch.arange(-radius, radius + 1, device=z_0.device, dtype=z_0.dtype)
    values = center.detach().round().clamp(0, LEVELS - 1)[..., None] + offsets
    logits = -0.5 * precision * (center[..., None] - values) ** 2
    logits = logits.masked_fill((values < 0) | (values > LEVELS - 1), -torch.inf)
    return -0.5 * precision * (center - image.to(z_0.dtype)) ** 2 - torch.logsumexp(logits, dim=-1)


def psnr(image: Tensor, original: Tensor) -> Tensor:
    """PSNR in dB of each image, float64 [B] or []: 10 log10(255^2 / MSE), the MSE over all samples of one image.

    image, original  [B, C, H, W] or [C, H, W], uint8 or real numbers from 0 to 255; equal images give infinity

    Average the values of images; the PSNR of a batch's mean squared error is another, lower figure.
    """
    mse = (image.double() - original.double()).square().mean((-3, -2, -1))
    return 10.0 * torch.log10(255.0**2 / mse)
