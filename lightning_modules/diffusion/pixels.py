"""8-bit pixels and the model's range [-1, 1]: the map between them and p(x | z_0), the last, lossless step.

p(x | z_0) is a Gaussian around z_0 / alpha_0 with the noise of level 0, restricted to the 256 pixel values
(VDM, section 3.3).  Only the values near z_0 have any mass, so sums run over a window, not over all 256.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 256


def to_unit(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixel values 0..255 to bin centres in (-1, 1): 2 (v + 1/2) / 256 - 1."""
    return (image.to(dtype) + 0.5) * (2.0 / LEVELS) - 1.0


def to_pixels(x: Tensor) -> Tensor:
    """The nearest pixel values, uint8, of x in the model's range."""
    return ((x + 1.0) * (LEVELS / 2) - 0.5).round().clamp(0, LEVELS - 1).to(torch.uint8)


def window_radius(log_snr_0: float) -> int:
    """Pixel values farther than this from z_0 / alpha_0 have a probability below exp(-32)."""
    sigma = LEVELS / 2 * math.exp(-log_snr_0 / 2)  # noise relative to the signal, in grey levels
    return min(LEVELS - 1, math.ceil(8 * sigma) + 1)


def log_likelihood(image: Tensor, z_0: Tensor, log_snr_0: Tensor) -> Tensor:
    """log p(x | z_0) in nats per sample (shape of z_0); image uint8, z_0 variance-preserving, log_snr_0 a scalar."""
    center = ((z_0 / torch.sigmoid(log_snr_0).sqrt() + 1.0) * LEVELS - 1.0) / 2.0  # in grey levels
    precision = torch.exp(log_snr_0) * (2.0 / LEVELS) ** 2
    radius = window_radius(float(log_snr_0.detach()))
    offsets = torch.arange(-radius, radius + 1, device=z_0.device, dtype=z_0.dtype)
    values = center.detach().round().clamp(0, LEVELS - 1)[..., None] + offsets
    logits = -0.5 * precision * (center[..., None] - values) ** 2
    logits = logits.masked_fill((values < 0) | (values > LEVELS - 1), -torch.inf)
    return -0.5 * precision * (center - image.to(z_0.dtype)) ** 2 - torch.logsumexp(logits, dim=-1)
