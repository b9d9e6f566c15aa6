"""Any Gaussian denoiser as a prior: a function of a noisy image and the noise's standard deviation.

Denoisers of plug-and-play methods (Venkatakrishnan et al. 2013) and of DeepInverse estimate E[x | y] of y = x + sigma
n, n ~ N(0, I).  A variance-preserving z_t divided by alpha_t is such a y, with sigma = sigma_t / alpha_t, so any of
them is a diffusion model whose timesteps are noise levels.  It knows a range of sigma.  No file goes below it.  Above
it, first the contrast is lowered until the noise is in the range (D(y, sigma) = D(c y, c sigma) / c for images of any
contrast), then more and more 2 x 2 pixels are averaged, which halves the noise (pixel.py); of what is too small to be
averaged only the variance counts.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..diffusion.gaussian import PREDICTIONS, alpha_sigma, x0_from_prediction
from ..identity import ModelError, of_module
from ..networks.denoiser import SIGMA_DATA
from .pixel import PixelPrior, Pyramid

Denoise = Callable[..., Tensor]  # (y, sigma) -> E[x | y], or y -> E[x | y] if it estimates sigma itself
CLEANEST, NOISIEST = 13.0, -8.0  # log-SNR where no grey level is in doubt, and where nothing is known
ROUNDING = 1e-6  # of a log-SNR
AVERAGED = 2 * math.log(4)  # of log-SNR beyond a denoiser's range, over which averages take over from lower contrast


def parameters_of(function: Callable[..., Any]) -> int:
    """How many arguments a function, or a module's forward, must be given."""
    signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is one.empty for one in signature.parameters.values())


class FunctionPrior(PixelPrior):
    """A prior that comes from Python code instead of a model folder; `network` is a function or a module.

    facts    JSON values that tell it from every other
    modules  the networks that run, which are moved to `device`
    The presets that calibrate.py makes of it lie in the user's cache, under its fingerprint.
    """

    def __init__(self, facts: Mapping[str, Any], modules: Sequence[nn.Module], device: str | torch.device) -> None:
        self.multiple, self.modules = 1, modules
        self.fingerprint = of_module(facts, {})
        self.folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffpress"
        self.schedule = str(self.folder / f"{self.fingerprint.hex()}.json")
        self.to(device)

    def to(self, device: str | torch.device) -> Self:
        """This prior, its networks moved to `device`."""
        self.device = torch.device(device)
        for module in self.modules:
            module.to(self.device).eval().requires_grad_(False)
        return self

    def double(self) -> Self | None:
        """See Prior.double: what a function computes in is its own affair."""
        return None


