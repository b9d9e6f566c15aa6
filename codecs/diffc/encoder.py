"""The encoder's side of DiffC: what is worth sending, what each group of a step may cost, where a file ends.

Noise of one variance for all coordinates is not how a rate is best spent on squared error: what is smaller than the
noise at the end of the file costs bits on the way there, and the denoiser then takes it for noise all the same (reverse
water-filling, e.g. Cover and Thomas, *Elements of Information Theory*, 10.3.3).  So where x differs from x0_hat by
little, in a subband of a block, the difference is made smaller before it is sent.  That is the encoder's decision
alone; docs/decisions/0054-water-filling.md says what it gains.

An :class:`ImageEncoder` takes one estimate of the network at a time; `encode_together` runs several of them, so that
images of one size share the network's calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..base import Header, Stream
from .chain import CalibratedStep, CodedGroup, Shape, SharedChain, State, budget_code
from .header import Conditioning, HeaderParams
from .subbands import SingleBand, Subbands, step_bits, subbands_of

CODES_SHARE = 0.02  # each group gets a budget code of its own when the codes are at most this share of the file
WATER_FILLING_BLOCK = 32  # side of the blocks in whose subbands small differences are left out
UNFOCUSED = 8.0  # docs/decisions/0071-focus.md

Progress = Callable[[int, int], None]  # (steps done, steps at most)


def water_filled(
    difference: Tensor, log_snr: float, water_filling: float, focus: Tensor | None = None
) -> Tensor:
    """`difference` [1, C, h, w] = x0 - x0_hat without what the noise at `log_snr`, where the file ends, would drown.

    water_filling  half of a subband of a block stays where its mean square is this multiple of the noise's variance
                   exp(-log_snr), more where it is larger; 0: everything stays
    focus          [h, w], 1 where that holds; UNFOCUSED (1 - focus) is added to `water_filling` elsewhere
    """
    if not water_filling and focus is None:
        return difference
    _, channels, height, width = difference.shape
    subbands = subbands_of((channels, height, width), WATER_FILLING_BLOCK)
    if focus is None:
        return subbands.water_fill(difference, math.exp(log_snr) / water_filling)
    return subbands.water_fill(difference, math.exp(log_snr) / (water_filling + UNFOCUSED * (1 - focus) + 1e-6))


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be sent, and how far.

    x0             the image as the prior sees it, [1, C, h, w]
    steps          steps at most
    limit          bytes of the file at most
    water_filling, focus  see `water_filled`
    """

    chain: SharedChain
    x0: Tensor
    steps: int
    limit: float
    water_filling: float
    focus: Tensor | None = None

    @property
    def shape(self) -> Shape:
        """(C, h, w) of x0."""
        _, channels, height, width = self.x0.shape
        return channels, height, width

    def steps_from(self, params: HeaderParams, number: int) -> Iterator[CalibratedStep]:
        """The steps from `number` on as calibrated."""
        return (self.chain.step(params, k, self.shape) for k in range(number, self.steps))

    def difference(
        self, params: HeaderParams, state: State, x_hat: Tensor, bits_left: float, ratio: float
    ) -> Tensor:
        """x0 - x0_hat, water-filled for where the file is expected to end.

        bits_left, ratio  bits until the limit, and how many a step is expected to need for each calibrated one
        """
        end = state.timestep
        for step in self.steps_from(params, state.step):
            end = step.target
            bits_left -= ratio * step.bits
            if bits_left < 0:
                break
        return water_filled(self.x0 - x_hat, self.chain.prior.log_snr(end), self.water_filling, self.focus)


