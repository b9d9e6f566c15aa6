"""A Gaussian codebook that both sides draw from the shared randomness, and its scores by matrix products.

A codebook is a matrix of at most MAX_COLUMNS columns.  A row of coordinates that is longer is cut into blocks, and
block b of codeword i is row (i + offset_b) mod K of the matrix.  With signs of its own for every coordinate this has
the law of a longer codeword, and the matrix stays small however many coordinates a row owns.
Method: docs/method/reverse-channel.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import Backend
from .coordinate_rows import MAX_COLUMNS

MAX_SCORES = 1 << 25  # block scores held at once, 128 MiB
ROW_OFFSET = 40503  # odd, so that the blocks of a codeword take distinct rows of a matrix of 2^m rows


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
