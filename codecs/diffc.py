"""DiffC: an image as a run of noisy samples, each sent by reverse-channel coding (Theis et al. 2022; Vonderfecht and
Liu 2025, algorithms 1 and 2).

The sender knows q(z_s | z_t, x), both sides know p(z_s | z_t) from the prior's denoiser; step by step a sample of q is
sent for about KL(q || p) bits.  A segment is one step: one byte for its KL budget relative to the calibrated one,
where the file is large enough to afford it, and the coder's payload.  Parsing never needs the network, so a file
decodes on every device.  Decoding ends with one of three reconstructions: the denoiser's estimate ("mse"), the
probability flow ("flow", DiffC-F) or ancestral sampling ("ancestral", DiffC-A).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..kernels import get_backend
from ..lightning_modules.gaussian import flow_step, posterior
from ..lightning_modules.priors.base import Prior
from . import container
from .base import CodecError, Header, Stream, check_image, check_model, register
from .calibration import Schedule, load_schedules, snr_gain, step_bits
from .exact import decode_exact, encode_exact, exact_size
from .reverse_channel import get_coder

CODERS = ("pfr", "trellis")
RECONSTRUCTIONS = ("mse", "flow", "ancestral")
NO_BITS, NOMINAL = 0, 128  # budget codes: nothing is sent; exactly the calibrated KL
CODES_PER_OCTAVE = 16  # neighbouring budget codes differ by a factor 2^(1/16), 4.4 %
SIDE_SHARE = 0.02  # each step's budget travels in the file when these bytes are at most this share of it
START_KEY, ANCESTRAL_KEY = 1 << 40, 1 << 41  # keys of the other shared noise; step i uses key i

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What the two parameter bytes of a header say.

    preset    index into the calibration's presets
    coder     index into CODERS
    budgets   whether each segment starts with its own budget code; else the first byte of the first one serves all
    lossless  whether the last segment restores the image exactly
    partial   the last step goes partial / 256 of the way to its level; 0 means all the way
    """

    preset: int
    coder: int
    budgets: bool
    lossless: bool
    partial: int = 0

    def to_bytes(self) -> bytes:
        return bytes([self.preset << 4 | self.lossless << 3 | self.budgets << 2 | self.coder, self.partial])

    @classmethod
    def from_bytes(cls, params: bytes) -> Plan:
        flags = params[0]
        if flags & 3 >= len(CODERS):
            raise CodecError("the file was written by a reverse-channel coder this program does not know")
        return cls(flags >> 4, flags & 3, bool(flags & 4), bool(flags & 8), params[1])


@dataclass
class _State:
    """The chain after `steps` steps: z [1, C, h, w] at noise level `level`."""

    z: Tensor
    level: int
    steps: int = 0


