"""The one interface between diffusion models and codecs.

A prior hides what a model is (pixels or latents; eps-, v-, x0- or flow-prediction; continuous or discrete levels)
behind four calls.  Noise levels are integers 1 (cleanest) .. num_levels (noisiest), so that a schedule is a list of
integers that can be written down in a file, whatever the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Prior(Protocol):
    """A diffusion model seen as a prior over images (all tensors batched, on the prior's device).

    folder       where the model was read from; a calibration (calibration.json) lies there
    device       where tensors live
    num_levels   number of noise levels; level 0 is clean data, level `num_levels` the noisiest
    fingerprint  4 bytes that change with configuration, weights and calibration
    lossless     whether decode(encode(image)) == image, so that a final exact segment makes sense
    """

    folder: Path
    device: torch.device
    num_levels: int
    fingerprint: bytes
    lossless: bool

    def encode(self, image: Tensor) -> Tensor:
        """x0, float [B, C, h, w], of uint8 images [B, 3, H, W]."""
        ...

    def decode(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 [B, 3, H, W] of x0; `size` = (H, W) crops what encode padded."""
        ...

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of x0 for an image of `size` = (H, W), without running anything."""
        ...

    def log_snr(self, step: int) -> float:
        """log-SNR of noise level `step` (natural logarithm; decreasing in step)."""
        ...

    def denoise(self, z: Tensor, step: int) -> Tensor:
        """x0_hat = E[x0 | z] (same shape as z) for variance-preserving z at noise level `step`."""
        ...