class DenoiserFunction(FunctionPrior):
    """A denoiser of additive Gaussian noise as a Prior; 1000 timesteps, evenly spaced in log-SNR.

    denoise      (y, sigma) -> E[x | y] for y = x + sigma n, float32 [B, 3, h, w], sigma a float in the unit of the
                 values; h and w are multiples of `multiple`.  With one parameter it is blind: y -> E[x | y].
    sigma_range  least and largest sigma for which it was made
    identity     what tells this denoiser from every other, such as a digest of its weights
    value_range  values of black and white
    multiple     heights and widths that it takes are multiples of this
    modules      networks that `denoise` runs, to be moved to `device`
    Raises ModelError.
    """

    def __init__(
        self,
        denoise: Denoise,
        sigma_range: tuple[float, float],
        identity: str,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        multiple: int = 8,
        modules: Sequence[nn.Module] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        (least, largest), (black, white) = sigma_range, value_range
        if not 0 <= least < largest or not black < white:
            raise ModelError(f"a denoiser needs ascending ranges, not sigma {sigma_range} for values {value_range}")
        facts = {"denoiser": identity, "sigma_range": [least, largest], "value_range": [black, white]}
        super().__init__(facts | {"multiple": multiple}, modules, device)
        self.network, self.blind = denoise, parameters_of(denoise) == 1
        self.half_range, self.grey = (white - black) / 2, (black + white) / 2
        self.clean = min(CLEANEST, self._log_snr_at(least)) if least else CLEANEST
        self.noisy = self._log_snr_at(largest)
        self.noisiest = self.noisy - AVERAGED
        nodes = [(self.noisiest, 0.0, 0.0, 1.0), (self.noisy, 1.0, 0.0, 0.0)]  # docs/decisions/0070-denoisers.md
        self.pyramid = Pyramid(nodes if self.noisy > NOISIEST + ROUNDING else [], multiple)

    def _log_snr_at(self, sigma: float) -> float:
        return -2 * math.log(sigma / self.half_range)

    def log_snr(self, timestep: int) -> float:
        return self.clean + (NOISIEST - self.clean) * timestep / self.num_levels

    @torch.inference_mode()
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        return self.pyramid.estimate(self.own_estimate, z, self.log_snr(timestep)).contiguous()

    def own_estimate(self, z: Tensor, log_snr: float) -> Tensor:
        """x0_hat in [-1, 1] as the denoiser gives it, at any log-SNR."""
        alpha, sigma = (float(value) for value in alpha_sigma(log_snr))
        if log_snr < self.noisiest - ROUNDING:  # an image too small to be averaged: white, N(0, SIGMA_DATA^2)
            return z * (alpha * SIGMA_DATA**2 / (alpha**2 * SIGMA_DATA**2 + sigma**2))
        scale = self.half_range * math.exp(min(0.0, (log_snr - self.noisy) / 2))  # of x in [-1, 1], to the values
        y = z * (scale / alpha) + self.grey
        x_hat = self.evaluate(y) if self.blind else self.evaluate(y, scale * sigma / alpha)
        if x_hat.shape != z.shape:
            raise ModelError(f"the denoiser makes {list(x_hat.shape)} of {list(z.shape)}")
        return ((x_hat.to(z.dtype) - self.grey) / scale).clamp(-1, 1)


class TimestepFunction(FunctionPrior):
    """A network of discrete time as a Prior: it predicts the noise, v or x0 of z_t (Ho et al. 2020).

    network         (z [B, 3, h, w], t [B] from 0) -> [B, 3 or more, h, w]; what follows the first three channels, such
                    as the learned variance of guided-diffusion (Nichol and Dhariwal 2021), is not used
    alphas_cumprod  alpha_t^2 for t = 0, 1, ..; timestep t of the prior is the network's t - 1
    prediction      one of PREDICTIONS (diffusion/gaussian.py)
    identity, multiple, modules, device  as of DenoiserFunction, but padding by `multiple` is part of what is coded
    """

    def __init__(
        self, network: Denoise, alphas_cumprod: Sequence[float] | Tensor, identity: str, *,
        prediction: str = "epsilon", multiple: int = 8, modules: Sequence[nn.Module] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        if prediction not in PREDICTIONS:
            raise ModelError(f"unknown prediction {prediction!r}; available: {', '.join(PREDICTIONS)}")
        self.alphas_cumprod = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        facts = {"network": identity, "prediction": prediction, "alphas_cumprod": self.alphas_cumprod.tolist()}
        super().__init__(facts, modules, device)
        self.network, self.prediction, self.multiple = network, prediction, multiple
        self.num_levels = len(self.alphas_cumprod)

    def log_snr(self, timestep: int) -> float:
        return float(torch.logit(self.alphas_cumprod[timestep - 1])) if timestep else math.inf

    @torch.inference_mode()
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        output = self.evaluate(z, torch.full((len(z),), timestep - 1, device=z.device))[:, :3]
        # in float64: noise is divided by an alpha that is small where little is known
        x_hat = x0_from_prediction(self.prediction, z.double(), output.double(), self.log_snr(timestep))
        return x_hat.clamp(-1, 1).to(z.dtype)
