"""Universal quantization as a channel: what one UQDM step sends, and what it costs.

Rounding with subtractive dither turns a value m into m + U(-delta/2, delta/2), whatever m is.  Under the prior
p = g * U(-delta/2, delta/2), a base density g convolved with the same uniform noise, the integer costs
-log p(z) - log delta = -log(G(z + delta/2) - G(z - delta/2)) (Yang et al. 2025, section 3.2).  Here: that mass, stably,
for logistic and Gaussian g.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

BasePrior = Literal["logistic", "gaussian"]

LOGISTIC_SCALE = math.sqrt(3.0) / math.pi  # logistic scale parameter per unit of standard deviation


def interval_log_mass(center: Tensor, delta: Tensor, std: Tensor, base_prior: BasePrior) -> Tensor:
    """log P(|Y - center| < delta / 2) in nats for a zero-mean base variable Y of standard deviation `std`.

    Finite, with finite gradients, from the mode to far into the tails.  Floating-point tensors that broadcast against
    each other; delta and std positive.
    """
    upper = (delta / 2 - center.abs()) / std  # both densities are symmetric: fold to the lower tail
    lower = (-delta / 2 - center.abs()) / std
    if base_prior == "logistic":
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)): no cancellation anywhere
        upper, lower = upper / LOGISTIC_SCALE, lower / LOGISTIC_SCALE
        return F.logsigmoid(upper) + F.logsigmoid(-lower) + _log1mexp(upper - lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return log_upper + _log1mexp(log_upper - log_lower)


def _log1mexp(gap: Tensor) -> Tensor:
    """log(1 - exp(-gap)) for gap > 0."""
    return torch.log(-torch.expm1(-gap.clamp_min(1e-12)))


def sample_base(like: Tensor, base_prior: BasePrior, generator: torch.Generator | None = None) -> Tensor:
    """Unit-variance, zero-mean samples of the base density, shaped like `like`."""
    if base_prior == "gaussian":
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    uniform = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    return torch.logit(uniform, eps=1e-7) * LOGISTIC_SCALE


def uniform_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """U(-1/2, 1/2), shaped like `like`."""
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator) - 0.5
