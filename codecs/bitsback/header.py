"""The four parameter bytes of a bits-back file, and the tiles that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...lightning_modules.priors.pixel import PixelPrior
from ..base import CodecError
from .latents import DENSER, EVEN, BitsBackChain, Spacing
from .side_information import NODE_BYTES

GROUP = 2  # tiles on the stack at a time, which the network can work on in parallel
PORTABLE, ORIENTATIONS, DENSE = 1, 6, 8  # bits of the last byte
BORROWED_BITS = 7.0  # per dimension, that the first tiles take from the stack before they give any back


@dataclass(frozen=True)
class BitsBackParameters:
    """What the header says beside size and model; docs/format.md has the bytes.

    steps         T, the number of timesteps, 2 to 255
    tile          side of the tiles in pixels, about; a multiple of 16 up to 4080
    group         tiles on the stack at a time
    portable      the network runs in float64
    orientations  1, 2 or 4 quarter turns over which its estimates are averaged
    spacing       where the timesteps lie, DENSER or EVEN
    """

    steps: int
    tile: int
    group: int = GROUP
    portable: bool = False
    orientations: int = 1
    spacing: Spacing = DENSER

    @property
    def side_bytes(self) -> int:
        """Bytes of the side information."""
        return NODE_BYTES * min(self.spacing.nodes, self.steps)

    def to_bytes(self) -> bytes:
        """The four bytes."""
        orientations = self.orientations.bit_length() - 1 << 1
        flags = PORTABLE * self.portable | orientations | DENSE * (self.spacing == DENSER)
        return bytes([self.steps, self.tile // 16, self.group, flags])

    @classmethod
    def from_bytes(cls, params: bytes) -> BitsBackParameters:
        """Raises CodecError for values that no encoder writes."""
        steps, tile, group, flags = params
        reserved = flags > PORTABLE | ORIENTATIONS | DENSE or flags & ORIENTATIONS == ORIENTATIONS
        if steps < 2 or not tile or not group or reserved:
            raise CodecError("the file uses an option of the bitsback codec that this program does not know")
        spacing = DENSER if flags & DENSE else EVEN
        return cls(steps, 16 * tile, group, bool(flags & PORTABLE), 1 << ((flags & ORIENTATIONS) >> 1), spacing)

    def chain(self, prior: PixelPrior, workers: int) -> BitsBackChain:
        """The chain of a file with these parameters."""
        return BitsBackChain(
            prior, self.steps, orientations=self.orientations, spacing=self.spacing, portable=self.portable,
            workers=workers,
        )

    def tiles(self, top: int, size: Sequence[int]) -> list[tuple[slice, slice]]:
        """Rows and columns of the tiles of an image of (H, W) = `size`, from row `top` on, in coding order."""
        return [(rows, columns) for rows in self._cut(top, size[0]) for columns in self._cut(0, size[1])]

    def _cut(self, begin: int, end: int) -> list[slice]:
        """begin .. end in nearly equal pieces, all but the last a multiple of 16 long."""
        if begin == end:
            return []
        count = max(1, round((end - begin) / self.tile))
        side = -(-(end - begin) // (16 * count)) * 16
        return [slice(at, min(at + side, end)) for at in range(begin, end, side)]


def best_tile(pixels: int) -> int:
    """Side of the tiles for an image of so many pixels: what costs the fewest bits.

    Small tiles cut the network's context: 0.36 % and 1.07 % of the bits were lost with tiles of 128 and 64 on Kodak
    crops.  Large tiles borrow more bits, and WebP, whose bits they borrow, needs 4 % more for the same pixels.
    """

    def loss(side: int) -> float:
        return 0.0036 * (128 / side) ** 1.5 + 0.04 * (BORROWED_BITS / 3.3) * GROUP * side**2 / pixels

    return min(range(32, 257, 16), key=loss)
