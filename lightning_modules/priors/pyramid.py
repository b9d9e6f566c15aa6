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

from ...data.tiling import crop, mirror_to_multiple

Network = Callable[[Tensor, float], Tensor]  # (variance-preserving z [B, C, h, w], log-SNR) -> x0_hat in [-1, 1]
Node = tuple[float, float, float, float]  # log-SNR; own, smooth, coarse


@dataclass(frozen=True)
class Pyramid:
    """The mixture of scales.

    nodes     weights at ascending log-SNRs, between which they are interpolated; below the first they stay as they
              are, above the last there is only the network itself
    multiple  height and width that the network accepts are multiples of this
    """

    nodes: Sequence[Node]
    multiple: int

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
            mixed += own * full + smooth * _double(F.avg_pool2d(full, 2))
        return crop(mixed.clamp(-1, 1), size)

    def terms(self, network: Network, z: Tensor, log_snr: float) -> Tensor:
        """[3, B, C, h, w]: what own, smooth and coarse are the weights of; h and w are multiples of `multiple`."""
        full = network(z, log_snr)
        return torch.stack([full, _double(F.avg_pool2d(full, 2)), self._from_half(network, z, log_snr)])

    def _from_half(self, network: Network, z: Tensor, log_snr: float) -> Tensor:
        """U E(P z), where P z is scaled to unit variance again."""
        signal = 1.0 / (1.0 + math.exp(-log_snr))  # alpha^2
        half = F.avg_pool2d(z, 2) / math.sqrt(signal + (1.0 - signal) / 4.0)
        return _double(self.estimate(network, half, log_snr + math.log(4.0)))


def _double(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)
