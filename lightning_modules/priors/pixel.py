"""Pixel-space priors: networks that denoise the image itself, without an autoencoder in front.

:class:`DenoiserPrior` is the shipped noise-conditional denoiser, :class:`UNet2DPrior` any diffusers ``UNet2DModel``
(a model folder or a DDPM/DDIM pipeline folder).  The VDM score network has its own module, vdm.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from ...data.tiling import apply_tiled, crop, pad_to_multiple
from ..diffusion.gaussian import PREDICTIONS, x0_from_prediction
from ..diffusion.pixels import from_signed, to_signed
from ..identity import ModelError, fingerprint, read_json
from ..networks.denoiser import Denoiser
from ..networks.integer_denoiser import IntegerDenoiser
from .interface import Prior, Reconstruction, enough_memory
from .pyramid import Pyramid


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


class DenoiserPrior(PixelPrior):
    """The shipped prior: timesteps evenly spaced in log-SNR over the range that the network was trained for.

    dtype    float16 or bfloat16: the network's layers compute in it, everything around them in float32, so that a file
             written in one precision decodes in another (a lossless one does not)
    tile     side in pixels above which the network runs piece by piece, so that any photo fits in memory
    overlap  context of each piece: the network's receptive field is within it, so tiling does not show
    pyramid  how estimates at lower resolutions enter (pyramid.py), from prior.json; without it they do not
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
