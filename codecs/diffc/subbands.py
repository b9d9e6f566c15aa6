"""Coordinates in which an estimate's error is far from white, so that a step can be sent in groups of unlike variance.

With one variance of p for all d coordinates a step costs d/2 log2(1 + gain E) bits, E the mean squared error.  The
logarithm is concave: where the error is spread unevenly, a variance for every group costs less, and the sample is the
same.  What a denoiser misses is coarse rather than fine and brightness rather than colour, so the coordinates are a
blockwise cosine transform of opponent colours, and a subband is one channel in half an octave of spatial frequency.
The transform is orthonormal: q's noise is as white there as it was.  docs/decisions/0053-bands.md has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import torch
from torch import Tensor

BLOCK = 128  # side of a block of the transform; what is left at the right and at the bottom is a narrower one
RADII = 16  # subbands of a channel: the mean of a block, then half-octaves of frequency up to the diagonal
GROUP_PRICE = 16.0  # bits that a group must save to be sent by itself: its budget code, the ends of its codeword

GRID, GRID_END, COSINE_UNIT = 2.0**16, 2.0**12, 2.0**-18  # of Subbands._invert_exactly

OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))  # brightness, red - blue, their mean - green


@dataclass(frozen=True)
class Group:
    """Subbands that a step sends together: `size` coordinates in all, `bits` of KL by the calibration."""

    subbands: tuple[int, ...]
    size: int
    bits: float

    def needed(self, gain: float, energies: Sequence[float]) -> float:
        """KL in bits for an image whose squared error in every subband is `energies`, when the step adds `gain`."""
        return step_bits(self.size, gain * sum(energies[k] for k in self.subbands) / self.size)


@dataclass(frozen=True)
class Region:
    """A rectangle of whole blocks, all of one shape: `rows` and `columns` of the image, blocks of height x width."""

    rows: slice
    columns: slice
    height: int
    width: int

    def subbands(self, channels: int) -> Tensor:
        """Subband of the coefficient (channel, u, v), int64 [channels * height * width]."""
        radii = [radius(u, v, self.height, self.width) for u, v in product(range(self.height), range(self.width))]
        return (RADII * torch.arange(channels)[:, None] + torch.tensor(radii)).flatten()


@dataclass(frozen=True)
class Places:
    """Which rows of a region's matrix belong to which subband, on one device.

    subbands  of every row
    counts    rows of every subband
    rows      of every subband, ascending
    """

    subbands: Tensor
    counts: Tensor
    rows: tuple[Tensor, ...]

    @classmethod
    def of(cls, subbands: Tensor, count: int) -> Places:
        """The places of `count` subbands."""
        counts = torch.bincount(subbands, minlength=count)
        return cls(subbands, counts, torch.argsort(subbands, stable=True).split(counts.tolist()))


class Subbands:
    """The transform of tensors [1, C, h, w] and what belongs to each of its C * RADII subbands.

    block   side of its blocks
    counts  coefficients of every subband
    """

    def __init__(self, shape: tuple[int, int, int], block: int = BLOCK) -> None:
        self.shape = shape
        channels, height, width = shape
        self.regions = [
            Region(rows, columns, rows_block, columns_block)
            for (rows, rows_block), (columns, columns_block) in product(_blocks(height, block), _blocks(width, block))
        ]
        self._subbands = [region.subbands(channels) for region in self.regions]
        counts = torch.zeros(channels * RADII, dtype=torch.int64)
        for region, bands in zip(self.regions, self._subbands, strict=True):
            counts += math.prod(self._grid(region)) * torch.bincount(bands, minlength=len(counts))
        self.counts: tuple[int, ...] = tuple(counts.tolist())
        self._places: dict[torch.device, list[Places]] = {}

    def transform(self, x: Tensor) -> list[Tensor]:
        """Coefficients of x [1, C, h, w]: for every region a matrix [C * height * width, its blocks]."""
        x = torch.einsum("kc,chw->khw", _colours(self.shape[0], x.dtype, x.device), x[0])
        return [
            torch.einsum(
                "un,chnwm,vm->cuvhw", _cosines(r.height, x.dtype, x.device), self._cut(x, r),
                _cosines(r.width, x.dtype, x.device),
            ).reshape(len(bands), -1)
            for r, bands in zip(self.regions, self._subbands, strict=True)
        ]

    def energies(self, coefficients: Sequence[Tensor]) -> list[float]:
        """Sum of squares of every subband."""
        rows = torch.cat([matrix.double().square().sum(1) for matrix in coefficients]).cpu()  # waits once for a GPU
        total = torch.zeros(len(self.counts), dtype=torch.float64)
        return total.index_add_(0, torch.cat(self._subbands), rows).tolist()

    def gather(self, coefficients: Sequence[Tensor], subbands: Iterable[int]) -> Tensor:
        """The coefficients of `subbands` as one vector."""
        rows = self._rows(subbands, coefficients[0].device)
        found = [matrix[row] for matrix, row in zip(coefficients, rows, strict=True)]
        return torch.cat([matrix.flatten() for matrix in found])

    def water_fill(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """x [1, C, h, w] with every subband of every single block multiplied by u / (1 + u), u = scale * mean square.

        A Wiener gain: what is small beside noise of variance 1 / scale goes, what is large stays.  A tensor `scale`
        [h, w] says it for every place; a block takes the mean of its own.
        """
        matrices = self.transform(x)
        for region, matrix, places in zip(self.regions, matrices, self._places_on(x.device), strict=True):
            bands = places.subbands
            local = self._cut(scale[None], region).mean((0, 2, 4)).flatten() if isinstance(scale, Tensor) else scale
            sums = matrix.new_zeros(len(self.counts), matrix.shape[1]).index_add_(0, bands, matrix.square())
            u = local * sums / places.counts.clamp(min=1)[:, None]
            matrix *= (u / (1 + u))[bands]
        return self.invert(matrices)

    def join(self, groups: Sequence[tuple[Iterable[int], Tensor]], exact: bool = False) -> Tensor:
        """The tensor [1, C, h, w] of coefficients given as (subbands, vector as of `gather`), each subband once.

        exact  compute so that every machine gets the same bits
        """
        matrices = [
            groups[0][1].new_empty(len(bands), math.prod(self._grid(region)))
            for region, bands in zip(self.regions, self._subbands, strict=True)
        ]
        for wanted, vector in groups:
            start = 0
            for matrix, row in zip(matrices, self._rows(wanted, vector.device), strict=True):
                end = start + len(row) * matrix.shape[1]
                matrix[row] = vector[start:end].view(len(row), matrix.shape[1])
                start = end
        return self._invert_exactly(matrices) if exact else self.invert(matrices)

    def invert(self, coefficients: Sequence[Tensor]) -> Tensor:
        """The tensor [1, C, h, w] that has these coefficients, as `transform` gives them."""
        x = coefficients[0].new_empty(self.shape)
        for region, matrix in zip(self.regions, coefficients, strict=True):
            cut = self._cut(x, region)
            channels, down, height, across, width = cut.shape
            cut.copy_(torch.einsum(
                "un,cuvhw,vm->chnwm", _cosines(height, x.dtype, x.device),
                matrix.view(channels, height, width, down, across), _cosines(width, x.dtype, x.device),
            ))  # fmt: skip
        return torch.einsum("kc,khw->chw", _colours(self.shape[0], x.dtype, x.device), x)[None]

    def _invert_exactly(self, coefficients: Sequence[Tensor]) -> Tensor:
        """As `invert`, in integers carried in float64, where the order of their sums does not matter.

        Coefficients and what is between the two directions are multiples of 2^-16 below 2^12 in magnitude, cosines of
        2^-18: a sum of BLOCK products is below 2^53 times its unit.
        """
        x = coefficients[0].new_empty(self.shape)
        for region, matrix in zip(self.regions, coefficients, strict=True):
            cut = self._cut(x, region)
            channels, down, height, across, width = cut.shape
            rows, columns = (_whole_cosines(side, x.device) for side in (height, width))
            blocks = matrix.view(channels, height, width, down, across)
            for i in range(down):  # row by row, because float64 takes twice the memory
                row = _on_grid(blocks[:, :, :, i].double())
                half = _on_grid(torch.einsum("un,cuvw->cnvw", rows, row) * COSINE_UNIT)
                cut[:, i] = _uncoloured(_on_grid(torch.einsum("cnvw,vm->cnwm", half, columns) * COSINE_UNIT))
        return x[None]

    @staticmethod
    def _cut(x: Tensor, region: Region) -> Tensor:
        """A view of a region's pixels as blocks, [C, down, height, across, width]."""
        pixels = x[:, region.rows, region.columns]
        return pixels.unflatten(2, (-1, region.width)).unflatten(1, (-1, region.height))

    @staticmethod
    def _grid(region: Region) -> tuple[int, int]:
        """Blocks of a region, (down, across)."""
        down, across = (where.stop - where.start for where in (region.rows, region.columns))
        return down // region.height, across // region.width

    def _rows(self, subbands: Iterable[int], device: torch.device) -> list[Tensor]:
        """Rows of every region's matrix that belong to `subbands`, ascending."""
        wanted = tuple(subbands)
        return [torch.cat([places.rows[k] for k in wanted]).sort().values for places in self._places_on(device)]

    def _places_on(self, device: torch.device) -> list[Places]:
        """For every region which rows belong to which subband; found once for each device."""
        if device not in self._places:
            self._places[device] = [Places.of(bands.to(device), len(self.counts)) for bands in self._subbands]
        return self._places[device]


