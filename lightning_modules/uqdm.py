"""UQDM: a diffusion model whose every step is a universally quantized message (Yang et al. 2025).

The model, its negative ELBO in bits, its three progressive reconstructions, and Lightning's training loop around them.
Levels are counted by what has been sent: latents[0] is pure noise shared by both sides, latents[i] the state after step
i of `n_steps`, latents[n_steps] the almost clean z_0, from which a last lossless step codes the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .diffusion import gaussian
from .diffusion import pixels as pixel_likelihood
from .diffusion.gaussian import LogSNR
from .diffusion.noise_schedule import ScheduleConfig
from .diffusion.universal_quantization import BasePrior, interval_log_mass, sample_base, uniform_noise
from .loading import find_model
from .networks.scaled_denoiser import DenoiserConfig, ScaledDenoiser
from .networks.score_net import ScoreNetConfig
from .training.pixel_diffusion import Cost, OptimizerConfig, PixelDiffusion, load_folder
from .training.published_checkpoints import is_published, load_published

Method = Literal["denoise", "ancestral", "flow"]
Scale = Literal["forward_kernel", "posterior"]
METHODS: tuple[Method, ...] = ("denoise", "ancestral", "flow")
NoiseSource = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass
class StepPrior:
    """p(z_s | z_t) before the uniform noise is added: a density around `mean` of standard deviation `std`."""

    mean: Tensor
    std: Tensor
    x_hat: Tensor


@dataclass
class Nelbo(Cost):
    """Cost of a batch, and what it was measured on.

    latents  T + 1 tensors [B, C, H, W]
    x_hat    [T, B, C, H, W], denoised latents[0 .. T - 1], clipped to [-1, 1]
    """

    latents: list[Tensor]
    x_hat: Tensor


class UQDM(PixelDiffusion):
    """Universally quantized diffusion model over 8-bit RGB images.

    network              see ScoreNetConfig (the published networks) and DenoiserConfig (a U-Net, see initial)
    schedule             see ScheduleConfig
    n_steps              T, the number of diffusion steps; the same in training and coding
    base_prior           base density g of the coding prior
    base_prior_scale     its deviation before any learned factor: that of q(z_t | z_s) ("forward_kernel") or that of
                         q(z_s | z_t, x) ("posterior")
    learned_prior_scale  the network multiplies the deviation by a factor per sample
    optimizer            see OptimizerConfig
    initial              folder of a DiffC denoiser whose weights a DenoiserConfig network starts from; None: untrained
    compile              run the network through torch.compile
    channels_last        keep the network's weights in channels_last order (faster convolutions on most CPUs and GPUs)
    progressive_batches  validation batches on which the reconstructions by all three methods are scored, None for all;
                         they need T (T + 1) network passes, the NELBO needs T.  Tests score all images, in 64 x 64
                         tiles.
    """

    kind = "UQDM"

    def __init__(
        self,
        network: ScoreNetConfig | DenoiserConfig = ScoreNetConfig(),  # noqa: B008  (never mutated; jsonargparse reads the default)
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        n_steps: int = 4,
        base_prior: BasePrior = "logistic",
        base_prior_scale: Scale = "forward_kernel",
        learned_prior_scale: bool = True,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        initial: str | None = None,
        compile: bool = False,
        channels_last: bool = False,
        progressive_batches: int | None = None,
    ) -> None:
        super().__init__(network, schedule, optimizer, learned_prior_scale, compile, channels_last)
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        if base_prior not in get_args(BasePrior) or base_prior_scale not in get_args(Scale):
            raise ValueError(f"unknown base_prior {base_prior!r} or base_prior_scale {base_prior_scale!r}")
        if initial is not None:
            if not isinstance(self.network, ScaledDenoiser):
                raise ValueError("initial is for a network that is a denoiser: give its widths")
            self.network.load_denoiser(find_model(initial))
        self.n_steps = n_steps
        self.base_prior: BasePrior = base_prior
        self.base_prior_scale = base_prior_scale
        self.progressive_batches = progressive_batches

    def model_config(self) -> dict[str, Any]:
        return {
            "network": asdict(self.network.config),
            "schedule": asdict(self.schedule.config),
            "n_steps": self.n_steps,
            "base_prior": self.base_prior,
            "base_prior_scale": self.base_prior_scale,
            "learned_prior_scale": self.network.predict_scale,
        }

    def log_snrs(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[T + 1] log-SNR after 0, 1, .. T steps; increasing."""
        times = torch.linspace(1.0, 0.0, self.n_steps + 1, dtype=dtype, device=self.device)
        return self.schedule(times)

    def predict(self, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor | None]:
        """(x_hat, scale factor), both [B, C, H, W], from z [B, C, H, W] at log_snr [B].

        x_hat is in about [-1, 1], not clipped; the factor is None for a network that predicts none.
        """
        eps, scale = self.network(z, log_snr)
        eps = eps.to(z.dtype)  # the rest stays in full precision under autocast
        return gaussian.x0_from_eps(z, eps, log_snr[:, None, None, None]), None if scale is None else scale.to(z.dtype)

    def step_prior(self, z: Tensor, log_snr_t: Tensor, log_snr_s: Tensor) -> StepPrior:
        """p(z_s | z_t) without its uniform part, for z [B, C, H, W] at log_snr_t [B] going to log_snr_s [B].

        One pass of the network; the backward process of Yang et al. 2025.
        """
        x_hat, scale = self.predict(z, log_snr_t)
        x_hat = x_hat.clamp(-1.0, 1.0)
        t, s = log_snr_t[:, None, None, None], log_snr_s[:, None, None, None]
        mean, std = gaussian.posterior(z, x_hat, s, t)
        if self.base_prior_scale == "forward_kernel":  # std of q(z_t | z_s): sigma_t in place of sigma_s
            std = std * (gaussian.alpha_sigma(t)[1] / gaussian.alpha_sigma(s)[1]).to(std)
        return StepPrior(mean, std * scale if scale is not None else std.expand_as(mean), x_hat)

    @staticmethod
    def delta(log_snr_t: LogSNR, log_snr_s: LogSNR, like: Tensor) -> Tensor:
        """Step delta of the dithered quantiser from t to s: the variance of its error, delta^2 / 12, is that of
        q(z_s | z_t, x) (Yang et al. 2025, the forward process).

        log_snr_t, log_snr_s  floats, or tensors that broadcast to the result
        like                  a tensor whose dtype and device the result has
        """
        return math.sqrt(12.0) * gaussian.posterior(like, like, log_snr_s, log_snr_t)[1].to(like)

    def chain(self, x: Tensor, start: Tensor | None) -> list[Tensor]:
        """The T + 1 latents of x [B, C, H, W] in [-1, 1], noise drawn from torch's generator; needs no network.

        start  latents[0]; None draws it from q(z_1 | x)
        Dithered rounding adds exactly this uniform noise whatever the prior's mean is.
        """
        log_snrs = self.log_snrs(x.dtype)
        latents = [gaussian.diffuse(x, log_snrs[0], torch.randn_like(x)) if start is None else start]
        for t, s in pairwise(log_snrs):
            mean, std = gaussian.posterior(latents[-1], x, s, t)
            latents.append(mean + math.sqrt(12.0) * std * uniform_noise(x))
        return latents

    def nelbo(self, image: Tensor, start: Tensor | Literal["prior", "posterior"] = "prior") -> Nelbo:
        """Negative ELBO of uint8 images [B, C, H, W], H and W multiples of the network's `multiple`.

        start  "prior": z_1 ~ N(0, I), as both sides of a codec draw it: the cost of coding.  "posterior": z_1 from
               q(z_1 | x) at the price of its KL divergence: the bound that training minimises.  A tensor: that z_1,
               shared by both sides; the first step costs 10 % more or less from one z_1 to the next.
        """
        x = pixel_likelihood.to_bin_centres(image)
        z_1 = start if isinstance(start, Tensor) else torch.randn_like(x) if start == "prior" else None
        bits = 1.0 / (math.log(2.0) * image[0].numel())  # nats per image -> bits per dimension
        log_snrs, latents = self.log_snrs(), self.chain(x, z_1)
        batch, steps = len(x), self.n_steps
        log_snr_t, log_snr_s = log_snrs[:-1].repeat_interleave(batch), log_snrs[1:].repeat_interleave(batch)
        prior = self.step_prior(torch.cat(latents[:-1]), log_snr_t, log_snr_s)  # all steps in one pass
        delta = self.delta(log_snr_t[:, None, None, None], log_snr_s[:, None, None, None], x.new_zeros(1))
        log_mass = interval_log_mass(torch.cat(latents[1:]) - prior.mean, delta, prior.std, self.base_prior)
        costs = -log_mass.flatten(1).sum(1).reshape(steps, batch).T
        first = x.new_zeros(batch)
        if z_1 is None:
            alpha, sigma = gaussian.alpha_sigma(log_snrs[0])
            first = 0.5 * ((alpha * x) ** 2 + sigma**2 - 1.0 - 2.0 * sigma.log()).flatten(1).sum(1)
        last = -pixel_likelihood.log_likelihood(image, latents[-1], log_snrs[-1]).flatten(1).sum(1)
        x_hat = prior.x_hat.detach().reshape(steps, *x.shape)
        return Nelbo(first * bits, costs * bits, last * bits, latents, x_hat)

    @torch.no_grad()
    def reconstruct(self, z: Tensor, sent: int, method: Method, noise: NoiseSource | None = None) -> Tensor:
        """uint8 images from latents[sent] = z [B, C, H, W], 0 <= sent <= n_steps.

        denoise    E[x | z], one pass: least squared error
        ancestral  the remaining steps drawn from the model's prior: realistic detail, higher error
        flow       the remaining steps along the deterministic probability flow
        noise      for "ancestral": (z, step) -> (unit-variance base sample, uniform sample); default torch's generator
        """
        log_snrs = self.log_snrs(z.dtype)
        noise = noise or (lambda z, step: (sample_base(z, self.base_prior), uniform_noise(z)))
        for i in range(sent, self.n_steps):
            t, s = log_snrs[i].expand(len(z)), log_snrs[i + 1].expand(len(z))
            if method == "denoise":
                return pixel_likelihood.from_bin_centres(self.predict(z, t)[0])
            if method == "flow":
                z = gaussian.flow_step(z, self.predict(z, t)[0], log_snrs[i + 1], log_snrs[i])
            else:
                prior = self.step_prior(z, t, s)
                base, uniform = noise(z, i)
                z = prior.mean + prior.std * base + self.delta(log_snrs[i], log_snrs[i + 1], z) * uniform
        return pixel_likelihood.from_bin_centres(z / gaussian.alpha_sigma(log_snrs[-1])[0])

    def training_cost(self, batch: Tensor) -> Nelbo:
        return self.nelbo(batch, start="posterior")

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        every = self.progressive_batches is None or batch_index < self.progressive_batches
        self._evaluate("val", batch, batch_index, METHODS if every else ())

    def test_step(self, batch: Tensor | tuple[str, Tensor], batch_index: int) -> None:
        for part in self.test_batches(batch):
            self._evaluate("test", part, batch_index, METHODS)

    def _evaluate(self, prefix: str, batch: Tensor, batch_index: int, methods: tuple[Method, ...]) -> None:
        cost = self.nelbo(batch)
        self.log_cost(prefix, cost, batch)
        for step in range(self.n_steps):
            self.log_psnr(prefix, f"denoise/{step}", pixel_likelihood.from_bin_centres(cost.x_hat[step]), batch)
        for method in methods:
            for sent in range(self.n_steps + 1):
                if method != "denoise" or sent == self.n_steps:  # the others came with the NELBO
                    image = self.reconstruct(cost.latents[sent], sent, method)
                    self.log_psnr(prefix, f"{method}/{sent}", image, batch)
        if batch_index == 0:
            rows = [pixel_likelihood.from_bin_centres(x_hat[:8]) for x_hat in cost.x_hat]
            self.log_images(f"{prefix}/denoise", [*rows, batch[:8]])


def load_uqdm(folder: str | Path, device: str | torch.device | None = None, averaged: bool = True) -> UQDM:
    """The UQDM in `folder`, on `device` (default CPU), in evaluation mode.

    folder    our form (config.json + model.safetensors) or the published one (config.json + checkpoint.pt)
    averaged  published form only: EMA weights with the EMA noise schedule (True), or the raw weights with the initial
              schedule of the configuration (False), which is what the authors' loader restores

    Raises ModelError for a folder that holds no UQDM.
    """
    if is_published(folder):
        return load_published(folder, UQDM, averaged).to(device or "cpu").eval()
    return load_folder(folder, UQDM, device)
