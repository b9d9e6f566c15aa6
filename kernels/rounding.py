"""Rounding of activations to bytes in one pass; torch needs five."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .viterbi_numba import compiled


@compiled
def _to_uint8(h: NDArray[np.float32], scale: NDArray[np.float32], out: NDArray[np.uint8]) -> Any:
    for i in range(h.shape[0]):
        for c in range(h.shape[1]):
            value = min(max(np.rint(h[i, c] * scale[c]), np.float32(-128)), np.float32(127))
            out[i, c] = np.uint8(np.int32(value) + 128)


def to_uint8(h: Tensor, scale: Tensor, out: Tensor) -> None:
    """128 + round(scale * h), half to even, clamped to 0..255, into `out`.

    h      float32 [B, C, h, w], channels_last
    scale  float32 [C]
    out    uint8, of the shape and strides of h
    """
    _to_uint8(_pixels(h), scale.numpy(), _pixels(out))


def _pixels(x: Tensor) -> NDArray[Any]:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy()  # a view: x is channels_last
