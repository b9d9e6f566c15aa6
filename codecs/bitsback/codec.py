"""Bits-back coding: lossless files whose size is what the diffusion model is worth (Townsend et al. 2019; Kingma et
al. 2019 for chains; Kingma et al. 2021, appendix C).

DiffC pays for samples; bits-back coding gets them for free.  The sender draws the noisy latents of the image with bits
that the stack of an ANS coder already holds, which the receiver gets back once it knows the image, so that only the
negative ELBO is paid.  Bits to begin with are borrowed from useful data: the image's top rows, as WebP, lie at the
bottom of the stack.  The rest is cut into tiles, coded a few at a time on the same stack; the sender's last tiles are
the receiver's first.  One segment; no prefix of it decodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...lightning_modules.priors.interface import Prior
from .. import container, get_codec
from ..base import CodecError, Header, Stream, check_image, check_model
from ..entropy import BitStack, StackEmpty
from ..pixel_residual import HEAD, PixelModel, grey_eighths
from ..threads import unsplit_operations
from .latents import DENSER, EVEN, SIDE_BYTES, Chain, Floats, Ints, Side, Spacing, Stack

PRESETS = {"fast": (20, 1), "default": (40, 1), "best": (80, 4)}  # levels of the chain, orientations
UNIT = 2  # tiles on the stack at a time, which the network can work on in parallel
SAMPLED = 8  # every how manyth tile is walked in advance to measure the side information
PORTABLE, TURNED, DENSE = 1, 6, 8  # bits of the header's flags
BORROWED = 7.0  # bits per dimension that the first tiles take from the stack before they give any back

Progress = Callable[[int, int], None]
Pixels = NDArray[np.uint8]


class BitsBack:
    """Lossless codec over a pixel-space prior.

    model     a Prior that works on pixels
    preset    "fast", "default" or "best": 20, 40 or 80 noise levels, each a pass of the network both ways; "best" also
              averages four orientations of the picture, so it takes 16 times as long as "fast"
    portable  run the network in float64, so that the file decodes on machines and devices other than the one that
              wrote it; several times slower.  Decoding follows the file, not this option.
    tile      side of the tiles, a multiple of 16, for a picture made of smaller ones of that height: the rows sent as
              WebP are then a multiple of it, too; None: what suits the image's size
    """

    name = "bitsback"
    suffix = ".bb"
    lossless = True  # see codecs.base.Lossless

    def __init__(
        self, model: Prior, preset: str | None = None, portable: bool = False, tile: int | None = None
    ) -> None:
        if not getattr(model, "lossless", False):
            raise CodecError("bits-back coding needs a model that works on pixels, and this one works on latents")
        if preset is not None and preset not in PRESETS:
            raise CodecError(f"unknown preset {preset!r}; bitsback has {', '.join(PRESETS)}")
        if tile is not None and (tile % 16 or not 16 <= tile <= 255 * 16):
            raise CodecError("the side of a tile must be a multiple of 16 between 16 and 4080")
        self.prior, self.portable, self.tile = model, portable, tile
        self.steps, self.orientations = PRESETS[preset or "default"]
        self.fingerprint = model.fingerprint

    def encode(
        self, image: Tensor, *, lossless: bool = True, bpp: float | None = None, segments: int | None = None,
        progress: Progress | None = None,
    ) -> Stream:
        """The stream of uint8 `image` [3, H, W].

        lossless  there is no other mode
        bpp       refused: the rate is the model's
        progress  called with (tiles done, tiles in all)
        Raises CodecError.
        """
        check_image(image)
        if bpp is not None or segments not in (None, 1):
            raise CodecError("bitsback has one lossless segment; it takes neither --bpp nor --segments")
        layout = self._layout(image)
        header = Header(self.name, image.shape[1], image.shape[2], self.fingerprint, layout.params)
        pixels = image.cpu().numpy()
        with unsplit_operations() as workers, torch.inference_mode():
            chain = layout.chain(self.prior, workers)
            return Stream(header, (_encode(pixels, chain, layout, self.tile or 1, progress),))

    def nelbo(self, image: Tensor) -> float:
        """Negative ELBO of uint8 `image` [3, H, W] under the model, in bits: an estimate from one draw of the latents.

        What a file would take without header, side information and the rows sent as WebP.
        """
        pixels = check_image(image).cpu().numpy()
        layout = self._layout(image)
        with unsplit_operations() as workers, torch.inference_mode():
            chain = layout.chain(self.prior, workers)
            tiles = [pixels[:, rows, columns] for rows, columns in layout.tiles(0, pixels.shape[1:])]
            side, model = _measure(chain, tiles)
            sampler = Sampler()
            for begin in range(0, len(tiles), UNIT):
                _push_unit(sampler, chain, side, model, tiles[begin : begin + UNIT])
            return sampler.bits

    def decode(self, stream: Stream, *, segments: int | None = None, progress: Progress | None = None) -> Tensor:
        """uint8 [3, H, W]; raises CodecError: another model's stream, damage, another machine's arithmetic, ..."""
        header = stream.header
        check_model(header, self.name, self.fingerprint)
        if len(stream.segments) != 1 or segments == 0:
            raise CodecError("a bitsback file is one segment and decodes only as a whole")
        layout = Layout.of(header.params)
        with unsplit_operations() as workers, torch.inference_mode():
            chain = layout.chain(self.prior, workers)
            pixels = _decode(stream.segments[0], (header.height, header.width), chain, layout, progress)
        return torch.from_numpy(pixels)

    def _layout(self, image: Tensor) -> Layout:
        tile = self.tile or best_tile(image.shape[1] * image.shape[2])
        return Layout(self.steps, tile, portable=self.portable, orientations=self.orientations)


def best_tile(pixels: int) -> int:
    """Side of the tiles, about, for an image of so many pixels.

    Small tiles cut the network's context, large ones borrow more, and what lies below them as WebP costs 4 % more:
    0.36 % and 1.07 % of the bits were lost with tiles of 128 and 64 on Kodak crops.
    """

    def loss(side: int) -> float:
        return 0.0036 * (128 / side) ** 1.5 + 0.04 * (BORROWED / 3.3) * UNIT * side**2 / pixels

    return min(range(32, 257, 16), key=loss)


@dataclass(frozen=True)
class Layout:
    """What the header's parameter bytes say.

    steps         levels of the chain
    tile          side of the tiles, about
    unit          tiles on the stack at a time
    portable      the network runs in float64
    orientations  quarter turns over which its estimates are averaged
    spacing       where the levels lie
    """

    steps: int
    tile: int
    unit: int = UNIT
    portable: bool = False
    orientations: int = 1
    spacing: Spacing = DENSER

    @property
    def side_bytes(self) -> int:
        """Bytes of the side information."""
        return SIDE_BYTES * min(self.spacing.nodes, self.steps)

    @property
    def params(self) -> bytes:
        """The four bytes."""
        turned = self.orientations.bit_length() - 1 << 1
        flags = PORTABLE * self.portable | turned | DENSE * (self.spacing == DENSER)
        return bytes([self.steps, self.tile // 16, self.unit, flags])

    @classmethod
    def of(cls, params: bytes) -> Layout:
        """Raises CodecError for values that no encoder writes."""
        steps, tile, unit, flags = params
        if steps < 2 or not tile or not unit or flags > PORTABLE | TURNED | DENSE or flags & TURNED == TURNED:
            raise CodecError("the file uses an option of the bitsback codec that this program does not know")
        spacing = DENSER if flags & DENSE else EVEN
        return cls(steps, 16 * tile, unit, bool(flags & PORTABLE), 1 << ((flags & TURNED) >> 1), spacing)

    def chain(self, prior: Prior, workers: int) -> Chain:
        """The chain of a file with these parameters."""
        return Chain(
            prior, self.steps, orientations=self.orientations, spacing=self.spacing, portable=self.portable,
            workers=workers,
        )

    def tiles(self, top: int, size: Sequence[int]) -> list[tuple[slice, slice]]:
        """Rows and columns of the tiles of an image of (H, W) = `size`, from row `top` on."""
        return [
            (rows, columns) for rows in self._pieces(top, size[0]) for columns in self._pieces(0, size[1])
        ]

    def _pieces(self, begin: int, end: int) -> list[slice]:
        """begin .. end in nearly equal pieces, all but the last a multiple of 16 long."""
        if begin == end:
            return []
        count = max(1, round((end - begin) / self.tile))
        side = -(-(end - begin) // (16 * count)) * 16
        return [slice(at, min(at + side, end)) for at in range(begin, end, side)]


class Sampler:
    """In place of the stack: pops are drawn from a seeded generator, pushes are counted.

    bits  what was pushed minus what was popped, by the Gaussians' exact masses
    """

    def __init__(self) -> None:
        self.rng, self.bits = np.random.default_rng(0), 0.0

    def push(self, symbols: Ints, centres: Floats, widths: Floats, low: int, high: int) -> None:
        """Count -log2 of the symbols' masses."""
        self.bits -= _log2_mass(symbols - centres, widths)

    def pop(self, centres: Floats, widths: Floats, low: int, high: int) -> NDArray[np.int32]:
        """Draw, and count log2 of the masses."""
        drawn = np.rint(centres + widths * self.rng.standard_normal(len(centres))).clip(low, high)
        self.bits += _log2_mass(drawn - centres, widths)
        return drawn.astype(np.int32)


