"""The one interface between diffusion models and codecs.

A prior hides what a model is: pixels or latents; epsilon-, v-, x0- or flow-prediction; continuous or discrete time;
with or without text.  Times are integers 1 (cleanest) .. num_levels (noisiest), so that a schedule is a list of
integers that can be written down in a file, whatever the model.
"""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from ..identity import ModelError

HINTS = ("allocate memory", "not enough memory", "out of memory")  # of RuntimeErrors: torch has no class on the CPU
Reconstruction = Literal["mse", "ensemble", "flow", "ancestral"]


@runtime_checkable
class Prior(Protocol):
    """A diffusion model as a prior over images: all that codecs use of one.  Tensors are batched, on `device`.

    folder          where the model was read from; a calibration (calibration.json) lies there
    device          where tensors live
    fingerprint     4 bytes that identify configuration, weights and calibration (identity.py)
    num_levels      number of timesteps; 0 is clean data, `num_levels` the noisiest
    multiple        an image whose height and width are multiples of this is encoded without padding
    exact           whether denoise gives the same bits on every machine; the codec's own arithmetic then does so, too
    lossless        whether decode(encode(image)) == image, so that lossless codecs can work with it
    reconstruction  how DiffC's decoding ends unless told otherwise (codecs/diffc)
    orientations    how many that reconstruction averages where it is "ensemble", by preset; 8 for others
    schedule        name of the shipped schedule (configs/diffc) for a model without calibration; None: there is none
    """

    folder: Path
    device: torch.device
    fingerprint: bytes
    num_levels: int
    multiple: int = 1
    exact: bool = False
    lossless: bool = False
    reconstruction: Reconstruction = "mse"
    orientations: Mapping[str, int] = MappingProxyType({"fast": 1})
    schedule: str | None = None

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """x0, float32 [B, C, h, w], of unit order of magnitude, of uint8 images [B, 3, H, W].

        Raises ModelError for a size that the model cannot take, and where memory runs out.
        """

    @abstractmethod
    def decode(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 [B, 3, H, W] of x0 [B, C, h, w]; `size` = (H, W) crops what encode padded.

        Raises ModelError where memory runs out.
        """

    @abstractmethod
    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of x0 for an image of `size` = (H, W), without running anything; raises ModelError as encode."""

    @abstractmethod
    def log_snr(self, timestep: int) -> float:
        """log-SNR, natural logarithm, of a timestep from 0 to num_levels; decreasing, +inf where no noise is left."""

    @abstractmethod
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        """x0_hat = E[x0 | z], shape and dtype of z, of variance-preserving z [B, C, h, w] at a timestep of 1 or more.

        conditions  one per image, from `condition`; None: no prompt
        Raises ModelError where memory runs out.
        """

    def condition(self, prompt: str = "", guidance: float = 1.0) -> Any:
        """`prompt` made ready for denoise, with a guidance scale (1: none); None for a model without text.

        Raises ModelError for a prompt or scale that the model knows nothing about.
        """
        if prompt or guidance != 1:
            raise ModelError("this model knows no prompts, so neither --prompt nor --guidance applies")
        return None

    def double(self) -> Self | None:
        """A copy whose denoise takes and gives float64, so that it differs little from machine to machine.

        None where the model has no such form.
        """
        return None


@contextmanager
def enough_memory(device: torch.device, advice: str) -> Iterator[None]:
    """Running out of memory becomes a ModelError that ends with `advice`: what needs less."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(hint in str(error) for hint in HINTS):
            raise
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise ModelError(f"there is not enough memory on {device} for this model or image: {advice}") from error
