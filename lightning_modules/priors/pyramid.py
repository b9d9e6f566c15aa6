"""One denoiser at several scales: where the noise is strong, half the resolution shows more.

Averaging 2 x 2 pixels halves the noise's deviation, so the same network works there at four times the signal-to-noise
ratio and sees twice as far; what is lost are details, which strong noise hides anyway.  With D the network, P the
average over 2 x 2 pixels, U bicubic interpolation and l the log-SNR, the estimate is

    E(z, l) = own D(z, l) + smooth U P D(z, l) + coarse U E(P z, l + log 4)

with three weights that depend on l only, because pictures look alike at all scales.  They are fitted by least squares
(codecs/diffc/calibrate.py) and lie beside the weights, in prior.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.tiling import crop, mirror_to_multiple, pad_to

Network = Callable[[Tensor, float], Tensor]  # (variance-preserving z [B, C, h, w], log-SNR) -> x0_hat in [-1, 1]
Node = tuple[float, float, float, float]  # log-SNR; own, smooth, coarse


@dataclass(frozen=True)
class Pyramid:
    """The mixture of scales.

    nodes     weights at ascending log-SNRs, between which they are interpolated; below the first they stay as they
              are, above the last there is only the network itself
    multiple  height and width that the network accepts are multiples of this
    exact     compute by single IEEE operations in a fixed order, so that every machine gets the same bits
    """

    nodes: Sequence[Node]
    multiple: int
    exact: bool = False

    def weights(self, log_snr: float) -> tuple[float, float, float]:
        """(own, smooth, coarse) at `log_snr`."""
        if not self.nodes or log_snr > self.nodes[-1][0]:
            return 1.0, 0.0, 0.0
        at, *columns = zip(*self.nodes, strict=True)
        own, smooth, coarse = (float(np.interp(log_snr, at, column)) for column in columns)
        return own, smooth, coarse

    def estimate(self, network: Network, z: Tensor, log_snr: float) -> Tensor:
        """x0_hat [B, C, h, w] in [-1, 1] of variance-preserving z [B, C, h, w]; h and w are arbitrary."""
        own, smooth, coarse = self.weights(log_snr)
        size, z = (z.shape[-2], z.shape[-1]), mirror_to_multiple(z, self.multiple)
        if not coarse or min(z.shape[-2:]) < 2 * self.multiple:
            return crop(network(z, log_snr), size)
        mixed = coarse * self._from_half(network, z, log_snr)
        if own or smooth:
            full = network(z, log_snr)
            mixed += own * full + smooth * self._double(self._average(full))
        return crop(mixed.clamp(-1, 1), size)

    def terms(self, network: Network, z: Tensor, log_snr: float) -> Tensor:
        """[3, B, C, h, w]: what own, smooth and coarse are the weights of; h and w are multiples of `multiple`."""
        full = network(z, log_snr)
        return torch.stack([full, self._double(self._average(full)), self._from_half(network, z, log_snr)])

    def _from_half(self, network: Network, z: Tensor, log_snr: float) -> Tensor:
        """U E(P z), where P z is scaled to unit variance again."""
        signal = 1.0 / (1.0 + math.exp(-log_snr))  # alpha^2
        # a divisor on z's device: by a Python number a GPU does not divide, it multiplies with the rounded reciprocal
        scale = torch.full((), math.sqrt(signal + (1.0 - signal) / 4.0), dtype=z.dtype, device=z.device)
        half = self._average(z) / scale
        return self._double(self.estimate(network, half, log_snr + math.log(4.0)))


    def _average(self, image: Tensor) -> Tensor:
        return exact_average(image) if self.exact else F.avg_pool2d(image, 2)

    def _double(self, image: Tensor) -> Tensor:
        if self.exact:
            return exact_double(image)
        return F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)


def exact_average(image: Tensor) -> Tensor:
    """The mean of every 2 x 2 pixels, [B, C, h / 2, w / 2]."""
    rows = image[..., 0::2, :] + image[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def exact_double(image: Tensor) -> Tensor:
    """Bicubic interpolation (Keys 1981, a = -3/4) to twice the size, as F.interpolate computes it, but for rounding."""
    return _doubled_rows(_doubled_rows(image).mT).mT


def _doubled_rows(image: Tensor) -> Tensor:
    """[..., 2 h, w]: row 2 i lies a quarter above row i, row 2 i + 1 a quarter below; the border is repeated."""
    h, w = image.shape[-2:]
    padded = pad_to(pad_to(image, h + 2, w).flip(-2), h + 4, w).flip(-2)  # two rows at each end
    a, b, c, d, e = (padded[..., k : k + h, :] for k in range(5))
    far, near, next_, beyond = (weight / 256 for weight in (-27.0, 225.0, 67.0, -9.0))
    above = a * beyond + b * next_ + c * near + d * far
    below = b * far + c * near + d * next_ + e * beyond
    return torch.stack([above, below], dim=-2).flatten(-3, -2)
