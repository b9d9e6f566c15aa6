"""The encoder's side of DiffC: what is worth sending, what each part of a step may cost, where a file ends.

Noise of one variance for all coordinates is not how a rate is best spent on squared error: what is smaller than the
noise at the end of the file costs bits on the way there, and the denoiser then takes it for noise all the same (reverse
water-filling, e.g. Cover and Thomas, *Elements of Information Theory*, 10.3.3).  So steps lead to an image that lacks
it: where x differs from x0_hat by little, in a band of a block, the difference is weakened before it is sent.  That is
the encoder's decision alone; what it is worth is in docs/decisions/0054-water-filling.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from ..base import Header, Stream
from ..pixel_residual import encode_exact
from .chain import SharedChain, State, budget_code
from .header import Plan, Side
from .lockstep import Chain
from .subbands import Part, bands_of, step_bits

SIDE_SHARE = 0.02  # the budget of each part travels in the file when these bytes are at most this share of it
WEAKEN_BLOCK = 32  # side of the blocks whose bands are weakened
EXACT_ERROR = (16 / 127.5) ** 2  # mean squared error of the estimate from which an exact segment is tried

Progress = Callable[[int, int], None]  # (steps done, steps at most)


def weakened(difference: Tensor, end: float, weaken: float) -> Tensor:
    """`difference` [1, C, h, w] = x0 - x0_hat without what the noise at log-SNR `end` would drown (Sender.weaken)."""
    if not weaken:
        return difference
    _, channels, height, width = difference.shape
    return bands_of((channels, height, width), WEAKEN_BLOCK).weaken(difference, math.exp(end) / weaken)


@dataclass
class Sender:
    """Sends one image step by step.

    plan      what the file says but for its end and whether parts have budgets of their own, which `send` decides
    x0        the image as the prior sees it, [1, C, h, w]
    exact     uint8 image [3, H, W] to restore at the end: steps are then sent as long as each saves more in the exact
              segment than it costs
    steps     steps at most
    limit     bytes of the file at most
    weaken    a band of a block is sent by half where its squared error is this multiple of the noise's variance at the
              end of the file, by more where it is larger; 0: everything is sent as it is
    size      bytes of the file of a stream
    """

    chain: SharedChain
    plan: Plan
    side: Side
    x0: Tensor
    exact: Tensor | None
    steps: int
    limit: float
    weaken: float
    size: Callable[[Stream], int]
    progress: Progress | None

    def send(self, header: Header) -> Chain[Stream]:
        """The stream under `header`, whose plan is completed; without segments if `limit` is too little for one."""
        state = self.chain.start((header.height, header.width), self.side)
        common = yield from self._common_code(state)
        self.plan = replace(self.plan, budgets=common is None)
        stream = Stream(self._completed(header), ())
        whole: Stream | None = None
        ratio = 1.0  # of the last step's bits to the calibrated ones
        for index in range(self.steps + (self.exact is not None)):
            x_hat = yield state.denoise()
            close = index == self.steps or float((self.x0 - x_hat).square().mean()) < EXACT_ERROR
            if self.exact is not None and close:
                closed = replace(stream, segments=(*stream.segments, encode_exact(self.exact, x_hat[0])))
                if whole is not None and closed.payload_bits >= whole.payload_bits:
                    break
                whole = closed
                if index == self.steps:
                    break
            room = 8 * (self.limit - self.size(stream))
            fitted = self._fit(stream, state, self._worthwhile(state, x_hat, room, ratio), common)
            if fitted is None:
                break
            longer, target, sample, partial = fitted
            parts = self.chain.parts(self.plan, state, target)
            ratio = 8 * (self.size(longer) - self.size(stream)) / sum(part.bits for part in parts)
            stream = longer
            state = self.chain.advance(state, x_hat, target, sample)
            if self.progress:
                self.progress(index + 1, self.steps)
            if partial:
                stream = replace(stream, header=self._completed(header, partial))
                break
        return whole or stream

    def _completed(self, header: Header, partial: int = 0) -> Header:
        return replace(header, params=replace(self.plan, partial=partial).to_bytes())

    def _ahead(self, state: State) -> Iterator[tuple[State, tuple[Part, ...]]]:
        """The steps from `state` on as calibrated: (where one ends, without its sample, its parts)."""
        while state.steps < self.steps:
            target = self.chain.target(self.plan, state, 0)
            parts = self.chain.parts(self.plan, state, target)
            state = replace(state, level=target, steps=state.steps + 1)
            yield state, parts

    def _worthwhile(self, state: State, x_hat: Tensor, room: float, ratio: float) -> Tensor:
        """x0 - x0_hat, weakened where it is small beside the noise at the end of the file.

        room, ratio  bits left, and how many a step is expected to need for each calibrated one: where that leads to
        """
        end = state
        for ahead, parts in self._ahead(state):
            end = ahead
            room -= ratio * sum(part.bits for part in parts)
            if room < 0:
                break
        return weakened(self.x0 - x_hat, self.chain.log_snr(end), self.weaken)

    def _common_code(self, start: State) -> Chain[int | None]:
        """The one budget code that suits a small image best, from a dry run without coder; None for a large one.

        A byte per part is worth it as soon as these bytes are a small share of the file, or save more than they are.
        """
        plan, chain, limit = self.plan, self.chain, 8 * self.limit
        expected, codes = 0.0, 0
        for _, parts in self._ahead(start):
            expected, codes = expected + sum(part.bits for part in parts), codes + len(parts)
            if expected > limit:
                break
        if 8 * codes <= SIDE_SHARE * min(expected, limit):
            return None
        undivided = replace(plan, budgets=False)
        state, expected, whole, in_parts = start, 0.0, 0.0, 0.0
        bands, dimensions = chain.bands(plan, self.x0), self.x0.numel()
        for _ in range(self.steps):
            target = chain.target(plan, state, 0)
            x_hat = yield state.denoise()
            difference = self._worthwhile(state, x_hat, limit - whole, whole / expected if expected else 1.0)
            gain, energies = chain.gain(state, target), bands.energies(bands.transform(difference))
            in_parts += sum(8 + part.needed(gain, energies) for part in chain.parts(plan, state, target))
            whole += step_bits(dimensions, gain * sum(energies) / dimensions)
            expected += sum(part.bits for part in chain.parts(undivided, state, target))
            mu = math.sqrt(gain) * difference.flatten()
            state = chain.advance(state, x_hat, target, mu + chain.noise(state.steps, dimensions))
            if min(whole, in_parts) > limit:
                break
        return None if in_parts <= (1 + SIDE_SHARE) * whole else budget_code(whole / expected)

    def _fit(
        self, stream: Stream, state: State, difference: Tensor, common: int | None
    ) -> tuple[Stream, int, Tensor, int] | None:
        """The next step, as far as `limit` allows: (longer stream, level reached, sample, partial), or None.

        difference  x0 - x0_hat, as far as it is worth sending
        common      the budget code of all parts; None: each gets its own

        Without a limit the step is sent whole.  Else the bits of a shorter step are known in advance, because
        |mu|^2 = (SNR_s - SNR_t) |x - x0_hat|^2; the overhead of a coder that cannot tell is learned by trying.
        """
        plan, chain = self.plan, self.chain
        bands = chain.bands(plan, difference)
        coefficients = bands.transform(difference)
        energies = bands.energies(coefficients)
        room = self.limit - self.size(stream)
        overhead = 1.0
        for partial in (0, *range(255, 0, -1)):
            target = chain.target(plan, state, partial)
            if target == state.level:
                return None
            gain = chain.gain(state, target)
            parts = chain.parts(plan, state, target)
            if common is None:
                codes = [budget_code(part.needed(gain, energies) / part.bits) for part in parts]
            else:
                codes = [common] * len(parts)
            messages = chain.messages(parts, codes, state.steps)
            budget = sum(message.bits for message in messages)
            if overhead * budget > 8 * room:
                continue
            lead = bytes(codes) if plan.budgets else bytes(codes[:1]) if not stream.segments else b""
            if not stream.segments:
                lead = self.side.to_bytes() + lead

            def with_payload(payload: bytes, lead: bytes = lead) -> Stream:
                return replace(stream, segments=(*stream.segments, lead + payload))

            coder = plan.make_coder(budget)
            sent = [message for message in messages if message.bits]
            sizes = [coder.fixed_size(one.part.size, one.bits, one.key) for one in sent]
            known = [size for size in sizes if size is not None]
            if known == sizes and self.size(with_payload(bytes(sum(known)))) > self.limit:
                continue
            means = [math.sqrt(gain) * bands.gather(coefficients, one.part.bands) for one in sent]
            coded = coder.encode_many(means, [one.bits for one in sent], [one.key for one in sent])
            payload = b"".join(data for data, _ in coded)
            longer = with_payload(payload)
            if self.size(longer) <= self.limit:
                sample = chain.join(bands, messages, [sample for _, sample in coded])
                return longer, target, sample, partial
            overhead = max(1.005 * overhead, 8 * len(payload) / budget) if budget else math.inf
        return None
