"""The UQDM codec: universally quantized diffusion steps, then every pixel exactly (Yang et al. 2025, section 3).

An image of any size is cut into 64 x 64 tiles that are coded together.  Each diffusion step is one segment (latents.py
has the equations): words of a range coder that runs through all of them, and one byte that checks the latents, without
which a receiver whose network computes something else would decode noise without noticing.  Any prefix decodes.  What
padding adds at the right and bottom edge is never sent.

A lossless file has one more segment.  As published it is p(x | z_0) behind all steps, in the same range coder.  Much
shorter is to send few steps, and then each pixel given those decoded before and the picture that the steps make
(codecs/pixels/).  That picture is rounded to grey levels, once for each sample: as a step's mean it comes out alike
wherever the network's float64 does, and what would not is noticed by the segment's CRC.  Behind a single step the
pixels do without it, so that they need no network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.tiling import tile, tile_grid, untile
from ...lightning_modules.diffusion import gaussian
from ...lightning_modules.diffusion.pixels import LEVELS, log_likelihood, to_bin_centres, to_signed
from ...lightning_modules.diffusion.universal_quantization import interval_log_mass
from ...lightning_modules.uqdm import METHODS, UQDM, Method
from .. import container
from ..base import CodecError, Header, Stream, check_image, check_model
from ..entropy import SegmentDecoder, SegmentEncoder, Tables
from ..pixels.segment import decode_pixels, encode_pixels
from ..threads import reproducible
from .latents import TILE, UNITS, StepParameters, UQDMChain
from .tables import PixelTables, step_index, step_table

# bits of the header's parameter byte
DOUBLE = 1  # the network runs in float64; without it, as in older files, in float32
PIXELS = 2  # the last of the announced segments is one of codecs/pixels/
ENDINGS = ("pixels", "likelihood")

# docs/results/uqdm-coding.md
STEPS_BEFORE_PIXELS = 1  # of a lossless file, unless asked for more
FIRST_ESTIMATE = 2  # steps from which on their estimate makes the segment of the pixels shorter; before it is left out

Progress = Callable[[int, int], None]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


class UQDMCodec:
    """Progressive codec over a trained UQDM, with a lossless mode.

    model           a UQDM on RGB tiles of 64 x 64 pixels, see diffpress.lightning_modules.uqdm.load_uqdm
    reconstruction  how a prefix becomes an image unless `decode` is told otherwise: "denoise" (E[x | z], least squared
                    error), "ancestral" (remaining steps drawn from the model: realistic detail) or "flow" (remaining
                    steps along the probability flow).  A lossless file is exact whatever it says.
    ending          how a lossless file ends: "pixels" (few steps, then the pixels given their estimate and neighbours:
                    the shortest files) or "likelihood" (all steps, then p(x | z_0), as published).  Files say which.
    """

    name = "uqdm"
    suffix = ".uqdm"
    lossless = True  # see codecs.base.Lossless

    def __init__(
        self, model: UQDM, reconstruction: Method = "denoise", ending: Literal["pixels", "likelihood"] = "pixels"
    ) -> None:
        if not isinstance(model, UQDM):
            raise CodecError(f"--codec uqdm needs a UQDM model, not {type(model).__name__}")
        if reconstruction not in METHODS:
            raise CodecError(f"unknown reconstruction {reconstruction!r}; available: {', '.join(METHODS)}")
        if ending not in ENDINGS:
            raise CodecError(f"unknown ending {ending!r}; available: {', '.join(ENDINGS)}")
        if model.network.config.n_channels != 3 or TILE % model.network.multiple:
            raise CodecError("the model does not work on RGB tiles of 64 x 64 pixels")
        self.model = model.eval()
        self.reconstruction: Method = reconstruction
        self.ending = ending

    @property
    def fingerprint(self) -> bytes:
        return self.model.fingerprint

    @property
    def max_segments(self) -> int:
        """Segments of the longest files: every step, and the pixels."""
        return self.model.n_steps + 1

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

        segments  send only the first of the n_steps + 1 published segments: steps, then the pixels given z_0
        bpp       send as many segments as fit in this many bits per pixel of the file
        lossless  restore every pixel by one more segment, behind as many steps as bpp or segments ask for, else
                  STEPS_BEFORE_PIXELS; a file without any of the three is lossless, too
        progress  called with (segments done, segments in all)
        Raises CodecError.
        """
        check_image(image)
        told = segments is not None or bpp is not None
        with_pixels = self.ending == "pixels" and (lossless or not told)
        if lossless and told and not with_pixels:
            raise CodecError("--ending likelihood sends every step of a lossless file: give no --segments and no --bpp")
        most = self.max_segments - with_pixels
        if segments is not None and not 1 <= segments <= most:
            behind = " before the pixels" if with_pixels else ""
            raise CodecError(f"--segments must lie between 1 and {most} for this model{behind}")
        if bpp is not None and not bpp > 0:
            raise CodecError("--bpp must be a positive number")
        count = segments or (STEPS_BEFORE_PIXELS if with_pixels and bpp is None else most)
        with reproducible(self.model.device) as workers:
            stream, chain = self._encode(image, count, None, progress, workers)
            if bpp is not None:
                stream = self._fitting(stream, bpp)
            if not with_pixels:
                return stream
            if len(stream.segments) < count:  # the chain has gone further than the file
                stream, chain = self._encode(image, len(stream.segments), None, None, workers)
            estimate = _estimate(chain, stream.header) if chain.step >= FIRST_ESTIMATE else None
            segment = encode_pixels(image.cpu(), estimate, threads=workers)
        header = replace(stream.header, params=bytes([DOUBLE | PIXELS]))
        return Stream(header, (*stream.segments, segment))

    def _fitting(self, stream: Stream, bpp: float) -> Stream:
        """The longest prefix whose file has at most `bpp` bits per pixel."""
        pixels = stream.header.height * stream.header.width
        while stream.segments and len(container.write(stream, self)) * 8 > bpp * pixels:
            stream = Stream(stream.header, stream.segments[:-1])
        if not stream.segments:
            raise CodecError(f"{bpp} bpp is less than the first segment of this image takes")
        return stream

    def measure(self, image: torch.Tensor) -> tuple[Stream, list[float]]:
        """(stream, negative ELBO of each segment in bits) of uint8 `image` [3, H, W], with all published segments.

        The negative ELBO takes the network's means and stds as they are; the file takes rounded ones, so it is a
        little longer.  Raises CodecError.
        """
        check_image(image)
        nelbo: list[float] = []
        with reproducible(self.model.device) as workers:
            return self._encode(image, self.max_segments, nelbo, None, workers)[0], nelbo

    def _encode(
        self, image: torch.Tensor, count: int, nelbo: list[float] | None, progress: Progress | None, workers: int,
        double: bool = True,
    ) -> tuple[Stream, UQDMChain]:
        """The first `count` published segments, and the chain behind them; the segments' bits under the unrounded model
        are appended to `nelbo`."""
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
        return Stream(Header(self.name, *size, self.fingerprint, bytes([DOUBLE * double])), segments), chain

    def _step_bits(self, z: NDArray[np.float64], parameters: StepParameters, inside: Bools) -> float:
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
        """uint8 [3, H, W] from the first `segments` segments (None: all there are); exact if the pixels are among them.

        reconstruction  in place of the codec's own
        progress        called with (segments done, segments in all)
        Raises CodecError: another model's stream, a stream that this machine's arithmetic does not reproduce, ...
        """
        count = len(stream.segments) if segments is None else segments
        return next(self._decode(stream, [count], reconstruction or self.reconstruction, progress))

    def decode_prefixes(
        self, stream: Stream, counts: Sequence[int], progress: Progress | None = None
    ) -> Iterator[torch.Tensor]:
        """See Progressive.decode_prefixes."""
        return self._decode(stream, counts, self.reconstruction, progress)

    def prefix(self, stream: Stream, segments: int) -> Stream:
        """See Progressive.prefix."""
        header = stream.header
        if segments < stream.announced:
            header = replace(header, params=bytes([self._flags(header) & ~PIXELS]))
        return Stream(header, stream.segments[:segments])

    def _decode(
        self, stream: Stream, counts: Sequence[int], reconstruction: Method, progress: Progress | None
    ) -> Iterator[torch.Tensor]:
        header, flags = stream.header, self._flags(stream.header)
        for count in counts:
            if not 0 <= count <= len(stream.segments):
                raise CodecError(f"the file has {len(stream.segments)} segments, not {count}")
        if stream.announced > self.max_segments:
            raise CodecError(f"the file has {stream.announced} segments, more than its model's {self.max_segments}")
        steps = stream.announced - 1 if flags & PIXELS else self.model.n_steps
        if steps < 1:
            raise CodecError("the file announces pixels behind a step, and has none")
        size, inside = (header.height, header.width), _inside((header.height, header.width))
        chain = UQDMChain(self.model, len(inside), torch.get_num_threads(), bool(flags & DOUBLE))
        used = stream.segments[: min(counts[-1], steps if flags & PIXELS else steps + 1)]
        decoder = SegmentDecoder([segment[:-1] if index < steps else segment for index, segment in enumerate(used)])

        def advanced(target: int) -> UQDMChain:
            while chain.step < target:
                self._receive(chain, decoder, stream.segments[chain.step], inside)
                if progress:
                    progress(chain.step, counts[-1])
            return chain

        for count in counts:
            with reproducible(self.model.device) as workers:
                if count <= steps:
                    image = untile(advanced(count).reconstruct(reconstruction), size)
                elif flags & PIXELS:  # the steps are decoded where the pixels need their estimate
                    image = decode_pixels(
                        stream.segments[steps], size, lambda: _estimate(advanced(steps), header), workers
                    )
                else:
                    image = untile(_pixels_given_latents(advanced(steps), decoder, inside), size)
                if progress and count > steps:
                    progress(count, count)
            yield image

    def _receive(self, chain: UQDMChain, decoder: SegmentDecoder, segment: bytes, inside: Bools) -> None:
        """Advance `chain` by the step of `segment`, whose words `decoder` takes next."""
        parameters = chain.step_parameters()
        dither = chain.dither()
        k = np.zeros(inside.shape, np.int32)
        number = step_index(parameters.std_index[inside], dither[inside])
        try:
            k[inside] = decoder.decode(number, self._step_tables())
        except CodecError as error:
            raise CodecError(_mismatch(chain.step)) from error
        units = parameters.mean + UNITS * k - chain.dither_value(dither)
        if segment[-1:] != _checksum(units):
            raise CodecError(_mismatch(chain.step))
        chain.advance(units)

    def _flags(self, header: Header) -> int:
        """The parameter byte of a file that this codec and model have written."""
        check_model(header, self.name, self.fingerprint)
        if header.params not in (b"\0", bytes([DOUBLE]), bytes([DOUBLE | PIXELS])):
            raise CodecError("the file uses an option of the uqdm codec that this program does not know")
        return header.params[0]

    def _step_tables(self) -> Tables:
        return lambda number: step_table(self.model.base_prior, number)


