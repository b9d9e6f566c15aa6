"""Our VDM as a prior for DiffC and bits-back coding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..vdm import load_vdm
from .interface import enough_memory
from .pixel import PixelPrior


class VDMPrior(PixelPrior):
    """The VDM in a model folder: 1000 timesteps, evenly spaced in log-SNR over the range of its schedule.

    A network with attention sees the whole image at once; its memory grows with the image, its time with the square.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        self.network = load_vdm(folder, device).requires_grad_(False)
        super().__init__(Path(folder), torch.device(device), self.network.network.config.patch_size)
        self.clean, self.noisy = self.network.schedule(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()

    def log_snr(self, timestep: int) -> float:
        return self.clean + (self.noisy - self.clean) * timestep / self.num_levels

    @torch.inference_mode()
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        log_snr = torch.full((len(z),), self.log_snr(timestep), dtype=z.dtype, device=z.device)
        with enough_memory(self.device, self.needs_less):
            return self.network.predict(z, log_snr).clamp(-1.0, 1.0)
