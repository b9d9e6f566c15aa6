"""DiffC: an image as a run of noisy samples, each sent by reverse-channel coding (Theis et al. 2022; Vonderfecht and
Liu 2025, algorithms 1 and 2).

The sender knows q(z_s | z_t, x), both sides know p(z_s | z_t) from the prior's denoiser; step by step a sample of q is
sent for about KL(q || p) bits.  Where the calibration knows them, a step is sent in groups of subbands (spatial
frequency and colour) that p gives unlike variances.  A segment is one step: a byte per group for its KL budget relative
to the calibrated one, where the file is large enough to afford it, and the coder's payloads.

header.py   presets, and what a file says besides its payloads   encoder.py         what is sent, and where a file ends
chain.py    what both sides compute alike                        decoder.py         a segment parsed and applied
                                                                 reconstruction.py  the last state made an image
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...lightning_modules.priors.interface import Prior
from .. import container
from ..base import CodecError, Header, IdealPoint, Stream, check_image, check_model
from ..pixels.segment import decode_pixels, encode_pixels, segment_size
from ..threads import fastest, reproducible
from .chain import SharedChain, State
from .decoder import parse_segment, receive_step
from .encoder import ImageEncoder, Progress, Request, encode_together
from .header import (
    CODERS,
    FAST,
    MAX_PRESETS,
    Conditioning,
    HeaderParams,
    Schedule,
    find_schedules,
    schedule_identity,
    schedule_source,
)
from .ideal import ideal_curve
from .reconstruction import RECONSTRUCTIONS, reconstruct
from .subbands import BLOCK, RADII

WATER_FILLING = 0.2  # docs/decisions/0054-water-filling.md, 0055-levels.md


class DiffC:
    """The DiffC codec over any prior.

    model           a Prior
    coder           "trellis", "trellis-quick" (a shorter search), or "pfr" as published; None: what suits the preset
    preset          name of the schedule to encode with: more steps cost time and save bits; None: "default" if there is
                    one, else the last, which has most steps
    reconstruction  "ensemble" (best PSNR, pixel-space priors), "mse" (one evaluation), "flow" or "ancestral" (more
                    realistic textures); None: what suits the prior and the preset
    flow_steps      network evaluations of "flow" and "ancestral"
    schedule        file with presets, or the name of a shipped one (configs/diffc), to use instead of the calibration
                    beside the model; None: that calibration, else the shipped one that suits the prior
    schedules       presets to use instead of either
    guidance        scale of guidance by the prompt in the chain, a multiple of 1/8 (1: none); a file remembers it
    denoising_guidance  scale in the final reconstruction; None: as the file says, and for files written as `guidance`
    water_filling   how much of what is small beside the noise at the end of a file is left out (encoder.water_filled);
                    0 for nothing, as published; None: WATER_FILLING where the reconstruction aims at the least error,
                    else 0
    """

    name = "diffc"
    suffix = ".dfc"

    def __init__(
        self,
        model: Prior,
        coder: str | None = None,
        preset: str | int | None = None,
        reconstruction: str | None = None,
        flow_steps: int = 50,
        schedule: str | None = None,
        schedules: list[Schedule] | None = None,
        guidance: float = 1.0,
        denoising_guidance: float | None = None,
        water_filling: float | None = None,
    ) -> None:
        if reconstruction not in (None, *RECONSTRUCTIONS):
            raise CodecError(f"unknown reconstruction {reconstruction!r}; available: {', '.join(RECONSTRUCTIONS)}")
        self.prior = model
        covered = False  # by the model's own fingerprint
        self.schedule_source = "given" if schedules else schedule_source(model, schedule)
        if schedules is None:
            schedules, covered = find_schedules(model, schedule)
        names = [one.name for one in schedules]
        if preset is None:
            preset = "default" if "default" in names else names[-1]
        preset = str(preset)
        if preset not in names:
            raise CodecError(f"unknown preset {preset!r}; this model has {', '.join(names)}")
        coder = coder or ("trellis-quick" if preset == FAST else "trellis")
        if coder not in CODERS:
            raise CodecError(f"unknown coder {coder!r}; available: {', '.join(CODERS)}")
        if len(names) > MAX_PRESETS or max(one.timesteps[0] for one in schedules) >= model.num_levels:
            raise CodecError(f"a schedule has at most {MAX_PRESETS} presets, of timesteps below {model.num_levels}")
        known = RADII * model.shape((BLOCK, BLOCK))[0]
        for one in schedules:
            if one.subband_mse is not None and len(one.subband_mse[0]) != known:
                raise CodecError(
                    f"the schedule knows {len(one.subband_mse[0])} subbands, and this model has {known}"
                )
        if flow_steps < 1:
            raise CodecError("--flow-steps must be at least 1")
        self.schedules, self.preset, self.coder = schedules, names.index(preset), list(CODERS).index(coder)
        self.reconstruction, self.flow_steps, self.chain = reconstruction, flow_steps, SharedChain(model, schedules)
        self.guidance, self.denoising_guidance = guidance, denoising_guidance
        if water_filling is None:
            water_filling = WATER_FILLING if self.reconstruction_of(self.preset) in ("mse", "ensemble") else 0.0
        if not 0 <= water_filling < math.inf:
            raise CodecError("--water-filling must be a number of 0 or more")
        self.water_filling = water_filling
        self.fingerprint = model.fingerprint if covered else schedule_identity(model.fingerprint, schedules)

    @property
    def max_segments(self) -> int:
        """Segments of the longest files: every step of the preset and, for pixels, the lossless segment."""
        return len(self.schedules[self.preset].timesteps) + self.lossless

    @property
    def lossless(self) -> bool:
        """Whether the prior works on pixels, so that `encode` has a lossless mode."""
        return self.prior.lossless

    def reconstruction_of(self, preset: int) -> str:
        """How a file of that preset is reconstructed: as asked for, else as suits the prior."""
        if self.reconstruction:
            return self.reconstruction
        how = self.prior.reconstruction
        return "mse" if how == "ensemble" and self.orientations_of(preset) == 1 else how

    def orientations_of(self, preset: int) -> int:
        """Of "ensemble": as suits the prior, all of them where it was asked for."""
        return 8 if self.reconstruction else self.prior.orientations.get(self.schedules[preset].name, 8)

    # ---- encoding ------------------------------------------------------------------------------------------------

    def encode(
        self,
        image: Tensor,
        *,
        bpp: float | None = None,
        segments: int | None = None,
        lossless: bool = False,
        prompt: str = "",
        focus: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Stream:
        """The stream of uint8 `image` [3, H, W].

        bpp       stop at this many bits per pixel of the whole file; None: all steps of the preset are sent, unless
                  segments says fewer
        segments  stop after this many steps
        lossless  restore every pixel by one more segment, behind the steps that bpp or segments ask for; without
                  either no step is sent: the shortest file and the fastest, but none of its prefixes is a picture
        prompt    what the image shows, for priors that read text; it becomes part of the file
        focus     [H, W], 0 to 1: where it is less than 1, more is left out, which leaves more bits for the rest
        progress  called with (steps done, steps at most)
        Raises CodecError.
        """
        if lossless and not self.lossless:
            raise CodecError("this model works on latents and has no lossless mode")
        if lossless and focus is not None:
            raise CodecError("a focus makes no sense for a lossless file")
        if lossless and bpp is None and segments is None:
            params = HeaderParams(self.preset, self.coder, group_budgets=True, lossless=True)
            return self._with_pixels(Stream(self._header(image, params), ()), image, None)
        with self._precision(lossless):
            water_filling = 0.0 if lossless else self.water_filling
            encoder = self._encoder(image, bpp, segments, water_filling, prompt, progress, focus)
            encode_together(self.chain, [encoder])
            stream = self._finished(encoder, bpp)
            if not lossless:
                return stream
            estimate = self.chain.denoise(encoder.reached)[0]
        return self._with_pixels(stream, image, estimate)

    def encode_batch(
        self, images: Sequence[Tensor], *, bpp: float | None = None, segments: int | None = None,
        prompts: Sequence[str] = (), progress: Progress | None = None,
    ) -> list[Stream]:
        """The streams of several images, those of one size through the network together; as :meth:`encode`.

        prompts  one per image, or none at all
        A file may differ in a few payload bits from the one `encode` writes, because a batch's sums are rounded
        differently; it decodes alike.
        """
        texts = list(prompts) or [""] * len(images)
        encoders = [
            self._encoder(image, bpp, segments, self.water_filling, prompt, progress)
            for image, prompt in zip(images, texts, strict=True)
        ]
        with self._precision(lossless=False):
            encode_together(self.chain, encoders)
        return [self._finished(encoder, bpp) for encoder in encoders]

    def _encoder(
        self, image: Tensor, bpp: float | None, segments: int | None, water_filling: float, prompt: str,
        progress: Progress | None, focus: Tensor | None = None,
    ) -> ImageEncoder:
        check_image(image)
        if focus is not None and focus.shape != image.shape[1:]:
            raise CodecError(
                f"the focus has {' x '.join(map(str, reversed(focus.shape)))} pixels, and the image "
                f"{image.shape[2]} x {image.shape[1]}"
            )
        if bpp is not None and not (bpp > 0 and math.isfinite(bpp)):
            raise CodecError("--bpp must be a positive number")
        steps = len(self.schedules[self.preset].timesteps)
        if segments is not None and not 1 <= segments <= steps:
            raise CodecError(f"--segments must lie between 1 and {steps} for this preset")
        limit = math.inf if bpp is None else math.floor(bpp * image.shape[1] * image.shape[2] / 8)
        conditioning = Conditioning(prompt, self.guidance, self.denoising_guidance)
        params = HeaderParams(self.preset, self.coder, True, False, conditioned=bool(conditioning.to_bytes()))
        x0 = self.prior.encode(image[None])
        if focus is not None:  # as large as x0, which may be latents
            focus = F.adaptive_avg_pool2d(focus.to(x0)[None], (x0.shape[2], x0.shape[3]))[0]
        request = Request(self.chain, x0, segments or steps, limit, water_filling, focus)
        return ImageEncoder(
            request, self._header(image, params), params, conditioning,
            lambda stream: len(container.write(stream, self)), progress,
        )  # fmt: skip

    def _header(self, image: Tensor, params: HeaderParams) -> Header:
        _, height, width = check_image(image).shape
        return Header(self.name, height, width, self.fingerprint, params.to_bytes())

    def _with_pixels(self, steps: Stream, image: Tensor, estimate: Tensor | None) -> Stream:
        """The stream `steps` and one more segment, `image` given the `estimate` [3, h, w] after these steps."""
        params = replace(HeaderParams.from_bytes(steps.header.params), lossless=True)
        fast = self.schedules[self.preset].name == FAST
        segment = encode_pixels(image, estimate, fast, torch.get_num_threads())
        return Stream(replace(steps.header, params=params.to_bytes()), (*steps.segments, segment))

    @staticmethod
    def _finished(encoder: ImageEncoder, bpp: float | None) -> Stream:
        stream = encoder.stream
        if not stream.segments:
            size = f"{stream.header.width} x {stream.header.height}"
            raise CodecError(f"{bpp} bpp is too little for one step of a {size} image")
        return stream

    # ---- decoding ------------------------------------------------------------------------------------------------

    def decode(
        self, stream: Stream, *, segments: int | None = None, reconstruction: str | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """uint8 [3, H, W] from the first `segments` segments (None: all there are); raises CodecError.

        reconstruction  overrides the codec's own
        """
        count = len(stream.segments) if segments is None else segments
        return next(self.decode_steps(stream, [count], reconstruction, progress))

    def decode_prefixes(
        self, stream: Stream, counts: Sequence[int], progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """See Progressive.decode_prefixes."""
        return self.decode_steps(stream, counts, progress=progress)

    def decode_steps(
        self, stream: Stream, counts: Sequence[int], reconstruction: str | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """uint8 [3, H, W] after each of the ascending numbers of segments `counts`; see `decode`."""
        header, params = stream.header, self._params(stream.header)
        for count in counts:
            if not 0 <= count <= len(stream.segments):
                raise CodecError(f"the file has {len(stream.segments)} segments, not {count}")
        size, first = (header.height, header.width), stream.segments[:1]
        conditioning, _ = params.read_conditioning(first[0]) if first else (Conditioning(), 0)
        lossless = params.lossless and counts[-1] == stream.announced  # the last segment is then no step
        steps = counts[-1] - lossless
        state, threads = self.chain.start(size, conditioning), torch.get_num_threads()
        for count in counts:
            with self._precision(lossless):
                while state.step < min(count, steps):
                    state = receive_step(self.chain, stream, state)
                    if progress:
                        progress(state.step, steps + 1)
                if count > steps:
                    last = state

                    def estimate(last: State = last) -> Tensor:
                        return self.chain.denoise(last)[0]

                    image = decode_pixels(stream.segments[-1], size, estimate, threads)
                else:
                    how = reconstruction or self.reconstruction_of(params.preset)
                    last = self.chain.guided(state, conditioning, self.denoising_guidance)
                    count = 8 if reconstruction else self.orientations_of(params.preset)
                    x_hat = reconstruct(self.chain, last, how, self.flow_steps, count)
                    image = self.prior.decode(x_hat, size)[0].cpu()
            yield image

    def prefix(self, stream: Stream, segments: int) -> Stream:
        """A complete stream of the first `segments` segments, at least one, as if `encode` had stopped there."""
        header = stream.header
        if segments < stream.announced:
            header = replace(header, params=replace(self._params(header), partial=0, lossless=False).to_bytes())
        return Stream(header, stream.segments[:segments])

    def _precision(self, lossless: bool) -> AbstractContextManager[Any]:
        """For a lossless segment both sides need the same estimates to the last bit."""
        return (reproducible if lossless and not self.prior.exact else fastest)(self.prior.device)

    # ---- what the container and the evaluation ask ---------------------------------------------------------------

    def segment_size(self, header: Header, count: int, before: Sequence[bytes], rest: memoryview) -> int:
        """See SelfDelimiting.segment_size: schedule and budgets give the size of a step's payloads."""
        params = self._params(header)
        if params.lossless and len(before) == count - 1:
            return segment_size(rest)
        if not rest:  # behind every segment, an empty one too, there is at least a checksum
            raise container.Truncated("no room for a segment")
        return parse_segment(self.chain, header, count, before, rest).size

    def ideal_curve(self, image: Tensor, segments: Sequence[int], *, lossless: bool = False) -> list[IdealPoint]:
        """See IdealCoding.ideal_curve."""
        return ideal_curve(self, image, segments, lossless=lossless)

    def _params(self, header: Header) -> HeaderParams:
        check_model(header, self.name, self.fingerprint)
        params = HeaderParams.from_bytes(header.params)
        if params.preset >= len(self.schedules):
            raise CodecError(f"the file uses preset {params.preset}, and the model has {len(self.schedules)}")
        return params