class SingleBand:
    """What Subbands is, for a calibration that knows no subbands: the tensor as it is, as one subband."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.counts = shape, (math.prod(shape),)

    def transform(self, x: Tensor) -> list[Tensor]:
        """See Subbands.transform."""
        return [x.reshape(1, -1)]

    def energies(self, coefficients: Sequence[Tensor]) -> list[float]:
        """See Subbands.energies."""
        return [float(coefficients[0].double().square().sum())]

    def gather(self, coefficients: Sequence[Tensor], subbands: Iterable[int]) -> Tensor:
        """See Subbands.gather."""
        return coefficients[0][0]

    def join(self, groups: Sequence[tuple[Iterable[int], Tensor]], exact: bool = False) -> Tensor:
        """See Subbands.join; nothing is computed."""
        return groups[0][1].view(1, *self.shape)


@lru_cache(maxsize=16)
def subbands_of(shape: tuple[int, int, int], block: int = BLOCK) -> Subbands:
    """The subbands of tensors [1, *shape]."""
    return Subbands(shape, block)


_Sum = tuple[tuple[int, ...], int, float]  # subbands, coordinates, squared error over all of them


@lru_cache(maxsize=4096)
def group_subbands(counts: tuple[int, ...], mse: tuple[float, ...], gain: float) -> tuple[Group, ...]:
    """The groups in which a step that adds `gain` to the SNR is sent, from the smallest error to the largest.

    counts, mse  coefficients of every subband, and their expected squared error
    Greedy: the two neighbours whose merging costs least are merged, as long as that costs less than GROUP_PRICE.
    """
    known = sorted((error, k) for k, error in enumerate(mse) if counts[k])
    groups: list[_Sum] = [((k,), counts[k], counts[k] * error) for error, k in known]

    def merged(k: int) -> _Sum:
        (a, size_a, sum_a), (b, size_b, sum_b) = groups[k : k + 2]
        return a + b, size_a + size_b, sum_a + sum_b

    def bits(group: _Sum) -> float:
        return step_bits(group[1], gain * group[2] / group[1])

    while len(groups) > 1:
        losses = [bits(merged(k)) - bits(groups[k]) - bits(groups[k + 1]) for k in range(len(groups) - 1)]
        least = min(range(len(losses)), key=losses.__getitem__)
        if losses[least] >= GROUP_PRICE:
            break
        groups[least : least + 2] = [merged(least)]
    return tuple(Group(group[0], group[1], bits(group)) for group in groups)


def step_bits(dimensions: int, energy: float) -> float:
    """KL(N(mu, I) || N(0, v I)) in bits at the best variance v = 1 + energy, for |mu|^2 / d = `energy`, mu in R^d.

    That is d/2 log2 v with d = `dimensions`; with v = 1 it would be |mu|^2 / (2 ln 2), as in Theis et al. 2022.
    """
    return 0.5 * dimensions * math.log2(1 + energy)


def radius(u: int, v: int, height: int, width: int) -> int:
    """The half-octave of frequency (u / height, v / width), 0 for none; by integers, so that every machine agrees."""
    square = BLOCK**2 * (u**2 * width**2 + v**2 * height**2) // (height**2 * width**2)
    return min(square.bit_length(), RADII - 1)


def _blocks(length: int, block: int) -> list[tuple[slice, int]]:
    """(pixels, side of their blocks) that make up `length` pixels."""
    whole = length // block * block
    pieces = [(slice(0, whole), block), (slice(whole, length), length - whole)]
    return [(where, side) for where, side in pieces if where.stop > where.start]


@cache
def _cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal cosine transform (DCT-II) [frequency, place], rounded to float32."""
    return _exact_cosines(size).float().to(device, dtype)


