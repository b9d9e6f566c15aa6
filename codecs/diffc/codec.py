"""DiffC: an image as a run of noisy samples, each sent by reverse-channel coding (Theis et al. 2022; Vonderfecht and
Liu 2025, algorithms 1 and 2).

The sender knows q(z_s | z_t, x), both sides know p(z_s | z_t) from the prior's denoiser; step by step a sample of q is
sent for about KL(q || p) bits.  A step is sent in parts, bands of spatial frequency and colour that p gives unlike
variances (bands.py), where the calibration knows them.  A segment is one step: a byte per part for its KL budget
relative to the calibrated one, where the file is large enough to afford it, and the coder's payloads.  Parsing never
needs the network, so a file decodes on every device.  Decoding ends with a reconstruction of the decoder's choice: the
denoiser's estimate ("mse"), the average of its estimates in the picture's eight orientations ("ensemble"), the
probability flow ("flow", DiffC-F) or ancestral sampling ("ancestral", DiffC-A).  What both sides compute alike is in
diffc_chain.py, what only the encoder decides in diffc_sender.py, what a file says besides its payloads in
diffc_plan.py.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from ...lightning_modules.priors.interface import Prior
from .. import container
from ..base import CodecError, Header, Stream, check_image, check_model
from ..pixel_residual import decode_exact, exact_size
from ..reverse_channel import CoderError, PayloadError
from ..threads import unsplit_operations
from .chain import RECONSTRUCTIONS, SharedChain, State
from .encoder import Progress, Sender
from .header import CODERS, FAST, MAX_PRESETS, Plan, Side
from .lockstep import Chain, T, run
from .schedule import Schedule, find_schedules, fingerprint_text
from .subbands import BLOCK, RADII

WEAKEN = 0.2  # docs/decisions/0054-water-filling.md, 0055-levels.md


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
    weaken          how much of what is small beside the noise at the end of a file is left out (Sender.weaken); 0 for
                    nothing, as published; None: WEAKEN where the reconstruction aims at the least error, else 0
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
        weaken: float | None = None,
    ) -> None:
        if reconstruction not in (None, *RECONSTRUCTIONS):
            raise CodecError(f"unknown reconstruction {reconstruction!r}; available: {', '.join(RECONSTRUCTIONS)}")
        self.prior = model
        beside = False  # the model, whose fingerprint then covers it
        if schedules is None:
            schedules, beside = find_schedules(model, schedule)
        names = [one.name for one in schedules]
        if preset is None:
            preset = "default" if "default" in names else names[-1]
        preset = str(preset)
        if preset not in names:
            raise CodecError(f"unknown preset {preset!r}; this model has {', '.join(names)}")
        coder = coder or ("trellis-quick" if preset == FAST else "trellis")
        if coder not in CODERS:
            raise CodecError(f"unknown coder {coder!r}; available: {', '.join(CODERS)}")
        if len(names) > MAX_PRESETS or max(one.levels[0] for one in schedules) >= model.num_levels:
            raise CodecError(f"a schedule has at most {MAX_PRESETS} presets, of levels below {model.num_levels}")
        known = RADII * model.shape((BLOCK, BLOCK))[0]
        for one in schedules:
            if one.bands is not None and len(one.bands[0]) != known:
                raise CodecError(f"the schedule knows {len(one.bands[0])} bands, and this model has {known}")
        if flow_steps < 1:
            raise CodecError("--flow-steps must be at least 1")
        self.schedules, self.preset, self.coder = schedules, names.index(preset), list(CODERS).index(coder)
        self.reconstruction, self.chain = reconstruction, SharedChain(model, schedules, flow_steps)
        self.guidance, self.denoising_guidance = guidance, denoising_guidance
        if weaken is None:
            weaken = WEAKEN if self.ending(self.preset) in ("mse", "ensemble") else 0.0
        if not 0 <= weaken < math.inf:
            raise CodecError("--weaken must be a number of 0 or more")
        self.weaken = weaken
        self.fingerprint = model.fingerprint
        if not beside:
            self.fingerprint = hashlib.sha256(model.fingerprint + fingerprint_text(schedules).encode()).digest()[:4]

    @property
    def max_segments(self) -> int:
        """Segments of the longest files: every step of the preset and, for pixels, the exact segment."""
        return len(self.schedules[self.preset].levels) + self.prior.lossless

    def ending(self, preset: int) -> str:
        """How decoding a file of that preset ends: as asked for, else as suits the prior, in fast files in one step."""
        if self.reconstruction:
            return self.reconstruction
        how = getattr(self.prior, "reconstruction", "mse")
        return "mse" if how == "ensemble" and self.schedules[preset].name == FAST else how

    # ---- encoding ------------------------------------------------------------------------------------------------

    def encode(
        self,
        image: Tensor,
        *,
        bpp: float | None = None,
        segments: int | None = None,
        lossless: bool = False,
        prompt: str = "",
        progress: Progress | None = None,
    ) -> Stream:
        """The stream of uint8 `image` [3, H, W].

        bpp       stop at this many bits per pixel of the whole file
        segments  stop after this many steps
        lossless  send steps as long as they pay and one more segment that restores every pixel
        prompt    what the image shows, for priors that read text; it becomes part of the file
        progress  called with (steps done, steps at most)
        With none of the first three, every step of the preset is sent.  Raises CodecError.
        """
        return self._run(self._encode(image, bpp, segments, lossless, prompt, progress), lossless)

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
        return run(self.prior, [
            self._encode(image, bpp, segments, False, prompt, progress)
            for image, prompt in zip(images, texts, strict=True)
        ])

    def _encode(
        self, image: Tensor, bpp: float | None, segments: int | None, lossless: bool, prompt: str,
        progress: Progress | None,
    ) -> Chain[Stream]:
        check_image(image)
        size = (image.shape[1], image.shape[2])
        if lossless and not self.prior.lossless:
            raise CodecError("this model works on latents and has no lossless mode")
        if bpp is not None and not (bpp > 0 and math.isfinite(bpp)):
            raise CodecError("--bpp must be a positive number")
        steps = len(self.schedules[self.preset].levels)
        if segments is not None and not 1 <= segments <= steps:
            raise CodecError(f"--segments must lie between 1 and {steps} for this preset")
        limit = math.inf if bpp is None or lossless else math.floor(bpp * size[0] * size[1] / 8)
        side = Side(prompt, self.guidance, self.denoising_guidance)
        plan = Plan(self.preset, self.coder, True, lossless, side=bool(side.to_bytes()))
        header = Header(self.name, *size, self.fingerprint, plan.to_bytes())
        sender = Sender(
            self.chain, plan, side, self.prior.encode(image[None]), image if lossless else None, segments or steps,
            limit, 0.0 if lossless else self.weaken, lambda stream: len(container.write(stream, self)), progress,
        )  # fmt: skip
        stream = yield from sender.send(header)
        if not stream.segments:
            raise CodecError(f"{bpp} bpp is too little for one step of a {size[1]} x {size[0]} image")
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
        return self._run(self._decode(stream, [count], reconstruction, progress), self._exact(stream, count))[0][0]

    def prefix(self, stream: Stream, segments: int) -> Stream:
        """A complete stream of the first `segments` segments, at least one, as if `encode` had stopped there."""
        whole = segments >= stream.announced
        plan = self._plan(stream.header)
        params = stream.header.params if whole else replace(plan, partial=0, lossless=False).to_bytes()
        return Stream(replace(stream.header, params=params), stream.segments[:segments])

    def decode_prefixes(self, stream: Stream, counts: Sequence[int]) -> list[tuple[Tensor, float]]:
        """The images after each of the ascending numbers of segments `counts`, in one pass through the chain, and the
        seconds that each of them takes alone, the other reconstructions not included."""
        return self._run(self._decode(stream, counts, None, None), self._exact(stream, counts[-1]))

    def _run(self, chain: Chain[T], exact: bool) -> T:
        """What `chain` returns; with an exact segment both sides need the same estimates to the last bit."""
        with unsplit_operations() if exact else nullcontext():
            return run(self.prior, [chain])[0]

    def _exact(self, stream: Stream, count: int) -> bool:
        """Whether the first `count` segments end with the exact one."""
        return self._plan(stream.header).lossless and count == stream.announced

    def _decode(
        self, stream: Stream, counts: Sequence[int], reconstruction: str | None, progress: Progress | None
    ) -> Chain[list[tuple[Tensor, float]]]:
        """The image after each number of segments in `counts`, and the seconds it takes."""
        header, plan = stream.header, self._plan(stream.header)
        for count in counts:
            if not 0 <= count <= len(stream.segments):
                raise CodecError(f"the file has {len(stream.segments)} segments, not {count}")
        side, _ = plan.read_side(stream.segments[0]) if stream.segments else (Side(), 0)
        size = (header.height, header.width)
        exact = self._exact(stream, counts[-1])
        steps = counts[-1] - exact
        images: list[tuple[Tensor, float]] = []
        spent, mark = 0.0, time.perf_counter()
        state = self.chain.start(size, side)
        for index in range(steps + 1):
            if index in counts:
                before = time.perf_counter()
                spent += before - mark
                ending = self.chain.with_guidance(state, side, self.denoising_guidance)
                x_hat = yield from self.chain.reconstruct(ending, reconstruction or self.ending(plan.preset))
                image = self.prior.decode(x_hat, size)[0].cpu()
                mark = time.perf_counter()
                images.append((image, spent + mark - before))
            if index < steps:
                state = yield from self._receive(stream, plan, state)
                if progress:
                    progress(index + 1, steps + 1)
        if exact:
            estimate = yield state.denoise()
            image = decode_exact(stream.segments[-1], estimate[0], size)
            images.append((image, spent + time.perf_counter() - mark))
        return images

    def _receive(self, stream: Stream, plan: Plan, state: State) -> Chain[State]:
        """The chain after one more segment, as the encoder had it."""
        index = state.steps
        segment = stream.segments[index]
        partial = plan.partial if index == stream.announced - plan.lossless - 1 else 0
        target, messages, lead = self.chain.read(plan, state, partial, stream.segments[:index], segment)
        sent, payloads = [message for message in messages if message.bits], []
        coder, rest = plan.make_coder(sum(message.bits for message in messages)), memoryview(segment)[lead:]
        try:
            for one in sent:
                size = coder.payload_size(rest, one.part.size, one.bits, one.key)
                payloads.append(rest[:size])
                rest = rest[size:]
            samples = coder.decode_many(
                payloads, [one.part.size for one in sent], [one.bits for one in sent], [one.key for one in sent],
                like=state.z,
            )
        except CoderError as error:
            raise CodecError(f"segment {index + 1} is damaged: {error}") from error
        sample = self.chain.join(self.chain.bands(plan, state.z), messages, samples)
        x_hat = yield state.denoise()
        return self.chain.advance(state, x_hat, target, sample)

    # ---- what the container asks -----------------------------------------------------------------------------------

    def segment_size(self, header: Header, count: int, before: Sequence[bytes], rest: memoryview) -> int:
        """Bytes of the segment at the start of `rest`, of `count` announced ones, behind the segments `before`.

        Raises container.Truncated where `rest` is too short to tell.
        """
        plan = self._plan(header)
        index = len(before)
        if plan.lossless and index == count - 1:
            return exact_size(rest)
        if index >= len(self.schedules[plan.preset].levels):
            raise CodecError("it announces more steps than its preset has")
        if not rest:
            raise container.Truncated("no room for a segment")
        level = self.schedules[plan.preset].levels[index - 1] if index else self.prior.num_levels
        shape = self.prior.shape((header.height, header.width))
        state = State(torch.empty(1, *shape, device="meta"), level, None, index)
        partial = plan.partial if index == count - plan.lossless - 1 else 0
        _, messages, size = self.chain.read(plan, state, partial, before, rest)
        coder = plan.make_coder(sum(message.bits for message in messages))
        try:
            for one in messages:
                size += coder.payload_size(rest[size:], one.part.size, one.bits, one.key) if one.bits else 0
        except PayloadError as error:
            raise container.Truncated(str(error)) from error
        except CoderError as error:
            raise CodecError(str(error)) from error
        return size

    def _plan(self, header: Header) -> Plan:
        check_model(header, self.name, self.fingerprint)
        plan = Plan.from_bytes(header.params)
        if plan.preset >= len(self.schedules):
            raise CodecError(f"the file uses preset {plan.preset}, and the model has {len(self.schedules)}")
        return plan
