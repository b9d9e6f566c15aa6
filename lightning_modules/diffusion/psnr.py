"""Peak signal-to-noise ratio of 8-bit images: the one definition, for evaluation and for TensorBoard alike."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(image: Tensor, original: Tensor) -> Tensor:
    """PSNR in dB of each image, float64 [B]: 10 log10(255^2 / MSE), the MSE over all samples of one image.

    image, original  [B, C, H, W], uint8 or real numbers on the same scale of 0 to 255; equal images give infinity

    Average the values of images; the PSNR of a batch's mean squared error is another, lower figure.
    """
    mse = (image.double() - original.double()).square().mean((-3, -2, -1))
    return 10.0 * torch.log10(255.0**2 / mse)
