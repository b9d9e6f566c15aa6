"""A shared random rotation of R^d that spreads the energy of mu evenly over the coordinates.

Signs, then a fast Walsh-Hadamard transform over blocks of strided coordinates.  p = N(0, v I) is isotropic, so its law
does not change.  Every output is a fixed tree of single additions and one product, so the float32 result is the same
on every device and for every number of threads.  The rotation is orthogonal up to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_BLOCK = 15  # 2^15 coordinates are mixed with each other; more passes cost time and even out no further


def _walsh_hadamard(x: Tensor, block: int) -> Tensor:
    """Orthonormal transform of every column of x viewed as [block, len(x) // block]; block is a power of two."""
    columns = len(x) // block
    source, target = x.clone(), torch.empty_like(x)
    half = 1
    while half < block:
        a, b = source.view(-1, 2, half * columns).unbind(1)
        out = target.view(-1, 2, half * columns)
        torch.add(a, b, out=out[:, 0])
        torch.sub(a, b, out=out[:, 1])
        source, target = target, source
        half *= 2
    return source.mul_(math.sqrt(1.0 / block))


def _windows(size: int) -> tuple[int, list[slice]]:
    """Block length and the one or two overlapping windows, multiples of it, that cover all coordinates."""
    block = 1 << min(MAX_LOG_BLOCK, size.bit_length() - 1)
    covered = size // block * block
    return block, [slice(0, covered)] + ([slice(size - covered, size)] if covered < size else [])


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    """Rotated copy of x float32 [d]; signs float32 [d] of +1 and -1 select the rotation."""
    block, windows = _windows(len(x))
    y = x.clone()
    for window, sign in zip(windows, (signs, signs.flip(0)), strict=False):
        # new signs before the second window: without them it would undo most of the first
        y *= sign
        y[window] = _walsh_hadamard(y[window], block)
    return y


def rotate_back(y: Tensor, signs: Tensor) -> Tensor:
    """The inverse of `rotate`."""
    block, windows = _windows(len(y))
    x = y.clone()
    for window, sign in reversed(list(zip(windows, (signs, signs.flip(0)), strict=False))):
        x[window] = _walsh_hadamard(x[window], block)
        x *= sign
    return x