def _estimate(chain: UQDMChain, header: Header) -> torch.Tensor:
    """float32 [3, H, W] in [-1, 1]: the picture of least squared error, in whole grey levels."""
    return to_signed(untile(chain.reconstruct("denoise"), (header.height, header.width)))


def _pixels_given_latents(chain: UQDMChain, decoder: SegmentDecoder, inside: Bools) -> torch.Tensor:
    """uint8 [N, 3, TILE, TILE] of a published last segment, under p(x | z_0)."""
    tables = PixelTables(chain.log_snrs[-1])
    number, base = tables.locate(grey_levels(chain))
    pixels = np.zeros(inside.shape, np.int64)
    pixels[inside] = decoder.decode(number[inside], tables.table) + base[inside]
    return torch.from_numpy(pixels.clip(0, LEVELS - 1).astype(np.uint8))


def grey_levels(chain: UQDMChain) -> NDArray[np.float64]:
    """z_0 / alpha_0 [N, 3, TILE, TILE] of a chain at its end, in grey levels: the mean of p(x | z_0)."""
    alpha, _ = gaussian.alpha_sigma(chain.log_snrs[-1])
    return (((chain.latents() / alpha + 1.0) * LEVELS - 1.0) / 2.0).numpy()


def _inside(size: tuple[int, int]) -> Bools:
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