def _log2_mass(offsets: Floats, widths: Floats) -> float:
    """Sum of log2 of the Gaussian masses of [offset - 1/2, offset + 1/2], at least 2^-40 each."""
    distance = torch.from_numpy(np.abs(np.asarray(offsets, np.float64)))  # in the lower tail nothing cancels
    width = torch.from_numpy(widths)
    upper, lower = (torch.special.ndtr((shift - distance) / width) for shift in (0.5, -0.5))
    return float((upper - lower).clamp(min=2.0**-40).log2().sum())


def _encode(pixels: Pixels, chain: Chain, layout: Layout, align: int, progress: Progress | None) -> bytes:
    """The segment; the rows sent as WebP are a multiple of `align`."""
    height = pixels.shape[1]
    rows, supply = 0, b""
    borrowed = BORROWED
    measured: tuple[Side, PixelModel] | None = None
    while True:
        rows, supply = _strip(pixels, layout, rows, align, borrowed)
        lead = container.varint(rows) + container.varint(len(supply))
        lead += zlib.crc32(pixels.tobytes()).to_bytes(4, "little")
        if rows == height:
            return lead + supply
        tiles = [pixels[:, r, c] for r, c in layout.tiles(rows, pixels.shape[1:])]
        if measured is None:
            measured = _measure(chain, tiles)
        side, model = measured
        stack = BitStack(np.frombuffer(supply + bytes(-len(supply) % 4), "<u4"))
        try:
            for begin in range(0, len(tiles), layout.unit):
                _push_unit(stack, chain, side, model, tiles[begin : begin + layout.unit])
                if progress:
                    progress(min(begin + layout.unit, len(tiles)), len(tiles))
        except StackEmpty:
            borrowed *= 1.15
            continue
        return lead + side.data + model.head + stack.words().astype("<u4").tobytes()


