"""How the coordinates of a step are dealt out to trellis stages or PFR chunks: rows of consecutive coordinates.

Rows differ in length by little, so a matrix product handles them as blocks of equal size, padded with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_COLUMNS = 512  # coordinates of a block at most; a multiple of 8, the normals in one Philox counter


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
            per_row = torch.stack([skipped, lengths]).to(device)  # one small copy; the rest stays on the device
            each = torch.repeat_interleave(per_row[0], per_row[1], output_size=size)
            self._positions[device] = each.add_(torch.arange(size, device=device))
        return self._positions[device]


def equal_edges(total: int, parts: int) -> NDArray[np.int64]:
    """Edges int64 [parts + 1], from 0 to `total`, of nearly equal integer shares."""
    return np.arange(parts + 1, dtype=np.int64) * total // parts