class BudgetChoice:
    """Whether each group gets a budget code of its own, or one code serves the whole of a small file.

    A byte per group is worth it as soon as the codes are a small share of the file, or save more than they cost.  Where
    that is not clear from the calibration, the chain is run once without a coder.

    state  whose estimate `advance` takes next; None once the choice is made
    code   the one code for all groups; None: each has its own
    """

    def __init__(self, request: Request, params: HeaderParams, start: State) -> None:
        self.request, self.params, self.limit = request, params, 8 * request.limit
        self.code: int | None = None
        self.undivided_bits = self.grouped_bits = self.calibrated_bits = 0.0
        self.state = None if self._codes_cost_little() else start

    def _codes_cost_little(self) -> bool:
        bits, codes = 0.0, 0
        for step in self.request.steps_from(self.params, 0):
            bits, codes = bits + step.bits, codes + len(step.groups)
            if bits > self.limit:
                break
        return 8 * codes <= CODES_SHARE * min(bits, self.limit)

    def advance(self, x_hat: Tensor) -> None:
        """Go one step on, with the estimate x_hat [1, C, h, w] at `state`."""
        request, params, state = self.request, self.params, self.state
        assert state is not None
        chain, dimensions = request.chain, x_hat.numel()
        step, subbands = chain.step(params, state.step, request.shape), chain.subbands(params, request.shape)
        ratio = self.undivided_bits / self.calibrated_bits if self.calibrated_bits else 1.0
        difference = request.difference(params, state, x_hat, self.limit - self.undivided_bits, ratio)
        energies = subbands.energies(subbands.transform(difference))
        self.grouped_bits += sum(8 + group.needed(step.gain, energies) for group in step.groups)
        self.undivided_bits += step_bits(dimensions, step.gain * sum(energies) / dimensions)
        self.calibrated_bits += chain.step(replace(params, group_budgets=False), state.step, request.shape).bits
        if state.step + 1 < request.steps and min(self.undivided_bits, self.grouped_bits) <= self.limit:
            mu = math.sqrt(step.gain) * difference.flatten()
            self.state = chain.advance(state, x_hat, step.target, mu + chain.noise(state.step, dimensions))
            return
        self.state = None
        if self.grouped_bits > (1 + CODES_SHARE) * self.undivided_bits:
            self.code = budget_code(self.undivided_bits / self.calibrated_bits)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A difference x0 - x0_hat in the coordinates in which it is sent, and its squared error in every subband."""

    subbands: Subbands | SingleBand
    coefficients: Sequence[Tensor]
    energies: Sequence[float]


@dataclass(frozen=True, eq=False)
class CodedStep:
    """A step as it stands in the file, and the sample [1, C, h, w] that the decoder gets from it."""

    segment: bytes
    sample: Tensor


class ImageEncoder:
    """Encodes one image: `advance` takes the estimate at `pending`, until that is None; `stream` is then the file.

    header     of the file; `params`, what its parameter bytes say, are completed here
    file_size  bytes of the file of a stream
    reached    the decoder's state after the last step that is sent
    """

    def __init__(
        self,
        request: Request,
        header: Header,
        params: HeaderParams,
        conditioning: Conditioning,
        file_size: Callable[[Stream], int],
        progress: Progress | None,
    ) -> None:
        self.request, self.chain, self.params, self.conditioning = request, request.chain, params, conditioning
        self.file_size, self.progress = file_size, progress
        self.reached = self.chain.start((header.height, header.width), conditioning)
        self._state: State | None = self.reached
        self._steps = Stream(header, ())
        self._ratio = 1.0  # of the last step's bits to the calibrated ones
        self._budgets = BudgetChoice(request, params, self._state)
        self._begin_if_chosen()

    @property
    def pending(self) -> State | None:
        """The state whose estimate comes next; None once the stream is complete."""
        return self._budgets.state or self._state

    @property
    def stream(self) -> Stream:
        """What has been encoded; without segments if the limit is too little for one step."""
        return self._steps

    def advance(self, x_hat: Tensor) -> None:
        """Go on with the estimate x_hat [1, C, h, w] at `pending`."""
        if self._budgets.state is not None:
            self._budgets.advance(x_hat)
            self._begin_if_chosen()
            return
        assert self._state is not None
        if not self._send(self._state, x_hat):
            self._state = None

    def _begin_if_chosen(self) -> None:
        if self._budgets.state is None:
            self.params = replace(self.params, group_budgets=self._budgets.code is None)
            self._steps = replace(self._steps, header=self._completed_header(0))

    def _completed_header(self, partial: int) -> Header:
        return replace(self._steps.header, params=replace(self.params, partial=partial).to_bytes())

    def _send(self, state: State, x_hat: Tensor) -> bool:
        """Append the next step, or as much of it as the limit allows; whether the chain goes on."""
        before = self.file_size(self._steps)
        bits_left = 8 * (self.request.limit - before)
        difference = self.request.difference(self.params, state, x_hat, bits_left, self._ratio)
        subbands = self.chain.subbands(self.params, self.request.shape)
        coefficients = subbands.transform(difference)
        found = self._largest_step(state, bits_left, Spectrum(subbands, coefficients, subbands.energies(coefficients)))
        if found is None:
            return False
        step, coded, partial = found
        self._steps = self._with(coded.segment)
        self._ratio = 8 * (self.file_size(self._steps) - before) / step.bits
        self._state = self.reached = state = self.chain.advance(state, x_hat, step.target, coded.sample)
        if self.progress:
            self.progress(state.step, self.request.steps)
        if partial:
            self._steps = replace(self._steps, header=self._completed_header(partial))
            return False
        return state.step < self.request.steps

    def _largest_step(
        self, state: State, bits_left: float, spectrum: Spectrum
    ) -> tuple[CalibratedStep, CodedStep, int] | None:
        """(step, coded step, partial) of the largest `partial` that fits, 0 being all of the step; None: nothing fits.

        The bits of a shorter step are known in advance, because |mu|^2 = (SNR_s - SNR_t) |x - x0_hat|^2, and most
        coders know the size of a payload; what others need beyond the KL is learned by trying.
        """
        overhead = 1.0  # bits in the file for each bit of KL
        for partial in (0, *range(255, 0, -1)):
            step = self.chain.step(self.params, state.step, self.request.shape, partial)
            if step.target == state.timestep:
                break
            codes = self._budget_codes(step, spectrum.energies)
            groups = step.coded_groups(codes)
            bits = sum(one.bits for one in groups)
            if overhead * bits > bits_left:
                continue
            front = self._front(codes)
            size = self._payload_size(groups)
            if size is not None and not self._fits(front + bytes(size)):
                continue
            coded = self._encode_step(step, front, groups, spectrum)
            if self._fits(coded.segment):
                return step, coded, partial
            overhead = max(1.005 * overhead, 8 * (len(coded.segment) - len(front)) / bits) if bits else math.inf
        return None

    def _budget_codes(self, step: CalibratedStep, energies: Sequence[float]) -> list[int]:
        if self._budgets.code is not None:
            return [self._budgets.code] * len(step.groups)
        return [budget_code(group.needed(step.gain, energies) / group.bits) for group in step.groups]

    def _front(self, codes: Sequence[int]) -> bytes:
        """What stands in a segment before its payloads."""
        first = not self._steps.segments
        written = codes if self.params.group_budgets else codes[:1] if first else []
        return (self.conditioning.to_bytes() if first else b"") + bytes(written)

    def _payload_size(self, groups: Sequence[CodedGroup]) -> int | None:
        """Bytes of a step's payloads; None where they cannot be known without encoding."""
        coder = self.params.make_coder(sum(one.bits for one in groups))
        sizes = [coder.fixed_size(one.group.size, one.bits, one.key) for one in groups if one.bits]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def _encode_step(
        self, step: CalibratedStep, front: bytes, groups: Sequence[CodedGroup], spectrum: Spectrum
    ) -> CodedStep:
        """The segment of a step: reverse-channel coding of mu = sqrt(SNR_s - SNR_t) (x0 - x0_hat), group by group."""
        sent = [one for one in groups if one.bits]
        coder = self.params.make_coder(sum(one.bits for one in sent))
        subbands = spectrum.subbands
        means = [
            math.sqrt(step.gain) * subbands.gather(spectrum.coefficients, one.group.subbands) for one in sent
        ]
        coded = coder.encode_many(means, [one.bits for one in sent], [one.key for one in sent])
        sample = self.chain.join(subbands, groups, [sample for _, sample in coded])
        return CodedStep(front + b"".join(payload for payload, _ in coded), sample)

    def _with(self, segment: bytes) -> Stream:
        return replace(self._steps, segments=(*self._steps.segments, segment))

    def _fits(self, segment: bytes) -> bool:
        return self.file_size(self._with(segment)) <= self.request.limit


def encode_together(chain: SharedChain, encoders: Sequence[ImageEncoder]) -> None:
    """Run encoders to their end; those at one timestep, with latents of one shape, share a call of the network."""
    while waiting := [(encoder, state) for encoder in encoders if (state := encoder.pending) is not None]:
        noisiest = max((state for _, state in waiting), key=lambda state: state.timestep)  # laggards catch up first
        group = [(encoder, state) for encoder, state in waiting if state.batch_key == noisiest.batch_key]
        estimates = chain.denoise_batch([state for _, state in group])
        for (encoder, _), x_hat in zip(group, estimates, strict=True):
            encoder.advance(x_hat)