def _decode(segment: bytes, size: tuple[int, int], chain: Chain, layout: Layout, progress: Progress | None) -> Pixels:
    try:
        rows, at = container.read_varint(segment, 0)
        supply, at = container.read_varint(segment, at)
    except container.Truncated:
        raise CodecError("the bitsback segment is too short") from None
    check, at = segment[at : at + 4], at + 4
    if rows > size[0]:
        raise CodecError("the bitsback segment is damaged")
    out = np.zeros((3, *size), np.uint8)
    if rows < size[0]:
        data, at = segment[at : at + layout.side_bytes], at + layout.side_bytes
        head, at = segment[at : at + HEAD], at + HEAD
        words = segment[at:]
        if len(head) < HEAD or len(words) % 4 or not words:
            raise CodecError("the bitsback segment is too short")
        side, model = Side(data, layout.steps), PixelModel(head)
        stack = BitStack(np.frombuffer(words, "<u4"), sealed=False)
        places = layout.tiles(rows, size)
        try:
            for begin in reversed(range(0, len(places), layout.unit)):
                unit = places[begin : begin + layout.unit]
                decoded = _pop_unit(stack, chain, side, model, [(r.stop - r.start, c.stop - c.start) for r, c in unit])
                for (r, c), tile in zip(unit, decoded, strict=True):
                    out[:, r, c] = tile
                if progress:
                    progress(len(places) - begin, len(places))
            data = stack.bottom().astype("<u4").tobytes()[:supply]
        except CodecError as error:
            raise CodecError(_mismatch(layout)) from error
    else:
        data = segment[at:]
    if rows:
        try:
            strip = Stream(Header("webp", rows, size[1]), (data,), native=True)
            out[:, :rows] = get_codec("webp").decode(strip).numpy()
        except CodecError as error:
            raise CodecError(_mismatch(layout)) from error
    if zlib.crc32(out.tobytes()).to_bytes(4, "little") != check:
        raise CodecError(_mismatch(layout))
    return out


