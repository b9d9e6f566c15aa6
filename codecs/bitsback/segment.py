"""The one segment of a bits-back file: pixels to bytes and back.

Sender, for each group of tiles (Townsend et al. 2019, section 2; Kingma et al. 2019, Bit-Swap, for chains):

    pop z_{T-1} from q(z_{T-1} | x), push x under p(x | z_{T-1});
    for i = T - 2 ... 0: pop z_i from q(z_i | z_{i+1}), push z_{i+1} under p(z_{i+1} | z_i);
    push z_0 under N(0, I)

What is popped are bits of the stack.  The first group needs some to begin with, and takes them from data that must be
sent anyway: the image's top rows as WebP are the bottom of the stack, as many rows as the first group needs bits.
The receiver undoes everything in the opposite order, the last group first, and ends with the WebP file.
The header says how: `BitsBackParameters` are its four bytes, and the tiles that follow from them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...lightning_modules.priors.pixel import PixelPrior
from .. import container, get_codec
from ..base import CodecError, Header, Stream
from ..entropy import BitStack, StackEmpty
from ..pixel_residual import PARAMETER_BYTES, ResidualModel, to_means
from .gaussians import NODE_BYTES, CountingStack, GaussianStack, Ints, SideInformation
from .latents import DENSER, EVEN, BitsBackChain, Spacing

GROUP = 2  # tiles on the stack at a time, which the network can work on in parallel
DOUBLE, ORIENTATIONS, DENSE = 1, 6, 8  # bits of the last byte
BORROWED_BITS = 7.0  # per dimension, that the first tiles take from the stack before they give any back
SAMPLED = 8  # every eighth tile is walked in advance to measure the side information

MISMATCH = "the file does not decode: it is damaged, or this machine's arithmetic differs from the writer's"

Progress = Callable[[int, int], None]  # (tiles done, tiles in all)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class BitsBackParameters:
    """What the header says beside size and model; docs/format.md has the bytes.

    steps         T, the number of timesteps, 2 to 255
    tile          side of the tiles in pixels, about; a multiple of 16 up to 4080
    group         tiles on the stack at a time
    double        the network runs in float64, so that the file decodes on other machines; needless where it is exact
    orientations  1, 2 or 4 quarter turns over which its estimates are averaged
    spacing       where the timesteps lie, DENSER or EVEN
    """

    steps: int
    tile: int
    group: int = GROUP
    double: bool = False
    orientations: int = 1
    spacing: Spacing = DENSER

    @property
    def side_bytes(self) -> int:
        """Bytes of the side information."""
        return NODE_BYTES * min(self.spacing.nodes, self.steps)

    def to_bytes(self) -> bytes:
        """The four bytes."""
        orientations = self.orientations.bit_length() - 1 << 1
        flags = DOUBLE * self.double | orientations | DENSE * (self.spacing == DENSER)
        return bytes([self.steps, self.tile // 16, self.group, flags])

    @classmethod
    def from_bytes(cls, params: bytes) -> BitsBackParameters:
        """Raises CodecError for values that no encoder writes."""
        steps, tile, group, flags = params
        reserved = flags > DOUBLE | ORIENTATIONS | DENSE or flags & ORIENTATIONS == ORIENTATIONS
        if steps < 2 or not tile or not group or reserved:
            raise CodecError("the file uses an option of the bitsback codec that this program does not know")
        spacing = DENSER if flags & DENSE else EVEN
        return cls(steps, 16 * tile, group, bool(flags & DOUBLE), 1 << ((flags & ORIENTATIONS) >> 1), spacing)

    def chain(self, prior: PixelPrior, workers: int) -> BitsBackChain:
        """The chain of a file with these parameters."""
        return BitsBackChain(
            prior, self.steps, orientations=self.orientations, spacing=self.spacing, double=self.double,
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


def encode_segment(
    pixels: Pixels, chain: BitsBackChain, parameters: BitsBackParameters, row_multiple: int, progress: Progress | None
) -> bytes:
    """The segment of pixels [3, H, W]; the number of rows sent as WebP is a multiple of `row_multiple`."""
    height = pixels.shape[1]
    rows, borrowed_bits = 0, BORROWED_BITS
    measured: tuple[SideInformation, ResidualModel] | None = None
    while True:
        rows, webp = _top_rows(pixels, parameters, rows, row_multiple, borrowed_bits)
        start = container.varint(rows) + container.varint(len(webp)) + _checksum(pixels)
        if rows == height:
            return start + webp
        tiles = [pixels[:, r, c] for r, c in parameters.tiles(rows, pixels.shape[1:])]
        if measured is None:
            measured = measure(chain, tiles)
        side, model = measured
        stack = BitStack(np.frombuffer(webp + bytes(-len(webp) % 4), "<u4"))
        try:
            for begin in range(0, len(tiles), parameters.group):
                push_tiles(stack, chain, side, model, tiles[begin : begin + parameters.group])
                if progress:
                    progress(min(begin + parameters.group, len(tiles)), len(tiles))
        except StackEmpty:
            borrowed_bits *= 1.15
            continue
        return start + side.data + model.parameters + stack.words().astype("<u4").tobytes()


def decode_segment(
    segment: bytes, size: tuple[int, int], chain: BitsBackChain, parameters: BitsBackParameters,
    progress: Progress | None,
) -> Pixels:
    """Pixels [3, H, W] of `encode_segment`, (H, W) = `size`; raises CodecError."""
    try:
        rows, at = container.read_varint(segment, 0)
        webp_bytes, at = container.read_varint(segment, at)
    except container.Truncated:
        raise CodecError("the bitsback segment is too short") from None
    checksum, at = segment[at : at + 4], at + 4
    if rows > size[0]:
        raise CodecError("the bitsback segment is damaged")
    out = np.zeros((3, *size), np.uint8)
    webp = segment[at:]
    if rows < size[0]:
        side_data, at = segment[at : at + parameters.side_bytes], at + parameters.side_bytes
        model_parameters, at = segment[at : at + PARAMETER_BYTES], at + PARAMETER_BYTES
        words = segment[at:]
        if len(model_parameters) < PARAMETER_BYTES or len(words) % 4 or not words:
            raise CodecError("the bitsback segment is too short")
        side, model = SideInformation(side_data, parameters.steps), ResidualModel(model_parameters)
        stack = BitStack(np.frombuffer(words, "<u4"), sealed=False)
        places = parameters.tiles(rows, size)
        try:
            for begin in reversed(range(0, len(places), parameters.group)):
                group = places[begin : begin + parameters.group]
                sizes = [(r.stop - r.start, c.stop - c.start) for r, c in group]
                for (r, c), tile in zip(group, pop_tiles(stack, chain, side, model, sizes), strict=True):
                    out[:, r, c] = tile
                if progress:
                    progress(len(places) - begin, len(places))
            webp = stack.bottom().astype("<u4").tobytes()[:webp_bytes]
        except CodecError as error:
            raise CodecError(MISMATCH) from error
    if rows:
        try:
            stream = Stream(Header("webp", rows, size[1]), (webp,), native=True)
            out[:, :rows] = get_codec("webp").decode(stream).numpy()
        except CodecError as error:
            raise CodecError(MISMATCH) from error
    if _checksum(out) != checksum:
        raise CodecError(MISMATCH)
    return out


def measure(chain: BitsBackChain, tiles: Sequence[Pixels]) -> tuple[SideInformation, ResidualModel]:
    """Side information from a walk over some of the tiles, and p(x | z_{T-1}) from the last step of all."""
    stack = CountingStack()
    z = [chain.q_clean.pop_from(stack, [chain.pixel_means(tile)])[0] for tile in tiles]
    estimates = chain.denoise(z, chain.steps - 1)
    model = ResidualModel.fit(tiles, [to_means(e, t.shape[1:]) for e, t in zip(estimates, tiles, strict=True)])
    residuals = []
    cleaner = z[:: min(SAMPLED, max(1, len(z) // 3))]
    for step in reversed(range(chain.steps - 1)):
        noisier = chain.q_forward[step].pop_from(stack, [chain.forward_means(one, step) for one in cleaner])
        means = _reverse_means(chain, noisier, step)
        errors = [chain.residual(one, mean, step + 1) for one, mean in zip(cleaner, means, strict=True)]
        residuals.append(np.concatenate(errors, axis=1))
        cleaner = noisier
    residuals.append(np.concatenate([chain.residual(one, np.zeros_like(one), 0) for one in cleaner], axis=1))
    return SideInformation.fit(residuals[::-1]), model


def push_tiles(
    stack: GaussianStack, chain: BitsBackChain, side: SideInformation, model: ResidualModel, tiles: Sequence[Pixels]
) -> None:
    """Put the pixels of a group of tiles [3, h, w] on the stack, coded together; raises StackEmpty."""
    z = chain.q_clean.pop_from(stack, [chain.pixel_means(tile) for tile in tiles])
    estimates = chain.denoise(z, chain.steps - 1)
    for tile, estimate in zip(tiles[::-1], estimates[::-1], strict=True):
        stack.push(*model.in_coding_order(tile, to_means(estimate, tile.shape[1:])), 0, 255)
    for step in reversed(range(chain.steps - 1)):
        noisier = chain.q_forward[step].pop_from(stack, [chain.forward_means(one, step) for one in z])
        chain.push_latents(stack, side, step + 1, z, _reverse_means(chain, noisier, step))
        z = noisier
    chain.push_latents(stack, side, 0, z, [np.zeros_like(one) for one in z])


def pop_tiles(
    stack: GaussianStack, chain: BitsBackChain, side: SideInformation, model: ResidualModel,
    sizes: Sequence[tuple[int, int]],
) -> list[Pixels]:
    """Take the pixels of a group of tiles of these (h, w) off the stack; undoes `push_tiles`."""
    z = chain.pop_latents(stack, side, 0, [np.zeros((3, *size), np.int64) for size in sizes])
    for step in range(chain.steps - 1):
        cleaner = chain.pop_latents(stack, side, step + 1, _reverse_means(chain, z, step))
        chain.q_forward[step].push_onto(stack, z, [chain.forward_means(one, step) for one in cleaner])
        z = cleaner
    estimates = chain.denoise(z, chain.steps - 1)
    tiles = [
        model.decode(to_means(estimate, size), lambda means, stds: stack.pop(means, stds, 0, 255))
        for estimate, size in zip(estimates, sizes, strict=True)
    ]
    chain.q_clean.push_onto(stack, z, [chain.pixel_means(tile) for tile in tiles])
    return tiles


def _reverse_means(chain: BitsBackChain, z: Sequence[Ints], step: int) -> list[Ints]:
    """Means of p(z_{step+1} | z_step = z) for several tiles: one pass of the network."""
    estimates = chain.denoise(z, step)
    return [chain.reverse_means(one, x_hat, step) for one, x_hat in zip(z, estimates, strict=True)]


def _top_rows(
    pixels: Pixels, parameters: BitsBackParameters, rows: int, row_multiple: int, borrowed_bits: float
) -> tuple[int, bytes]:
    """(number of top rows, their WebP file): at least `rows`, and enough for the first group to borrow from."""
    height, width = pixels.shape[1:]
    codec = get_codec("webp")
    while True:
        rows = min(-(-rows // row_multiple) * row_multiple, height)
        top = torch.from_numpy(pixels[:, :rows].copy())
        webp = codec.encode(top, lossless=True).segments[0] if rows else b""
        group = parameters.tiles(rows, (height, width))[: parameters.group]
        area = sum((r.stop - r.start) * (c.stop - c.start) for r, c in group)
        needed = borrowed_bits * 3 * area / 8 + 64  # bytes
        if rows == height or len(webp) >= needed:
            return rows, webp
        row_bytes = max(len(webp), 1) / max(rows, 1)
        rows += max(4, min(round((needed - len(webp)) / row_bytes), height // 8 + 1)) if rows else 8


def _checksum(pixels: Pixels) -> bytes:
    return zlib.crc32(pixels.tobytes()).to_bytes(4, "little")
