"""The integer denoiser's blocks as 8-bit matrix products, for GPUs: the same numbers as every other engine.

PyTorch has no 8-bit convolution for a GPU, but a product of 8-bit matrices with exact sums in 32 bits (cuBLASLt behind
`torch._int_mm`, which also runs on a CPU).  A convolution is one such product once the nine neighbours of every pixel
lie side by side; they are moved as 64-bit words, eight channels at a time, a quarter of what float32 would move.
A block's inner activations, 0..255, are kept less 128 so that they fit into int8, the border included; the bias takes
128 times the sum of the weights back.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernels import upload
from .integer_denoiser import HEAD_MAX, IntegerConvolution, LevelNetwork, convolved, rounded

SHIFT = 128
LEAST_ROWS = 32  # cuBLASLt takes no product of 16 rows or fewer


@dataclass(frozen=True)
class _Product:
    """A convolution of int8 inputs that stand for themselves plus `shift`; the tensors lie on the engine's device.

    weight  int8 [9 in, out], the nine places outermost
    bias    int32 [out], scale float32 [out]: (sum + bias) * scale is the result
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    shift: int

    @classmethod
    def of(cls, layer: IntegerConvolution, shift: int, device: torch.device) -> _Product:
        matrix = layer.weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        bias = layer.bias + shift * matrix.sum(1, dtype=torch.int32)
        return cls(upload(matrix, device).T, upload(bias, device), upload(layer.scale, device), shift)

    def __call__(self, x: Tensor) -> Tensor:
        """float32 [B, h, w, out] of x int8 [B, h, w, in]."""
        columns = neighbours(F.pad(x, (0, 0, 1, 1, 1, 1), value=-self.shift))
        filled = F.pad(columns, (0, 0, 0, max(0, LEAST_ROWS - len(columns))))
        sums = torch._int_mm(filled, self.weight)[: len(columns)]
        return sums.add_(self.bias).mul(self.scale).view(*x.shape[:3], -1)


@dataclass(frozen=True)
class _Level:
    """A LevelNetwork on the engine's device; a block is the scale of its input and its two convolutions."""

    stem: IntegerConvolution
    blocks: list[tuple[Tensor, _Product, _Product]]
    scale: Tensor
    head: IntegerConvolution


class MatmulEngine:
    """8-bit products on `device` for blocks of 8 n channels; the first and the last layer are wider and in float32."""

    name = "int8 products"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._levels: weakref.WeakKeyDictionary[LevelNetwork, _Level] = weakref.WeakKeyDictionary()

    def trunk(self, network: LevelNetwork, x: Tensor) -> Tensor:
        """See Engine.trunk."""
        level = self._levels.get(network)
        if level is None:
            level = self._levels[network] = self._uploaded(network)
        h = convolved(level.stem, x).permute(0, 2, 3, 1).contiguous()
        for scale, conv_in, conv_out in level.blocks:
            hidden = conv_in(h.mul(scale).round_().clamp_(-128, 127).to(torch.int8))
            h += conv_out(hidden.round_().clamp_(0, 255).sub_(SHIFT).to(torch.int8))
        return convolved(level.head, rounded(h.permute(0, 3, 1, 2), level.scale, -HEAD_MAX, HEAD_MAX))

    def _uploaded(self, network: LevelNetwork) -> _Level:
        """`network` on the device; the host does not wait."""
        blocks = [
            (upload(block.scale, self.device), _Product.of(block.conv_in, 0, self.device),
             _Product.of(block.conv_out, SHIFT, self.device))
            for block in network.blocks
        ]  # fmt: skip
        scale = upload(network.scale, self.device)
        return _Level(network.stem.on(self.device), blocks, scale, network.head.on(self.device))


def neighbours(padded: Tensor) -> Tensor:
    """The 3 x 3 neighbours of every pixel of int8 [B, h + 2, w + 2, C], without the border: [B h w, 9 C]."""
    batch, height, width, channels = padded.shape
    words = padded.view(torch.int64)  # 8 channels each
    image, row, pixel, one = words.stride()
    three_pixels = 3 * channels // 8  # lie one behind the other
    windows = words.as_strided((batch, height - 2, width - 2, 3, three_pixels), (image, row, pixel, row, one))
    return windows.reshape(-1, 3 * three_pixels).view(torch.int8)