def _strip(pixels: Pixels, layout: Layout, rows: int, align: int, borrowed: float) -> tuple[int, bytes]:
    """(rows, WebP of the image's top rows): at least `rows`, and enough for the first tiles to borrow from."""
    height, width = pixels.shape[1:]
    codec = get_codec("webp")
    while True:
        rows = min(-(-rows // align) * align, height)
        strip = torch.from_numpy(pixels[:, :rows].copy())
        data = codec.encode(strip, lossless=True).segments[0] if rows else b""
        unit = layout.tiles(rows, (height, width))[: layout.unit]
        area = sum((r.stop - r.start) * (c.stop - c.start) for r, c in unit)
        need = borrowed * 3 * area / 8 + 64
        if rows == height or len(data) >= need:
            return rows, data
        rate = max(len(data), 1) / max(rows, 1)
        rows += max(4, min(round((need - len(data)) / rate), height // 8 + 1)) if rows else 8


def _measure(chain: Chain, tiles: Sequence[Pixels]) -> tuple[Side, PixelModel]:
    """Side information from a walk over some of the tiles, and the pixels' from the last level of all."""
    sampler = Sampler()
    z = [chain.clean.pop(sampler, [chain.of_pixels(tile)])[0] for tile in tiles]
    estimates = chain.denoise(z, chain.steps - 1)
    model = PixelModel.fit(tiles, [grey_eighths(e, t.shape[1:]) for e, t in zip(estimates, tiles, strict=True)])
    residuals = []
    chosen = z[:: min(SAMPLED, max(1, len(z) // 3))]
    for level in reversed(range(chain.steps - 1)):
        noisier = chain.noisier[level].pop(sampler, [chain.of_cleaner(one, level) for one in chosen])
        means = _means(chain, noisier, level)
        residuals.append(
            np.concatenate(
                [chain.residual(one, mean, level + 1) for one, mean in zip(chosen, means, strict=True)], axis=1
            )
        )
        chosen = noisier
    residuals.append(np.concatenate([chain.residual(one, np.zeros_like(one), 0) for one in chosen], axis=1))
    return Side.fit(residuals[::-1]), model


def _means(chain: Chain, z: Sequence[Ints], level: int) -> list[Ints]:
    """Means of p for the next cleaner level, in sixteenths, from latents at `level`."""
    estimates = chain.denoise(z, level)
    return [chain.of_noisier(one, x_hat, level) for one, x_hat in zip(z, estimates, strict=True)]


def _push_unit(stack: Stack, chain: Chain, side: Side, model: PixelModel, tiles: Sequence[Pixels]) -> None:
    """Put the pixels of some tiles on the stack."""
    z = chain.clean.pop(stack, [chain.of_pixels(tile) for tile in tiles])
    estimates = chain.denoise(z, chain.steps - 1)
    for tile, estimate in zip(tiles[::-1], estimates[::-1], strict=True):
        stack.push(*model.symbols(tile, grey_eighths(estimate, tile.shape[1:])), 0, 255)
    for level in reversed(range(chain.steps - 1)):
        noisier = chain.noisier[level].pop(stack, [chain.of_cleaner(one, level) for one in z])
        chain.push(stack, side, level + 1, z, _means(chain, noisier, level))
        z = noisier
    chain.push(stack, side, 0, z, [np.zeros_like(one) for one in z])


def _pop_unit(
    stack: BitStack, chain: Chain, side: Side, model: PixelModel, sizes: Sequence[tuple[int, int]]
) -> list[Pixels]:
    """Take the pixels of tiles of these (h, w) off the stack; undoes `_push_unit`."""
    z = chain.pop(stack, side, 0, [np.zeros((3, *size), np.int64) for size in sizes])
    for level in range(chain.steps - 1):
        cleaner = chain.pop(stack, side, level + 1, _means(chain, z, level))
        chain.noisier[level].push(stack, z, [chain.of_cleaner(one, level) for one in cleaner])
        z = cleaner
    estimates = chain.denoise(z, chain.steps - 1)
    tiles = [
        model.decode(grey_eighths(estimate, size), lambda centres, widths: stack.pop(centres, widths, 0, 255))
        for estimate, size in zip(estimates, sizes, strict=True)
    ]
    chain.clean.push(stack, z, [chain.of_pixels(tile) for tile in tiles])
    return tiles


def _mismatch(layout: Layout) -> str:
    remedy = "" if layout.portable else "; files that move between machines or devices must be written with --portable"
    return f"the file does not decode: it is damaged, or this machine's arithmetic differs from the writer's{remedy}"
