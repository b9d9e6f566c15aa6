"""Learned codecs of CompressAI behind the codec protocol, for comparison; the package and its weights are optional.

A file is 8 bytes (architecture; distortion and quality; checksum of the weights in 2; height and width in 2 each), the
length of the latents' string (LEB128), that string, and the hyperlatents' string where the architecture has one.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.tiling import crop, pad_to_multiple
from .. import container
from ..base import CodecError
from .pillow import NativeCodec

# Position is the number in the file.  The autoregressive ones take minutes per photo, on the CPU alone.
ARCHITECTURES = (
    "bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", "cheng2020-anchor", "cheng2020-attn",
)  # fmt: skip
METRICS = ("mse", "ms-ssim")
MULTIPLE = 64  # what every architecture's downsampling divides


@dataclass(frozen=True)
class CompressAI(NativeCodec):
    """One of CompressAI's pretrained models, on the CPU.

    architecture  one of ARCHITECTURES
    quality       1 (smallest) .. 8; 6 for the cheng2020 models
    metric        distortion the model was trained for: "mse" or "ms-ssim"
    weights       file of a state_dict to use; None: the published weights, which CompressAI downloads
    """

    name = "compressai"
    suffix = ".cai"
    ranges = (("quality", 1, 8),)
    choices = (("architecture", ARCHITECTURES), ("metric", METRICS))
    architecture: str = "mbt2018-mean"
    quality: int = 4
    metric: str = "mse"
    weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture.startswith("cheng") and self.quality > 6:
            raise CodecError(f"compressai: quality must be between 1 and 6, got {self.quality}")
        _zoo()

    @cached_property
    def _network(self) -> Any:
        zoo = _zoo()
        try:
            if self.weights is None:
                network = zoo.image_models[self.architecture](self.quality, metric=self.metric, pretrained=True)
            else:
                state = torch.load(Path(self.weights), map_location="cpu", weights_only=True)
                network = zoo.image.model_architectures[self.architecture].from_state_dict(state)
        except Exception as error:  # whatever a download or a foreign checkpoint can raise
            what = f"the weights in {self.weights}" if self.weights else "the published weights"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CodecError(f"compressai {self.architecture}: {what} could not be loaded ({reason})") from None
        network.eval().update(force=True)
        return network

    @cached_property
    def _head(self) -> bytes:
        """Architecture, distortion and quality, checksum of the weights."""
        digest = 0
        for _, value in sorted(self._network.named_parameters()):
            digest = zlib.crc32(value.detach().numpy().tobytes(), digest)
        kind = METRICS.index(self.metric) << 4 | self.quality
        return bytes([ARCHITECTURES.index(self.architecture), kind]) + (digest & 0xFFFF).to_bytes(2, "little")

    @torch.inference_mode()
    def _write(self, image: Tensor) -> bytes:
        height, width = image.shape[1:]
        if max(height, width) > 0xFFFF:
            raise CodecError("compressai cannot encode images of more than 65535 pixels a side")
        coded = self._network.compress(pad_to_multiple(image, MULTIPLE)[None].float() / 255)
        latents, *hyper = (one[0] for one in coded["strings"])
        size = height.to_bytes(2, "little") + width.to_bytes(2, "little")
        return self._head + size + container.varint(len(latents)) + latents + b"".join(hyper)

    @torch.inference_mode()
    def _read(self, data: bytes) -> Tensor:
        if len(data) < 9 or data[:2] != self._head[:2]:
            raise CodecError(f"not a file of compressai {self.architecture}, quality {self.quality}, {self.metric}")
        if data[:4] != self._head:
            raise CodecError("the file was written with other weights than those loaded")
        size = int.from_bytes(data[4:6], "little"), int.from_bytes(data[6:8], "little")
        try:
            length, start = container.read_varint(data, 8)
        except container.Truncated:
            raise CodecError("the compressai file is cut") from None
        strings = [data[start : start + length]]
        factorized = "factorized" in self.architecture
        if not factorized:
            strings.append(data[start + length :])
        step = 16 if factorized else 64
        shape = [-(-side // MULTIPLE) * MULTIPLE // step for side in size]
        if 0 in size or length + start > len(data):
            raise CodecError("the compressai file is cut")
        x_hat = self._network.decompress([[one] for one in strings], shape)["x_hat"][0]
        return crop(x_hat, size).mul(255).round().clamp(0, 255).byte().contiguous()


def _zoo() -> Any:
    try:
        import compressai.zoo
        import compressai.zoo.image
    except ImportError as error:
        raise CodecError(f"compressai needs the package compressai, which cannot be imported ({error})") from None
    return compressai.zoo
