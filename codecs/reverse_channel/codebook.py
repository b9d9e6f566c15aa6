"""How the coordinates of a step are dealt out to stages or chunks, and padded to rows of equal width.

A codebook is a matrix of at most MAX_WIDTH columns; a row of coordinates that is longer is cut into blocks, and
block b of codeword i is row (i + offset_b) mod K of the codebook.  With signs of its own for every coordinate that has
the law of a longer codeword, and the codebook stays small however many coordinates a stage owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...kernels import Backend
from .batch import Work, run

MAX_WIDTH = 512  # columns of a codebook; a multiple of 8, the normals in one counter
SLAB = 1 << 25  # block scores held at once, 128 MiB
STEP = 40503  # odd, so that the blocks of a codeword take distinct rows of a codebook of 2^m rows


@dataclass(frozen=True)
class Layout:
    """Rows of coordinates: row r owns coordinates bounds[r] to bounds[r + 1].

    bounds  int64 [R + 1], ascending from 0 to d
    """

    bounds: Tensor

    @property
    def lengths(self) -> Tensor:
        """Coordinates of each row, int64 [R]."""
        return self.bounds.diff()

    @property
    def blocks(self) -> int:
        """Blocks into which each row is cut."""
        return max(1, -(-int(self.lengths.max()) // MAX_WIDTH))

    @property
    def width(self) -> int:
        """Columns of one block."""
        return max(1, -(-int(self.lengths.max()) // self.blocks))

    def positions(self) -> Tensor:
        """Where each coordinate lies in the padded matrix, flattened: int64 [d]."""
        lengths = self.lengths
        skipped = torch.arange(len(lengths)) * (self.width * self.blocks) - self.bounds[:-1]
        return torch.arange(int(self.bounds[-1])) + torch.repeat_interleave(skipped, lengths)

    def pad(self, x: Tensor) -> Tensor:
        """x float32 [d] as zero-padded blocks, float32 [R, blocks, width]."""
        rows, row = len(self.bounds) - 1, self.width * self.blocks
        if rows * row == len(x):
            return x.view(rows, self.blocks, self.width)
        padded = torch.zeros(rows * row, device=x.device)
        padded[self.positions().to(x.device)] = x
        return padded.view(rows, self.blocks, self.width)

    def unpad(self, padded: Tensor) -> Tensor:
        """The inverse of `pad`: [R, blocks, width] -> [d]."""
        if padded.numel() == int(self.bounds[-1]):
            return padded.reshape(-1)
        return padded.reshape(-1)[self.positions().to(padded.device)]


@dataclass(frozen=True, eq=False)
class Product:
    """Asks for the products [R, K] of rows [R, w] with the first w columns of a matrix [K, ...]."""

    backend: Backend
    matrix: Tensor
    rows: Tensor

    @property
    def kind(self) -> tuple[object, ...]:
        """See batch.Request: products with one matrix, or with left parts of it, are one."""
        return self.matrix.device, self.matrix.data_ptr(), len(self.matrix)

    @property
    def nbytes(self) -> int:
        """See batch.Request: that of the answer."""
        return 4 * len(self.rows) * len(self.matrix)

    def answer(self, requests: Sequence[Product]) -> list[Tensor]:
        """See batch.Request."""
        if len(requests) == 1:
            return [self.backend.codebook_scores(self.matrix, self.rows)]
        widest = max(requests, key=lambda request: request.matrix.shape[1])
        rows = torch.zeros(sum(len(r.rows) for r in requests), widest.matrix.shape[1], device=self.rows.device)
        edges = [0]
        for request in requests:
            edges.append(edges[-1] + len(request.rows))
            rows[edges[-2] : edges[-1], : request.rows.shape[1]] = request.rows
        product = self.backend.codebook_scores(widest.matrix, rows)
        return [product[first:last] for first, last in pairwise(edges)]


@dataclass(frozen=True)
class Codebook:
    """`size` Gaussian codewords for the rows of a layout, drawn from Philox (key, stream)."""

    backend: Backend
    key: int
    stream: int
    size: int
    blocks: int
    width: int

    def matrix(self) -> Tensor:
        """All rows, float32 [size, width]."""
        rows = torch.arange(self.size, device=self.backend.device)
        return self.backend.normal_rows(self.key, self.stream, rows, self.width, MAX_WIDTH // 8)

    def offsets(self) -> Tensor:
        """Row offset of each block, int64 [blocks]."""
        return torch.arange(self.blocks, device=self.backend.device) * STEP

    def scores(self, matrix: Tensor, blocks: Tensor) -> Tensor:
        """<mu_r, z_i> for all codewords: blocks float32 [R, blocks, width] -> float32 [R, size]."""
        return run([self.scoring(matrix, blocks)])[0]

    def scoring(self, matrix: Tensor, blocks: Tensor) -> Work[Tensor]:
        """`scores` as work: steps that share a matrix share its products."""
        total: Tensor | None = None
        for first in range(0, self.blocks, step := max(1, SLAB // (self.size * len(blocks)))):
            slab = blocks[:, first : first + step].transpose(0, 1)  # one product for as many blocks as memory allows
            product: Tensor = yield Product(self.backend, matrix, slab.reshape(-1, self.width))
            parts = product.view(*slab.shape[:2], self.size)
            for b, part in enumerate(parts, first):
                shift = b * STEP % self.size
                if total is None:
                    total = part if len(parts) == 1 else part.clone()
                else:
                    total[:, : self.size - shift] += part[:, shift:]
                    total[:, self.size - shift :] += part[:, :shift]
        assert total is not None
        return total

    def energies(self, matrix: Tensor, lengths: Tensor) -> Tensor:
        """|z_i|^2 over the first `lengths` coordinates of every codeword: int64 [D] -> float32 [D, size]."""
        norms: dict[int, Tensor] = {}
        total = torch.zeros(len(lengths), self.size, device=matrix.device)
        for row, length in enumerate(lengths.tolist()):
            for b in range(-(-length // self.width)):
                width = min(self.width, length - b * self.width)
                if width not in norms:
                    norms[width] = torch.linalg.vector_norm(matrix[:, :width], dim=1).square()
                total[row] += norms[width].roll(-(b * STEP % self.size))
        return total

    def codewords(self, index: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Codewords int64 [R] -> float32 [R, blocks, width], without drawing the rest of the codebook."""
        rows = ((index[:, None] + self.offsets()) % self.size).reshape(-1)
        if matrix is not None:
            drawn = matrix[rows]
        else:
            drawn = self.backend.normal_rows(self.key, self.stream, rows, self.width, MAX_WIDTH // 8)
        return drawn.view(len(index), self.blocks, self.width)