@register("diffc")
class DiffC:
    """The DiffC codec over any prior.

    model           a Prior
    coder           "trellis" or "pfr"
    preset          name of the schedule to encode with: more steps cost time and save bits
    reconstruction  "mse" (best PSNR), "flow" or "ancestral" (more realistic textures)
    flow_steps      network evaluations of the latter two
    schedules       presets to use instead of the calibration beside the model
    """

    name = "diffc"
    suffix = ".dfc"

    def __init__(
        self,
        model: Prior,
        coder: str = "trellis",
        preset: str = "default",
        reconstruction: str = "mse",
        flow_steps: int = 50,
        schedules: list[Schedule] | None = None,
    ) -> None:
        if coder not in CODERS:
            raise CodecError(f"unknown coder {coder!r}; available: {', '.join(CODERS)}")
        if reconstruction not in RECONSTRUCTIONS:
            raise CodecError(f"unknown reconstruction {reconstruction!r}; available: {', '.join(RECONSTRUCTIONS)}")
        self.prior = model
        self.schedules = load_schedules(model.folder) if schedules is None else schedules
        names = [schedule.name for schedule in self.schedules]
        if preset not in names:
            raise CodecError(f"unknown preset {preset!r}; this model has {', '.join(names)}")
        self.preset, self.coder = names.index(preset), CODERS.index(coder)
        self.reconstruction, self.flow_steps = reconstruction, flow_steps
        self.backend = get_backend("cpu" if model.device.type == "cpu" else None)

    # ---- the chain, the same for both sides ----------------------------------------------------------------------

    def _start(self, size: tuple[int, int]) -> _State:
        """Pure noise that both sides draw alike."""
        channels, height, width = self.prior.shape(size)
        noise = self._noise(START_KEY, channels * height * width)
        return _State(noise.view(1, channels, height, width), self.prior.num_levels)

    def _noise(self, key: int, dimensions: int) -> Tensor:
        row = torch.zeros(1, dtype=torch.int64, device=self.backend.device)
        return self.backend.normal_rows(key, 0, row, dimensions)[0].to(self.prior.device)

    def _log_snr(self, state: _State) -> float:
        return self.prior.log_snr(state.level) if state.steps else -math.inf

    def _target(self, plan: Plan, state: _State, partial: int) -> int:
        """The level at which the next step ends."""
        full = self.schedules[plan.preset].levels[state.steps]
        return state.level - round((state.level - full) * (partial or 256) / 256)

    def _expected_bits(self, plan: Plan, state: _State, target: int, dimensions: int) -> float:
        """Calibrated KL of the step from `state` to level `target`."""
        gain = snr_gain(self.prior.log_snr(target), self._log_snr(state))
        return step_bits(dimensions, gain * self.schedules[plan.preset].mse[state.steps])

    def _budget(self, plan: Plan, state: _State, target: int, code: int) -> float:
        """KL in bits that the step may carry, 0 for none."""
        if code == NO_BITS:
            return 0.0
        return self._expected_bits(plan, state, target, state.z.numel()) * 2 ** ((code - NOMINAL) / CODES_PER_OCTAVE)

    def _advance(self, state: _State, target: int, mean: Tensor, deviation: Tensor, sample: Tensor) -> _State:
        return _State(mean + deviation * sample.view_as(mean), target, state.steps + 1)

    # ---- encoding ------------------------------------------------------------------------------------------------

    def encode(
        self,
        image: Tensor,
        *,
        bpp: float | None = None,
        segments: int | None = None,
        lossless: bool = False,
        progress: Progress | None = None,
    ) -> Stream:
        """The stream of uint8 `image` [3, H, W].

        bpp       stop at this many bits per pixel of the whole file
        segments  stop after this many steps
        lossless  send all steps and one more segment that restores every pixel
        progress  called with (steps done, steps at most)
        With none of the first three, every step of the preset is sent.  Raises CodecError.
        """
        check_image(image)
        size = (image.shape[1], image.shape[2])
        if lossless and not self.prior.lossless:
            raise CodecError("this model works on latents and has no lossless mode")
        if bpp is not None and not (bpp > 0 and math.isfinite(bpp)):
            raise CodecError("--bpp must be a positive number")
        steps = len(self.schedules[self.preset].levels)
        if segments is not None and not 1 <= segments <= steps:
            raise CodecError(f"--segments must lie between 1 and {steps} for this preset")
        steps = segments or steps
        limit = math.inf if bpp is None or lossless else math.floor(bpp * size[0] * size[1] / 8)
        x0 = self.prior.encode(image[None])
        plan = Plan(self.preset, self.coder, True, lossless)
        ideal = self._run_ideal(plan, size, x0, steps, limit)
        if ideal is not None:
            plan = replace(plan, budgets=False)
        header = Header(self.name, *size, self.prior.fingerprint, plan.to_bytes())
        stream, state = self._send(Stream(header, ()), plan, x0, steps, limit, ideal, progress)
        if lossless:
            estimate = self.prior.denoise(state.z, state.level)
            stream = replace(stream, segments=(*stream.segments, encode_exact(image, estimate[0])))
        if not stream.segments:
            raise CodecError(f"{bpp} bpp is too little for one step of a {size[1]} x {size[0]} image")
        return stream

    def _run_ideal(self, plan: Plan, size: tuple[int, int], x0: Tensor, steps: int, limit: float) -> int | None:
        """The one budget code that suits a small image best, from a dry run without coder; None for a large one.

        A byte per step is worth it as soon as these bytes are a small share of the file.
        """
        state, expected = self._start(size), 0.0
        for _ in range(steps):
            target = self._target(plan, state, 0)
            expected += self._expected_bits(plan, state, target, x0.numel())
            state = _State(state.z, target, state.steps + 1)
        if 8 * steps <= SIDE_SHARE * min(expected, 8 * limit):
            return None
        state, actual, expected = self._start(size), 0.0, 0.0
        for _ in range(steps):
            target = self._target(plan, state, 0)
            mean, deviation, mu = self._whitened(state, x0, target)
            actual += step_bits(x0.numel(), float(mu.double().square().mean()))
            expected += self._expected_bits(plan, state, target, x0.numel())
            state = self._advance(state, target, mean, deviation, mu + self._noise(state.steps, x0.numel()))
            if expected > 8 * limit:
                break
        return _code(actual / expected)

    def _whitened(self, state: _State, x0: Tensor, target: int) -> tuple[Tensor, Tensor, Tensor]:
        """(mean and deviation of p(z_s | z_t), whitened mean difference mu [d] of q)."""
        x_hat = self.prior.denoise(state.z, state.level)
        log_snr_s, log_snr_t = self.prior.log_snr(target), self._log_snr(state)
        mean, deviation = posterior(state.z, x_hat, log_snr_s, log_snr_t)
        gain = snr_gain(log_snr_s, log_snr_t)
        return mean, deviation, (math.sqrt(gain) * (x0 - x_hat)).flatten()

    def _send(
        self,
        stream: Stream,
        plan: Plan,
        x0: Tensor,
        steps: int,
        limit: float,
        common: int | None,
        progress: Progress | None,
    ) -> tuple[Stream, _State]:
        """Add segments until `steps` are sent or the file would grow beyond `limit` bytes."""
        state = self._start((stream.header.height, stream.header.width))
        for index in range(steps):
            x_hat = self.prior.denoise(state.z, state.level)
            fitted = self._fit(stream, plan, state, x0 - x_hat, limit, common)
            if fitted is None:
                break
            stream, target, sample, partial = fitted
            mean, deviation = posterior(state.z, x_hat, self.prior.log_snr(target), self._log_snr(state))
            state = self._advance(state, target, mean, deviation, sample)
            if progress:
                progress(index + 1, steps)
            if partial:
                params = replace(plan, partial=partial).to_bytes()
                stream = replace(stream, header=replace(stream.header, params=params))
                break
        return stream, state

    def _fit(
        self, stream: Stream, plan: Plan, state: _State, difference: Tensor, limit: float, common: int | None
    ) -> tuple[Stream, int, Tensor, int] | None:
        """The next step, as far as `limit` allows: (longer stream, level reached, sample, partial), or None.

        Without a limit the step is sent whole.  Else the bits of a shorter step are known in advance, because
        |mu|^2 = (SNR_s - SNR_t) |x - x0_hat|^2; only the coder's overhead is learned by trying.
        """
        coder = get_coder(CODERS[plan.coder])
        dimensions, error = difference.numel(), float(difference.double().square().mean())
        room = limit - len(container.write(stream, self))
        overhead = 1.0
        for partial in (0, *range(255, 0, -1)):
            target = self._target(plan, state, partial)
            if target == state.level:
                return None
            gain = snr_gain(self.prior.log_snr(target), self._log_snr(state))
            expected = self._expected_bits(plan, state, target, dimensions)
            code = _code(step_bits(dimensions, gain * error) / expected) if common is None else common
            budget = self._budget(plan, state, target, code)
            if overhead * budget > 8 * room:
                continue
            if budget:
                payload, sample = coder.encode(math.sqrt(gain) * difference.flatten(), budget, state.steps)
            else:
                payload, sample = b"", self._noise(state.steps, dimensions)
            lead = bytes([code]) if plan.budgets or not stream.segments else b""
            longer = replace(stream, segments=(*stream.segments, lead + payload))
            if len(container.write(longer, self)) <= limit:
                return longer, target, sample, partial
            overhead = max(1.005 * overhead, 8 * len(payload) / budget) if budget else math.inf
        return None

    # ---- decoding ------------------------------------------------------------------------------------------------

    def decode(
        self,
        stream: Stream,
        *,
        segments: int | None = None,
        reconstruction: str | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """uint8 [3, H, W] from the first `segments` segments (None: all there are); raises CodecError.

        reconstruction  overrides the codec's own
        """
        header = stream.header
        plan = self._plan(header)
        count = len(stream.segments) if segments is None else segments
        if not 0 <= count <= len(stream.segments):
            raise CodecError(f"the file has {len(stream.segments)} segments, not {segments}")
        exact = plan.lossless and count == stream.announced
        state = self._start((header.height, header.width))
        coder = get_coder(CODERS[plan.coder])
        steps = count - exact
        for index in range(steps):
            partial = plan.partial if index == stream.announced - plan.lossless - 1 else 0
            target = self._target(plan, state, partial)
            segment = stream.segments[index]
            code, lead = self._code_of(plan, stream.segments[:index], segment)
            budget = self._budget(plan, state, target, code)
            if budget:
                sample = coder.decode(segment[lead:], state.z.numel(), budget, index, like=state.z)
            else:
                sample = self._noise(index, state.z.numel())
            x_hat = self.prior.denoise(state.z, state.level)
            mean, deviation = posterior(state.z, x_hat, self.prior.log_snr(target), self._log_snr(state))
            state = self._advance(state, target, mean, deviation, sample)
            if progress:
                progress(index + 1, steps + 1)
        if exact:
            estimate = self.prior.denoise(state.z, state.level)
            return decode_exact(stream.segments[-1], estimate[0], (header.height, header.width))
        x_hat = self._reconstruct(state, reconstruction or self.reconstruction)
        return self.prior.decode(x_hat, (header.height, header.width))[0].cpu()

    def _reconstruct(self, state: _State, how: str) -> Tensor:
        """x0_hat from the state where the file ends; deterministic, ancestral noise included."""
        if how == "mse":
            return self.prior.denoise(state.z, state.level)
        levels = torch.linspace(state.level, 1, self.flow_steps + 1).round().int().unique().flip(0).tolist()
        z, log_snr_t = state.z, self._log_snr(state)
        for number, (t, s) in enumerate(zip(levels, levels[1:], strict=False)):
            x_hat, log_snr_s = self.prior.denoise(z, t), self.prior.log_snr(s)
            if how == "flow":
                z = flow_step(z, x_hat, log_snr_s, log_snr_t)
            else:
                mean, deviation = posterior(z, x_hat, log_snr_s, log_snr_t)
                z = mean + deviation * self._noise(ANCESTRAL_KEY + number, z.numel()).view_as(z)
            log_snr_t = log_snr_s
        return self.prior.denoise(z, levels[-1])

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
        state = _State(torch.empty(self.prior.shape((header.height, header.width)), device="meta"),
                       self.schedules[plan.preset].levels[index - 1] if index else self.prior.num_levels, index)
        target = self._target(plan, state, plan.partial if index == count - plan.lossless - 1 else 0)
        code, lead = self._code_of(plan, before, rest)
        budget = self._budget(plan, state, target, code)
        if not budget:
            return lead
        coder = get_coder(CODERS[plan.coder])
        return lead + coder.payload_size(rest[lead:], state.z.numel(), budget, index)

    def _plan(self, header: Header) -> Plan:
        check_model(header, self.name, self.prior.fingerprint)
        plan = Plan.from_bytes(header.params)
        if plan.preset >= len(self.schedules):
            raise CodecError(f"the file uses preset {plan.preset}, and the model has {len(self.schedules)}")
        return plan

    def _code_of(self, plan: Plan, before: Sequence[bytes], segment: bytes | memoryview) -> tuple[int, int]:
        """(budget code of a segment, number of bytes in front of its payload)."""
        if plan.budgets:
            return segment[0], 1
        return (before[0][0], 0) if before else (segment[0], 1)


def _code(ratio: float) -> int:
    """The budget code of `ratio` times the calibrated KL; nothing is sent below 2^-8 times of it."""
    if ratio <= 0:
        return NO_BITS
    return min(255, max(NO_BITS, NOMINAL + round(CODES_PER_OCTAVE * math.log2(ratio))))
