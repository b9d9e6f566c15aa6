"""VDM: Gaussian diffusion trained by its variational bound (Kingma et al. 2021), the ideal that UQDM approximates.

The same network and schedule as UQDM; what a step costs is the KL divergence between Gaussians, which reverse-channel
and bits-back coders approach.  priors/vdm.py makes a trained VDM a prior for those codecs.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diffusion import gaussian
from .diffusion import pixels as pixel_likelihood
from .diffusion.noise_schedule import ScheduleConfig
from .networks.score_net import ScoreNetConfig
from .training.pixel_diffusion import Cost, OptimizerConfig, PixelDiffusion, load_folder
from .uqdm import METHODS, Method


class VDM(PixelDiffusion):
    """Variational diffusion model over 8-bit RGB images.

    network              see ScoreNetConfig
    schedule             see ScheduleConfig
    n_steps              T of the bound; None: its continuous-time limit
    optimizer            see OptimizerConfig
    compile              run the network through torch.compile
    channels_last        keep the network's weights in channels_last order
    progressive_batches  validation batches on which reconstructions by all three methods are scored, None for all
    progressive_points   number of evenly spaced times 1, .., 0 at which they start
    sampling_steps       steps from time 1 to 0 in reconstructions
    """

    kind = "VDM"

    def __init__(
        self,
        network: ScoreNetConfig = ScoreNetConfig(),  # noqa: B008  (never mutated; jsonargparse reads the default)
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        n_steps: int | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        compile: bool = False,
        channels_last: bool = False,
        progressive_batches: int | None = 1,
        progressive_points: int = 5,
        sampling_steps: int = 16,
    ) -> None:
        super().__init__(network, schedule, optimizer, False, compile, channels_last)
        self.n_steps = n_steps
        self.progressive_batches = progressive_batches
        self.progressive_points = progressive_points
        self.sampling_steps = sampling_steps

    def model_config(self) -> dict[str, Any]:
        return {
            "network": asdict(self.network.config),
            "schedule": asdict(self.schedule.config),
            "n_steps": self.n_steps,
        }

    def predict(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """x_hat [B, C, H, W], not clipped, from z [B, C, H, W] at log_snr [B]."""
        eps = self.network(z, log_snr)[0].to(z.dtype)
        return gaussian.x0_from_eps(z, eps, log_snr[:, None, None, None])

    def nelbo(self, image: Tensor) -> Cost:
        """Negative ELBO of uint8 images [B, C, H, W], with noise and times from torch's generator."""
        x = pixel_likelihood.to_bin_centres(image)
        bits = 1.0 / (math.log(2.0) * image[0].numel())  # nats per image -> bits per dimension
        ends = self.schedule(x.new_tensor([0.0, 1.0]))
        alpha_1, sigma_1 = gaussian.alpha_sigma(ends[1])
        prior = 0.5 * ((alpha_1 * x) ** 2 + sigma_1**2 - 1.0 - 2.0 * sigma_1.log()).flatten(1).sum(1)
        z_0 = gaussian.diffuse(x, ends[0], torch.randn_like(x))
        reconstruction = -pixel_likelihood.log_likelihood(image, z_0, ends[0]).flatten(1).sum(1)
        # One random offset for the whole batch covers the times evenly (VDM, appendix I.1).
        t = (torch.rand(1, device=x.device) + torch.arange(len(x), device=x.device) / len(x)) % 1.0
        if self.n_steps is not None:
            t = (t * self.n_steps).floor().add(1.0) / self.n_steps
        log_snr = self.schedule(t)
        noise = torch.randn_like(x)
        z = gaussian.diffuse(x, log_snr[:, None, None, None], noise)
        error = (noise - self.network(z, log_snr)[0].to(x.dtype)).square().flatten(1).sum(1)
        fall, steps = self.schedule.log_snr_range.to(x), self.n_steps  # of the log-SNR from t = 0 to t = 1
        # VDM eq. 17 in continuous time, eq. 14 otherwise
        weight = 0.5 * fall if steps is None else 0.5 * steps * torch.expm1(fall / steps)
        return Cost(prior * bits, (weight * error * bits)[:, None], reconstruction * bits)

    @torch.no_grad()
    def reconstruct(self, z: Tensor, t: float, method: Method) -> Tensor:
        """uint8 images from z [B, C, H, W] at time t; methods as in UQDM.reconstruct, noise from torch's generator."""
        if t > 0.0 and method == "denoise":
            log_snr = self.schedule(z.new_full((len(z),), t))
            return pixel_likelihood.from_bin_centres(self.predict(z, log_snr))
        steps = max(1, round(self.sampling_steps * t)) if t > 0.0 else 0
        log_snrs = self.schedule(torch.linspace(t, 0.0, steps + 1, dtype=z.dtype, device=z.device))
        for log_snr_t, log_snr_s in pairwise(log_snrs):
            x_hat = self.predict(z, log_snr_t.expand(len(z)))
            if method == "flow":
                z = gaussian.flow_step(z, x_hat, log_snr_s, log_snr_t)
            else:
                mean, std = gaussian.posterior(z, x_hat.clamp(-1.0, 1.0), log_snr_s, log_snr_t)
                z = mean + std * torch.randn_like(z)
        return pixel_likelihood.from_bin_centres(z / gaussian.alpha_sigma(log_snrs[-1])[0])

    def training_cost(self, batch: Tensor) -> Cost:
        return self.nelbo(batch)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self._evaluate("val", batch, batch_index, self.progressive_batches)

    def test_step(self, batch: Tensor | tuple[str, Tensor], batch_index: int) -> None:
        for part in self.test_batches(batch):
            self._evaluate("test", part, batch_index, None)

    def _evaluate(self, prefix: str, batch: Tensor, batch_index: int, limit: int | None) -> None:
        self.log_cost(prefix, self.nelbo(batch), batch)
        if limit is not None and batch_index >= limit:
            return
        x = pixel_likelihood.to_bin_centres(batch)
        rows = []
        for point, t in enumerate(torch.linspace(1.0, 0.0, self.progressive_points).tolist()):
            z = gaussian.diffuse(x, self.schedule(x.new_tensor(t)), torch.randn_like(x))
            for method in METHODS:
                image = self.reconstruct(z, t, method)
                self.log_psnr(prefix, f"{method}/{point}", image, batch)
                if method == "denoise":
                    rows.append(image[:8])
        if batch_index == 0:
            self.log_images(f"{prefix}/denoise", [*rows, batch[:8]])


def load_vdm(folder: str | Path, device: str | torch.device | None = None) -> VDM:
    """The VDM in `folder` (config.json + model.safetensors), on `device` (None: CPU), in evaluation mode.

    Raises ModelError for a folder that holds no VDM.
    """
    return load_folder(folder, VDM, device)
