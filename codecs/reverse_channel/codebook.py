"""How the coordinates of a step meet Gaussian codewords: rotated, dealt out to rows, scored against a codebook.

`rotate` spreads the energy of mu evenly: signs, then a fast Walsh-Hadamard transform over blocks of strided
coordinates.  p = N(0, v I) is isotropic, so its law does not change.  Every output is a fixed tree of single additions
and one product, so the float32 result is the same on every device and for every number of threads.

`CoordinateRows` are the coordinates of the trellis stages or PFR chunks.  They differ in length by little, so a matrix
product handles them as blocks of equal size, padded with zeros.

A `Codebook` is a matrix of at most MAX_COLUMNS columns that both sides draw from the shared randomness.  A row of
coordinates that is longer is cut into blocks, and block b of codeword i is row (i + offset_b) mod K of the matrix.
With signs of its own for every coordinate this has the law of a longer codeword, and the matrix stays small however
many coordinates a row owns.  Method: docs/method/reverse-channel.md, section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels import Backend, upload

MAX_COLUMNS = 512  # coordinates of a block at most; a multiple of 8, the normals in one Philox counter
MAX_SCORES = 1 << 25  # block scores held at once, 128 MiB
ROW_OFFSET = 40503  # odd, so that the blocks of a codeword take distinct rows of a matrix of 2^m rows
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


@dataclass(frozen=True, eq=False)
class CoordinateRows:
    """Rows of coordinates: row r owns the coordinates edges[r] to edges[r + 1].

    edges  int64 [R + 1], on the CPU, ascending from 0 to d
    """

    edges: Tensor
    _positions: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @property
    def lengths(self) -> Tensor:
        """Coordinates of each row, int64 [R]."""
        return self.edges.diff()

    @property
    def blocks(self) -> int:
        """Blocks into which each row is cut."""
        return max(1, -(-int(self.lengths.max()) // MAX_COLUMNS))

    @property
    def columns(self) -> int:
        """Coordinates of one block, padding included."""
        return max(1, -(-int(self.lengths.max()) // self.blocks))

    def pad(self, x: Tensor) -> Tensor:
        """x float32 [d] as zero-padded blocks, float32 [R, blocks, columns]."""
        shape = len(self.edges) - 1, self.blocks, self.columns
        padded_size = shape[0] * shape[1] * shape[2]
        if padded_size == len(x):
            return x.view(shape)
        padded = torch.zeros(padded_size, device=x.device)
        padded[self._positions_on(x.device)] = x
        return padded.view(shape)

    def unpad(self, padded: Tensor) -> Tensor:
        """The inverse of `pad`: float32 [R, blocks, columns] -> [d]."""
        if padded.numel() == int(self.edges[-1]):
            return padded.reshape(-1)
        return padded.reshape(-1)[self._positions_on(padded.device)]

    def _positions_on(self, device: torch.device) -> Tensor:
        """Where each coordinate lies in the padded matrix, flattened, int64 [d]; made on the device and kept."""
        if device not in self._positions:
            size, lengths = int(self.edges[-1]), self.lengths
            skipped = torch.arange(len(lengths)) * (self.columns * self.blocks) - self.edges[:-1]
            per_row = upload(torch.stack([skipped, lengths]), device)  # one small copy; the rest stays there
            each = torch.repeat_interleave(per_row[0], per_row[1], output_size=size)
            self._positions[device] = each.add_(torch.arange(size, device=device))
        return self._positions[device]


def equal_edges(total: int, parts: int) -> NDArray[np.int64]:
    """Edges int64 [parts + 1], from 0 to `total`, of nearly equal integer shares."""
    return np.arange(parts + 1, dtype=np.int64) * total // parts


@dataclass(frozen=True)
class Codebook:
    """`size` codewords for rows of `blocks` times `columns` coordinates, drawn from Philox (key, stream)."""

    backend: Backend
    key: int
    stream: int
    size: int
    blocks: int
    columns: int

    def matrix(self) -> Tensor:
        """All rows of the matrix, float32 [size, columns]."""
        rows = torch.arange(self.size, device=self.backend.device)
        return self.backend.normal_rows(self.key, self.stream, rows, self.columns, MAX_COLUMNS // 8)

    def scores(self, matrix: Tensor, mu: Tensor) -> Tensor:
        """<mu_r, z_i> for all codewords: mu float32 [R, blocks, columns], as CoordinateRows.pad gives it -> [R, size].

        One matrix product for as many blocks as MAX_SCORES allows.
        """
        total: Tensor | None = None
        blocks_at_once = max(1, MAX_SCORES // (self.size * len(mu)))
        for first in range(0, self.blocks, blocks_at_once):
            slab = mu[:, first : first + blocks_at_once].transpose(0, 1)
            product = self.backend.codebook_scores(matrix, slab.reshape(-1, self.columns))
            for b, part in enumerate(product.view(*slab.shape[:2], self.size), first):
                offset = b * ROW_OFFSET % self.size
                if total is None:
                    total = part if len(slab) == 1 else part.clone()
                else:
                    total[:, : self.size - offset] += part[:, offset:]
                    total[:, self.size - offset :] += part[:, :offset]
        assert total is not None
        return total

    def energies(self, matrix: Tensor, lengths: Tensor) -> Tensor:
        """|z_i|^2 over the first `lengths` coordinates of every codeword: int64 [D] -> float32 [D, size]."""
        norms: dict[int, Tensor] = {}
        total = torch.zeros(len(lengths), self.size, device=matrix.device)
        for row, length in enumerate(lengths.tolist()):
            for b in range(-(-length // self.columns)):
                columns = min(self.columns, length - b * self.columns)
                if columns not in norms:
                    norms[columns] = torch.linalg.vector_norm(matrix[:, :columns], dim=1).square()
                total[row] += norms[columns].roll(-(b * ROW_OFFSET % self.size))
        return total

    def codewords(self, index: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Codewords int64 [R] -> float32 [R, blocks, columns]; without `matrix` only the rows needed are drawn."""
        offsets = torch.arange(self.blocks, device=self.backend.device) * ROW_OFFSET
        rows = ((index[:, None] + offsets) % self.size).reshape(-1)
        if matrix is not None:
            drawn = matrix[rows]
        else:
            drawn = self.backend.normal_rows(self.key, self.stream, rows, self.columns, MAX_COLUMNS // 8)
        return drawn.view(len(index), self.blocks, self.columns)
