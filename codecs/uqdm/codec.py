"""The UQDM codec: universally quantized diffusion steps, then every pixel exactly (Yang et al. 2025, section 3).

An image of any size is cut into 64 x 64 tiles that are coded together.  Each diffusion step is one segment (latents.py
has the equations), the pixels given z_0 are the last one.  One range coder runs through all of them, and any prefix
decodes.  A segment holds the words of the range coder and, but for the last, one byte that checks the latents: without
it a receiver whose network computes something else would decode noise without noticing.  What padding adds at the right
and bottom edge is never sent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.tiling import tile, tile_grid, untile
from ...lightning_modules.diffusion import gaussian
from ...lightning_modules.diffusion.pixels import LEVELS, log_likelihood, to_bin_centres
from ...lightning_modules.diffusion.universal_quantization import interval_log_mass
from ...lightning_modules.uqdm import METHODS, UQDM, Method
from .. import container
from ..base import CodecError, Header, Stream, check_image, check_model
from ..entropy import SegmentDecoder, SegmentEncoder, Tables
from ..threads import reproducible
from .latents import TILE, UNITS, StepParameters, UQDMChain
from .tables import PixelTables, step_index, step_table

DOUBLE = 1  # bit of the header's parameter byte: the network runs in float64; without it, as in older files, in float32

Progress = Callable[[int, int], None]
Ints = NDArray[np.int32]


class UQDMCodec:
    """Progressive codec over a trained UQDM, lossless when all its segments are sent.

    model           a UQDM on RGB tiles of 64 x 64 pixels, see diffpress.lightning_modules.uqdm.load_uqdm
    reconstruction  how a prefix becomes an image unless `decode` is told otherwise: "denoise" (E[x | z], least squared
                    error), "ancestral" (remaining steps drawn from the model: realistic detail) or "flow" (remaining
                    steps along the probability flow).  A whole file is exact whatever it says.
    """

    name = "uqdm"
    suffix = ".uqdm"
    lossless = True  # see codecs.base.Lossless

    def __init__(self, model: UQDM, reconstruction: Method = "denoise") -> None:
        if not isinstance(model, UQDM):
            raise CodecError(f"--codec uqdm needs a UQDM model, not {type(model).__name__}")
        if reconstruction not in METHODS:
            raise CodecError(f"unknown reconstruction {reconstruction!r}; available: {', '.join(METHODS)}")
        if model.network.config.n_channels != 3 or TILE % model.network.multiple:
            raise CodecError("the model does not work on RGB tiles of 64 x 64 pixels")
        self.model = model.eval()
        self.reconstruction: Method = reconstruction

    @property
    def fingerprint(self) -> bytes:
        return self.model.fingerprint

    def encode(
        self,
        image: torch.Tensor,
        *,
        segments: int | None = None,
        bpp: float | None = None,
        lossless: bool = False,
        progress: Progress | None = None,
    ) -> Stream:
        """The stream of uint8 `image` [3, H, W].

        segments  send only the first of the n_steps + 1 segments
        bpp       send as many segments as fit in this many bits per pixel of the file
        lossless  send all of them, whatever `bpp` says; without any of the three they are all sent, too
        progress  called with (segments done, segments in all)
        Raises CodecError.
        """
        check_image(image)
        total = self.model.n_steps + 1
        if segments is not None and not 1 <= segments <= total:
            raise CodecError(f"--segments must lie between 1 and {total} for this model")
        if bpp is not None and not bpp > 0:
            raise CodecError("--bpp must be a positive number")
        with reproducible(self.model.device) as workers:
            stream = self._encode(image, total if lossless else segments or total, None, progress, workers)
        if bpp is not None and not lossless:
            pixels = image.shape[1] * image.shape[2]
            kept = stream.segments
            while len(container.write(stream, self)) * 8 > bpp * pixels:
                kept = kept[:-1]
                if not kept:
                    raise CodecError(f"{bpp} bpp is less than the first segment of this image takes")
                stream = Stream(stream.header, kept)
        return stream

    def measure(self, image: torch.Tensor) -> tuple[Stream, list[float]]:
        """(stream, negative ELBO of each segment in bits) of uint8 `image` [3, H, W], with all segments.

        The negative ELBO takes the network's means and stds as they are; the file takes rounded ones, so it is a
        little longer.  Raises CodecError.
        """
        check_image(image)
        nelbo: list[float] = []
        with reproducible(self.model.device) as workers:
            return self._encode(image, self.model.n_steps + 1, nelbo, None, workers), nelbo

    def _encode(
        self, image: torch.Tensor, count: int, nelbo: list[float] | None, progress: Progress | None, workers: int,
        double: bool = True,
    ) -> Stream:
        """The first `count` segments; their bits under the unrounded model are appended to `nelbo`."""
        size = (image.shape[1], image.shape[2])
        tiles = tile(image.cpu(), TILE)
        inside = _inside(size)
        chain = UQDMChain(self.model, len(tiles), workers, double)
        encoder = SegmentEncoder()
        checks: list[bytes] = []
        x = to_bin_centres(tiles, torch.float64)
        for step in range(min(count, self.model.n_steps)):
            parameters = chain.step_parameters(unrounded=nelbo is not None)
            dither = chain.dither()
            offset = chain.dither_value(dither)
            # q(z_s | z_t, x): the encoder alone needs it, so it may round differently from machine to machine
            mean, _ = gaussian.posterior(chain.latents(), x, chain.log_snrs[step + 1], chain.log_snrs[step])
            target = mean.numpy() * (UNITS / chain.delta(step))
            k = np.rint((target - parameters.mean + offset) / UNITS).astype(np.int32)
            k[~inside] = 0
            encoder.encode(k[inside], step_index(parameters.std_index[inside], dither[inside]), self._step_tables())
            encoder.end_segment()
            units = parameters.mean + UNITS * k - offset
            if nelbo is not None:
                nelbo.append(self._step_bits(units[inside] / UNITS, parameters, inside))
            chain.advance(units)
            checks.append(_checksum(units))
            if progress:
                progress(step + 1, count)
        if count > self.model.n_steps:
            tables = PixelTables(chain.log_snrs[-1])
            number, base = tables.locate(grey_levels(chain))
            encoder.encode(tiles.numpy()[inside] - base[inside], number[inside], tables.table)
            encoder.end_segment()
            checks.append(b"")
            if nelbo is not None:
                log_snr_0 = torch.tensor(chain.log_snrs[-1], dtype=torch.float64)
                nats = -log_likelihood(tiles, chain.latents(), log_snr_0)
                nelbo.append(float(nats[torch.from_numpy(inside)].sum()) / np.log(2.0))
            if progress:
                progress(count, count)
        segments = tuple(words + check for words, check in zip(encoder.segments(), checks, strict=True))
        return Stream(Header(self.name, *size, self.fingerprint, bytes([DOUBLE * double])), segments)

    def _step_bits(self, z: NDArray[np.float64], parameters: StepParameters, inside: NDArray[np.bool_]) -> float:
        """-log2 p of latents z [M], in deltas, under the unrounded parameters."""
        assert parameters.unrounded is not None
        mean, std = (torch.from_numpy(value[inside]) for value in parameters.unrounded)
        nats = interval_log_mass(torch.from_numpy(z) - mean, torch.ones_like(std), std, self.model.base_prior)
        return -float(nats.sum()) / np.log(2.0)

    def decode(
        self,
        stream: Stream,
        *,
        segments: int | None = None,
        reconstruction: Method | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """uint8 [3, H, W] from the first `segments` segments (None: all there are); exact if these are all of them.

        reconstruction  in place of the codec's own
        progress        called with (segments done, segments in all)
        Raises CodecError: another model's stream, a stream that this machine's arithmetic does not reproduce, ...
        """
        header = stream.header
        check_model(header, self.name, self.fingerprint)
        if header.params not in (b"\0", bytes([DOUBLE])):
            raise CodecError("the file uses an option of the uqdm codec that this program does not know")
        count = len(stream.segments) if segments is None else segments
        if not 0 <= count <= len(stream.segments):
            raise CodecError(f"the file has {len(stream.segments)} segments, not {segments}")
        steps = self.model.n_steps
        if len(stream.segments) > steps + 1:
            raise CodecError(f"the file has {len(stream.segments)} segments, more than its model's {steps + 1}")
        with reproducible(self.model.device) as workers:
            return self._decode(stream, count, reconstruction or self.reconstruction, progress, workers)

    def _decode(
        self, stream: Stream, count: int, reconstruction: Method, progress: Progress | None, workers: int
    ) -> torch.Tensor:
        header, steps = stream.header, self.model.n_steps
        size = (header.height, header.width)
        inside = _inside(size)
        double = header.params == bytes([DOUBLE])
        chain = UQDMChain(self.model, len(inside), workers, double)
        words = [segment[:-1] if index < steps else segment for index, segment in enumerate(stream.segments[:count])]
        decoder = SegmentDecoder(words)
        for step in range(min(count, steps)):
            parameters = chain.step_parameters()
            dither = chain.dither()
            k = np.zeros(inside.shape, np.int32)
            number = step_index(parameters.std_index[inside], dither[inside])
            try:
                k[inside] = decoder.decode(number, self._step_tables())
            except CodecError as error:
                raise CodecError(_mismatch(step)) from error
            chain.advance(parameters.mean + UNITS * k - chain.dither_value(dither))
            if stream.segments[step][-1:] != _checksum(chain.units):
                raise CodecError(_mismatch(step))
            if progress:
                progress(step + 1, count)
        if count <= steps:
            return untile(chain.reconstruct(reconstruction), size)
        tables = PixelTables(chain.log_snrs[-1])
        number, base = tables.locate(grey_levels(chain))
        pixels = np.zeros(inside.shape, np.int64)
        pixels[inside] = decoder.decode(number[inside], tables.table) + base[inside]
        if progress:
            progress(count, count)
        return untile(torch.from_numpy(pixels.clip(0, LEVELS - 1).astype(np.uint8)), size)

    def _step_tables(self) -> Tables:
        return lambda number: step_table(self.model.base_prior, number)


def grey_levels(chain: UQDMChain) -> NDArray[np.float64]:
    """z_0 / alpha_0 [N, 3, TILE, TILE] of a chain at its end, in grey levels: the mean of p(x | z_0)."""
    alpha, _ = gaussian.alpha_sigma(chain.log_snrs[-1])
    return (((chain.latents() / alpha + 1.0) * LEVELS - 1.0) / 2.0).numpy()


def _inside(size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool [N, 3, TILE, TILE]: which samples of the tiles belong to an image of (H, W) = `size`."""
    rows, columns = tile_grid(size, TILE)
    frame = torch.zeros(3, rows * TILE, columns * TILE, dtype=torch.bool)
    frame[:, : size[0], : size[1]] = True
    return tile(frame, TILE).numpy()


def _checksum(units: Ints) -> bytes:
    """One byte that depends on every latent."""
    return bytes([zlib.crc32(units.astype("<i4").tobytes()) & 0xFF])


def _mismatch(step: int) -> str:
    return f"segment {step + 1} does not decode: it is damaged, or this machine's arithmetic differs from the writer's"
