"""Latent-space priors: what all diffusers pipelines have in common, whatever their network predicts.

:class:`LatentPrior` is the autoencoder, the text conditioning with its guidance, devices, precision and memory.
stable_diffusion.py (epsilon- and v-prediction: SD 1.5, SD 2.1, SDXL with refiner) and flow.py (flow matching: SD 3,
Flux) add how the network is called.  x0 is the scaled latent, the mode of the autoencoder's posterior.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...data.tiling import crop, pad_to_multiple
from ...kernels import upload
from ..diffusion.pixels import from_signed, to_signed
from ..identity import ModelError
from .components import load_pipeline
from .interface import Prior, Reconstruction, enough_memory
from .offloading import LayersInTurn

Text = tuple[Tensor, ...]  # what a network is told about one prompt, each [1, ...]
Offload = Literal["none", "model", "layers"]
CACHED_PROMPTS = 64


@dataclass(frozen=True, eq=False)
class Condition:
    """A prompt ready for the network; made by LatentPrior.condition, used by LatentPrior.denoise.

    guidance  scale of guidance, 1 for none
    texts     the prompt's embeddings, then the empty prompt's where classifier-free guidance needs both
    """

    guidance: float
    texts: tuple[Text, ...]


class LatentPrior(Prior):
    """A diffusers pipeline as a Prior.

    folder          pipeline folder as diffusers saves it, or a snapshot of the hub
    device          where networks run and tensors live
    dtype           of the networks, or its name; None: float32 on the CPU, the family's half precision elsewhere
    variant         weights with this in their file names, e.g. "fp16"; None: those without, if there are any
    compile         run the network through torch.compile: minutes at first, then faster
    offload         "model": autoencoder, text encoders and network wait in main memory and take turns on the device;
                    "layers": the network's layers do so one by one (slow, for networks larger than the device)
    tile            side in pixels above which the autoencoder works on overlapping tiles, a multiple of 64
    Everything outside the networks is float32.  Raises ModelError.
    """

    reconstruction: Reconstruction = "flow"
    half = torch.float16  # precision on a GPU
    network_name = "unet"

    def __init__(
        self,
        folder: Path,
        device: str | torch.device = "cpu",
        *,
        dtype: str | torch.dtype | None = None,
        variant: str | None = None,
        compile: bool = False,
        offload: Offload = "none",
        tile: int = 1024,
    ) -> None:
        self.folder, self.device, self.offload = folder, torch.device(device), offload
        if offload not in get_args(Offload):
            raise ModelError(f"offload must be one of {', '.join(get_args(Offload))}, not {offload!r}")
        if tile < 64 or tile % 64:
            raise ModelError(f"the autoencoder's tile must be a multiple of 64 pixels, not {tile}")
        self.dtype = as_dtype(dtype, torch.float32 if self.device.type == "cpu" else self.half)
        with self._enough_memory():
            self.pipeline, self.variant, self.fingerprint = load_pipeline(folder, self.dtype, variant)
        self.vae: Any = self.pipeline.vae
        network = getattr(self.pipeline, self.network_name)
        config = self.vae.config
        self.scale, self.shift = config.scaling_factor, config.get("shift_factor") or 0.0
        self.channels = config.latent_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)  # pixels per latent, each way
        self.multiple, self.smallest = self.factor, self.factor  # sides of images; the families know better
        self.largest: int | None = None
        self._parts = {
            "network": [network],
            "autoencoder": [self.vae],
            "text": [part for name, part in self.pipeline.components.items() if "text_encoder" in name and part],
        }
        self.network = self._prepare(network, compile)
        self.vae.to(memory_format=torch.channels_last).enable_tiling()
        self.vae.tile_sample_min_size, self.vae.tile_latent_min_size = tile, tile // self.factor
        if offload == "none":
            with self._enough_memory():
                for modules in self._parts.values():
                    for module in modules:
                        module.to(self.device)
        self._texts: dict[str, Text] = {}
        self._log_snr = self._log_snrs()
        self.num_levels = len(self._log_snr) - 1

    def _prepare(self, network: Any, compile: bool) -> Any:
        network.to(memory_format=torch.channels_last)
        if self.offload == "layers" and self.device.type == "cuda":
            with self._enough_memory():
                LayersInTurn(network, self.device)
        if not compile:
            return network
        # CUDA graphs, one for each size: some hundred launches cost more than what they launch; weights must stay put
        graphs = self.device.type == "cuda" and self.offload == "none"
        return torch.compile(network, mode="reduce-overhead" if graphs else None)

    # ---- what a family of models adds -----------------------------------------------------------------------------

    @abstractmethod
    def _log_snrs(self) -> list[float]:
        """log-SNR of timesteps 0 (clean: +inf) to num_levels."""

    @abstractmethod
    def _embed(self, prompt: str) -> Text:
        """Embeddings of a prompt, in the network's precision."""

    @abstractmethod
    def _predict(self, z: Tensor, timestep: int, text: Text, guidance: Tensor) -> Tensor:
        """x0_hat, float32, of variance-preserving z [B, C, h, w], float32; text and guidance of B rows."""

    def _guides_itself(self) -> bool:
        """Whether the network takes the guidance scale as an input, instead of being run with and without prompt."""
        return False

    # ---- the Prior interface ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Tensor:
        """x0 float32 [B, C, h, w] of uint8 [B, 3, H, W]; ModelError where the image is too small or too large."""
        self.shape((image.shape[-2], image.shape[-1]))
        pixels = to_signed(pad_to_multiple(image.to(self.device), self.multiple))
        with self._using("autoencoder"):
            latent = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return ((latent.float() - self.shift) * self.scale).contiguous()

    @torch.inference_mode()
    def decode(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 [B, 3, H, W], rounded, of x0 [B, C, h, w]; `size` = (H, W)."""
        with self._using("autoencoder"):
            pixels = self.vae.decode((x0 / self.scale + self.shift).to(self.vae.dtype)).sample
        return from_signed(crop(pixels.float(), size))

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of x0 for an image of `size` = (H, W); ModelError where the model cannot take it."""
        height, width = size
        if min(size) < self.smallest:
            least = f"{self.smallest} x {self.smallest}"
            raise ModelError(f"a {width} x {height} image is smaller than the {least} pixels this model takes")
        if self.largest is not None and max(size) > self.largest:
            raise ModelError(f"a {width} x {height} image exceeds the {self.largest} pixels a side this model takes")
        rows, columns = (-(-side // self.multiple) * self.multiple // self.factor for side in size)
        return self.channels, rows, columns

    def log_snr(self, timestep: int) -> float:
        """See Prior.log_snr."""
        return self._log_snr[timestep]

    @torch.inference_mode()
    def condition(self, prompt: str = "", guidance: float = 1.0) -> Condition:
        """`prompt` made ready for denoise, with a guidance scale (1: none; it needs a prompt to have an effect)."""
        if not self._guides_itself() and prompt and guidance != 1:
            return Condition(guidance, (self._text(prompt), self._text("")))
        return Condition(guidance, (self._text(prompt),))

    @torch.inference_mode()
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Condition] | None = None) -> Tensor:
        """See Prior.denoise."""
        if conditions is None:
            conditions = [self.condition()] * len(z)
        rows = [number for number, condition in enumerate(conditions) for _ in condition.texts]
        texts = [text for condition in conditions for text in condition.texts]
        text = texts[0] if len(texts) == 1 else tuple(torch.cat(column) for column in zip(*texts, strict=True))
        guidance = upload(torch.tensor([conditions[row].guidance for row in rows]), self.device)
        with self._using("network"):
            # stack: an index would be copied to a GPU and waited for
            x_hat = self._predict(torch.stack([z[row] for row in rows]), timestep, text, guidance)
        if len(rows) == len(z):
            return x_hat.contiguous()
        estimates, row = [], 0
        for condition in conditions:
            with_prompt, without = x_hat[row], x_hat[row + len(condition.texts) - 1]
            # Ho and Salimans 2022, eq. 6; x0_hat is affine in what any network predicts, so it may be applied here
            estimates.append(without + condition.guidance * (with_prompt - without) if with_prompt is not without
                             else with_prompt)
            row += len(condition.texts)
        return torch.stack(estimates)

    # ---- devices and memory -----------------------------------------------------------------------------------------

    def _text(self, prompt: str) -> Text:
        if prompt not in self._texts:
            if len(self._texts) >= CACHED_PROMPTS:
                self._texts.clear()
            with self._using("text"):
                embedded = self._embed(prompt)
            self._texts[prompt] = tuple(part.to(self.device, self.dtype) for part in embedded)
        return self._texts[prompt]

    @contextmanager
    def _using(self, part: str) -> Iterator[None]:
        """Run one part of the model, alone on the device if offloading."""
        with self._enough_memory():
            if self.offload != "none":
                for name, modules in self._parts.items():
                    for module in modules:
                        if name != "network" or self.offload == "model":
                            module.to(self.device if name == part else "cpu")
            yield

    def _enough_memory(self) -> AbstractContextManager[None]:
        """Running out of memory becomes a ModelError that says what can be done."""
        return enough_memory(self.device, "--dtype bfloat16, --offload model or layers, or --tile 512 need less")


def as_dtype(name: str | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """The torch type of that name ("float32", "float16" or "bfloat16"); None gives `default`; raises ModelError."""
    if name is None or isinstance(name, torch.dtype):
        return name or default
    types = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in types:
        raise ModelError(f"unknown dtype {name!r}; available: {', '.join(types)}")
    return types[name]
