"""Pixel-space priors: networks that denoise the image itself, without an autoencoder in front.

:class:`DenoiserPrior` is the shipped noise-conditional denoiser, :class:`UNet2DPrior` any diffusers ``UNet2DModel``
(a model folder or a DDPM/DDIM pipeline folder).  The VDM score network has its own module, vdm.py.

Where the noise is strong, half the resolution shows more (:class:`Pyramid`): averaging 2 x 2 pixels halves the noise's
deviation, so the same network works there at four times the signal-to-noise ratio and sees twice as far; what is lost
are details, which strong noise hides anyway.  With D the network, P the average over 2 x 2 pixels, U bicubic
interpolation and l the log-SNR, the estimate is

    E(z, l) = own D(z, l) + smooth U P D(z, l) + coarse U E(P z, l + log 4)

with three weights that depend on l only, because pictures look alike at all scales.  They are fitted by least squares
(codecs/diffc/calibrate.py) and lie beside the weights, in prior.json.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.tiling import apply_tiled, crop, mirror_to_multiple, pad_to, pad_to_multiple
from ..diffusion.gaussian import PREDICTIONS, x0_from_prediction
from ..diffusion.pixels import from_signed, to_signed
from ..identity import ModelError, fingerprint, read_json
from ..networks.denoiser import Denoiser
from ..networks.integer_denoiser import IntegerDenoiser
from .interface import Prior, Reconstruction, enough_memory

Network = Callable[[Tensor, float], Tensor]  # (variance-preserving z [B, C, h, w], log-SNR) -> x0_hat in [-1, 1]
Node = tuple[float, float, float, float]  # log-SNR; own, smooth, coarse


class PixelPrior(Prior):
    """What pixel-space priors share: x0 is the image in [-1, 1] (`to_signed`), padded to what the network divides by.

    network     what `denoise` runs, set by subclasses
    half        precision of the network's layers (autocast); None: that of its weights
    needs_less  what to do where memory is too small
    """

    lossless = True
    num_levels = 1000
    network: Any
    half: torch.dtype | None = None
    needs_less = "a smaller image needs less"

    def __init__(self, folder: Path, device: torch.device, multiple: int) -> None:
        self.folder, self.device, self.multiple = folder, device, multiple
        self.fingerprint = fingerprint(folder)

    def encode(self, image: Tensor) -> Tensor:
        """float32 [B, 3, h, w] in [-1, 1] of uint8 [B, 3, H, W], edge-replicated to the next multiple."""
        return to_signed(pad_to_multiple(image.to(self.device), self.multiple))

    def decode(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 [B, 3, H, W], rounded, of x0 [B, 3, h, w]; `size` = (H, W)."""
        return from_signed(crop(x0, size))

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(3, h, w) of x0 for an image of (H, W) = `size`."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return 3, height, width

    def double(self) -> Self | None:
        """See Prior.double."""
        other = copy.copy(self)
        other.network, other.half = copy.deepcopy(self.network).double(), None
        return other

    def evaluate(self, *inputs: Any) -> Any:
        """The network's output, by `half` precision where that is set; ModelError where memory is too small for it."""
        with enough_memory(self.device, self.needs_less):
            if self.half is None:
                return self.network(*inputs)
            with torch.autocast(self.device.type, self.half):
                return self.network(*inputs)


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


