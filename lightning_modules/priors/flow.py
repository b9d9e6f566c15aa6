"""Flow-matching models as variance-preserving diffusions: Stable Diffusion 3, Flux.

Such a network knows z = (1 - sigma) x + sigma eps and predicts the velocity eps - x (Lipman et al. 2023; Esser et al.
2024, eq. 6 and 13).  The same signal-to-noise ratio on the variance-preserving path, ((1 - sigma) / sigma)^2 =
alpha^2 / sigma_vp^2, makes the two differ by a factor alone, sigma / sigma_vp.  Timestep t has sigma = t / num_levels;
the published schedule for Flux counts its timesteps so (docs/decisions/0041-flow-levels.md).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.gaussian import alpha_sigma, as_factor
from ..identity import ModelError
from .latent import LatentPrior, Text

NUM_LEVELS = 1000


def flow_log_snr(sigma: float) -> float:
    """log-SNR of z = (1 - sigma) x + sigma eps, 0 <= sigma <= 1."""
    if sigma in (0, 1):
        return math.inf if sigma == 0 else -math.inf
    return 2 * math.log((1 - sigma) / sigma)


def to_flow(z: Tensor, sigma: float) -> Tensor:
    """Variance-preserving z moved to the flow's path at `sigma`, where it has the same signal-to-noise ratio."""
    _, sigma_vp = alpha_sigma(flow_log_snr(sigma))
    return z * as_factor(sigma / sigma_vp, z)


def x0_from_velocity(z_flow: Tensor, velocity: Tensor, sigma: float) -> Tensor:
    """x0_hat = z - sigma v of z = (1 - sigma) x + sigma eps and v = eps - x."""
    return z_flow - sigma * velocity


class FlowPrior(LatentPrior):
    """Any flow-matching transformer over patches of 2 x 2 latents; options as LatentPrior."""

    half = torch.bfloat16
    network_name = "transformer"

    def __init__(self, folder: Path, device: str | torch.device = "cpu", **options: Any) -> None:
        super().__init__(folder, device, **options)
        self.multiple = self.smallest = 2 * self.factor

    def _log_snrs(self) -> list[float]:
        return [flow_log_snr(t / NUM_LEVELS) for t in range(NUM_LEVELS + 1)]

    def _predict(self, z: Tensor, timestep: int, text: Text, guidance: Tensor) -> Tensor:
        sigma = timestep / self.num_levels
        z_flow = to_flow(z, sigma)
        time = torch.full((len(z),), sigma, device=z.device)  # float32: 1000 sigma in bfloat16 has steps of 2 or 4
        return x0_from_velocity(z_flow, self._velocity(z_flow.to(self.dtype), time, text, guidance).float(), sigma)

    @abstractmethod
    def _velocity(self, z: Tensor, sigma: Tensor, text: Text, guidance: Tensor) -> Tensor:
        """The network's eps - x for z [B, C, h, w] on the flow's path at sigma [B]."""


class SD3Prior(FlowPrior):
    """Stable Diffusion 3 and 3.5."""

    schedule = "sd3"

    def __init__(self, folder: Path, device: str | torch.device = "cpu", **options: Any) -> None:
        super().__init__(folder, device, **options)
        config = self.pipeline.transformer.config
        if config.in_channels != self.channels or config.patch_size != 2:
            raise ModelError(f"{folder} does not fit its autoencoder of {self.channels} channels")
        self.largest = config.pos_embed_max_size * self.multiple

    def _embed(self, prompt: str) -> Text:
        device = next(self._parts["text"][0].parameters()).device
        embedded, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, prompt, prompt, device=device, do_classifier_free_guidance=False
        )
        return embedded, pooled

    def _velocity(self, z: Tensor, sigma: Tensor, text: Text, guidance: Tensor) -> Tensor:
        return self.network(
            hidden_states=z, timestep=1000 * sigma, encoder_hidden_states=text[0], pooled_projections=text[1]
        ).sample


class FluxPrior(FlowPrior):
    """Flux.1: latents packed into patches, guidance as an input of the network (dev) or none (schnell)."""

    schedule = "flux"

    def __init__(self, folder: Path, device: str | torch.device = "cpu", **options: Any) -> None:
        super().__init__(folder, device, **options)
        if self.pipeline.transformer.config.in_channels != 4 * self.channels:
            raise ModelError(f"{folder} does not fit its autoencoder of {self.channels} channels")

    def _guides_itself(self) -> bool:
        return bool(self.pipeline.transformer.config.guidance_embeds)

    def _embed(self, prompt: str) -> Text:
        device = next(self._parts["text"][0].parameters()).device
        embedded, pooled, _ = self.pipeline.encode_prompt(prompt, None, device=device)
        return embedded, pooled

    def _velocity(self, z: Tensor, sigma: Tensor, text: Text, guidance: Tensor) -> Tensor:
        rows, columns = z.shape[-2] // 2, z.shape[-1] // 2
        grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([torch.zeros_like(grid[0]), *grid], -1).view(-1, 3)  # (0, row, column) of every patch
        velocity = self.network(
            hidden_states=torch.nn.functional.pixel_unshuffle(z, 2).flatten(2).mT,
            timestep=sigma,
            guidance=guidance.to(self.dtype) if self._guides_itself() else None,
            encoder_hidden_states=text[0],
            pooled_projections=text[1],
            txt_ids=torch.zeros(text[0].shape[1], 3, device=z.device, dtype=self.dtype),
            img_ids=places.to(z.device, self.dtype),
        ).sample
        return torch.nn.functional.pixel_shuffle(velocity.mT.unflatten(2, (rows, columns)), 2)