def _exact_cosines(size: int) -> Tensor:
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / (2 * size) * (2 * places + 1) * places[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


@cache
def _colours(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An orthonormal change of channels [C, C], rounded to float32: opponent colours for three, none for latents."""
    matrix = torch.tensor(OPPONENT) if channels == 3 else torch.eye(channels)
    return (matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True)).to(device, dtype)


def _on_grid(x: Tensor) -> Tensor:
    """float64 x rounded to multiples of 1 / GRID within +-GRID_END."""
    return x.mul(GRID).round_().clamp_(-GRID * GRID_END, GRID * GRID_END).div_(GRID)


@cache
def _whole_cosines(size: int, device: torch.device) -> Tensor:
    """`_cosines` in multiples of COSINE_UNIT, float64 [frequency, place]."""
    return _exact_cosines(size).div(COSINE_UNIT).round().to(device)


def _uncoloured(x: Tensor) -> Tensor:
    """[C, ...] from float64 opponent colours x [C, ...]; one operation after the other."""
    colours = _colours(len(x), torch.float64, x.device)
    channels = []
    for c in range(len(x)):
        total = x[0] * colours[0, c]
        for k in range(1, len(x)):
            total = total + x[k] * colours[k, c]
        channels.append(total)
    return torch.stack(channels)