class DenoiserPrior(PixelPrior):
    """The shipped prior: timesteps evenly spaced in log-SNR over the range that the network was trained for.

    dtype    float16 or bfloat16: the network's layers compute in it, everything around them in float32, so that a file
             written in one precision decodes in another (a lossless one does not)
    tile     side in pixels above which the network runs piece by piece, so that any photo fits in memory
    overlap  context of each piece: the network's receptive field is within it, so tiling does not show
    pyramid  how estimates at lower resolutions enter (Pyramid), from prior.json; without it they do not
    """

    # up to 0.2 dB for seven more evaluations (docs/decisions/0051-ensemble.md)
    reconstruction: Reconstruction = "ensemble"
    needs_less = "--dtype bfloat16 or --tile 512 need less"

    def __init__(
        self, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
        tile: int = 1536, overlap: int = 192,
    ) -> None:
        network = Denoiser.load(folder)
        super().__init__(folder, torch.device(device), network.multiple)
        with enough_memory(self.device, self.needs_less):
            network = network.to(self.device).to(memory_format=torch.channels_last)
        self.network = network.eval().requires_grad_(False)
        self.half = None if dtype == torch.float32 else dtype
        self._read_settings(tile, overlap)

    def _read_settings(self, tile: int, overlap: int) -> None:
        self.tile, self.overlap = tile, overlap
        settings = read_json(self.folder / "prior.json")
        self.clean, self.noisy = settings["log_snr"]
        self.pyramid = Pyramid([tuple(node) for node in settings.get("pyramid", [])], self.multiple, self.exact)

    def log_snr(self, timestep: int) -> float:
        return self.clean + (self.noisy - self.clean) * timestep / self.num_levels

    @torch.inference_mode()
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        return self.pyramid.estimate(self.own_estimate, z, self.log_snr(timestep)).contiguous()

    @torch.inference_mode()
    def own_estimate(self, z: Tensor, log_snr: float) -> Tensor:
        """x0_hat as the network gives it, at full resolution alone."""
        log_snrs = torch.full((len(z),), log_snr, dtype=z.dtype, device=z.device)

        def network(piece: Tensor) -> Tensor:
            return self.evaluate(piece.contiguous(memory_format=torch.channels_last), log_snrs)

        return apply_tiled(network, z, self.tile, self.overlap).clamp(-1, 1)


class IntegerPrior(DenoiserPrior):
    """The shipped prior in integers (networks/integer_denoiser.py): the same estimates on every machine."""

    exact = True
    orientations = MappingProxyType({"fast": 2, "default": 4})

    def __init__(self, folder: Path, device: str | torch.device = "cpu", tile: int = 1024) -> None:
        self.integers = IntegerDenoiser.load(folder).to(torch.device(device))
        PixelPrior.__init__(self, folder, torch.device(device), self.integers.multiple)
        self._read_settings(tile, self.integers.reach)

    def own_estimate(self, z: Tensor, log_snr: float) -> Tensor:
        """See DenoiserPrior.own_estimate."""
        with enough_memory(self.device, self.needs_less):
            return apply_tiled(lambda piece: self.integers(piece, log_snr), z, self.tile, self.overlap).clamp(-1, 1)

    def double(self) -> Self:
        """Itself: nothing in it depends on the machine."""
        return self


class UNet2DPrior(PixelPrior):
    """A diffusers ``UNet2DModel`` with its scheduler: epsilon-, sample- or v-prediction over 1000 (or so) timesteps.

    Timestep t counts from 1 and uses ``alphas_cumprod[t - 1]``: it is the model's own timestep t - 1.
    """

    def __init__(
        self, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        from diffusers import DDPMScheduler, UNet2DModel

        pipeline = (folder / "model_index.json").is_file()
        network = UNet2DModel.from_pretrained(
            folder / "unet" if pipeline else folder, local_files_only=True, torch_dtype=dtype, low_cpu_mem_usage=False
        )
        settings = folder / "scheduler" if pipeline else folder
        if not (settings / "scheduler_config.json").is_file():
            raise ModelError(f"{folder} has no scheduler_config.json, which says the model's noise levels")
        scheduler = DDPMScheduler.from_pretrained(settings, local_files_only=True)
        if network.config["in_channels"] != 3:
            raise ModelError(f"{folder} denoises {network.config['in_channels']} channels; an RGB image has 3")
        self.prediction = scheduler.config["prediction_type"]
        if self.prediction not in PREDICTIONS:
            raise ModelError(f"{folder} has the unknown prediction type {self.prediction!r}")
        self.alphas_cumprod = scheduler.alphas_cumprod.double()
        self.num_levels = len(self.alphas_cumprod)
        self.network = network.to(device).eval().requires_grad_(False)
        super().__init__(folder, torch.device(device), 2 ** (len(network.config["block_out_channels"]) - 1))

    def log_snr(self, timestep: int) -> float:
        return float(torch.logit(self.alphas_cumprod[timestep - 1])) if timestep else float("inf")

    @torch.inference_mode()
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        output = self.evaluate(z.to(self.network.dtype), timestep - 1).sample.to(z.dtype)
        return x0_from_prediction(self.prediction, z, output, self.log_snr(timestep)).clamp(-1, 1)
