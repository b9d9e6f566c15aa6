"""The chain of noisy latents that DiffC's encoder and decoder run alike, from pure noise down to a finished estimate.

Here is what both sides must compute in the same way: where a step ends, how many bits it may carry, the noise they
share, the prior's conditioning, and the reconstructions that end a chain.  Coding itself is in diffc.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...kernels import get_backend
from ...lightning_modules.diffusion.gaussian import flow_step, posterior
from ...lightning_modules.priors.interface import Prior
from ..base import CodecError
from ..reverse_channel.interface import Vector
from .header import Plan, Side
from .lockstep import Chain, Denoise
from .schedule import Schedule, snr_gain
from .subbands import Bands, Part, Whole, bands_of, divide

RECONSTRUCTIONS = ("mse", "ensemble", "flow", "ancestral")
NO_BITS, NOMINAL = 0, 128  # budget codes: nothing is sent; exactly the calibrated KL
CODES_PER_OCTAVE = 16  # neighbouring budget codes differ by a factor 2^(1/16), 4.4 %
START_KEY, ANCESTRAL_KEY = 1 << 40, 1 << 41  # keys of the other shared noise
PART_KEY = 1 << 16  # part j of step i uses key i + j * PART_KEY


@dataclass
class State:
    """The chain after `steps` steps: z [1, C, h, w] at noise level `level`, under the prior's `condition`."""

    z: Tensor
    level: int
    condition: Any
    steps: int = 0

    def denoise(self) -> Denoise:
        """The request for x0_hat here."""
        return Denoise(self.z, self.level, self.condition)


@dataclass(frozen=True)
class Message:
    """A part of a step, the KL in bits that it may carry (0: nothing is sent, its noise is shared), and its key."""

    part: Part
    bits: float
    key: int


class SharedChain:
    """Steps, budgets and noise of one prior under its schedules.

    flow_steps  network evaluations of the reconstructions "flow" and "ancestral"
    """

    def __init__(self, prior: Prior, schedules: list[Schedule], flow_steps: int) -> None:
        self.prior, self.schedules, self.flow_steps = prior, schedules, flow_steps
        self.backend = get_backend("cpu" if prior.device.type == "cpu" else None)

    def start(self, size: tuple[int, int], side: Side) -> State:
        """Pure noise that both sides draw alike, for an image of (H, W) = `size`."""
        channels, height, width = self.prior.shape(size)
        noise = self.noise(START_KEY, channels * height * width)
        condition = self.condition(side.prompt, side.guidance)
        return State(noise.view(1, channels, height, width), self.prior.num_levels, condition)

    def condition(self, prompt: str, guidance: float) -> Any:
        """What the prior makes of a prompt; None for a prior that takes none.  Raises CodecError."""
        if hasattr(self.prior, "condition"):
            return self.prior.condition(prompt, guidance)
        if prompt or guidance != 1:
            raise CodecError("this model knows no prompts, so neither --prompt nor --guidance applies")
        return None

    def with_guidance(self, state: State, side: Side, scale: float | None) -> State:
        """The state as the final reconstruction sees it: guided by `scale`, else as `side` says."""
        ending = next(one for one in (scale, side.ending, side.guidance) if one is not None)
        return state if ending == side.guidance else replace(state, condition=self.condition(side.prompt, ending))

    def noise(self, key: int, dimensions: int) -> Tensor:
        """Standard normals [dimensions] that every machine draws alike."""
        row = torch.zeros(1, dtype=torch.int64, device=self.backend.device)
        return self.backend.normal_rows(key, 0, row, dimensions)[0].to(self.prior.device)

    def log_snr(self, state: State) -> float:
        """log-SNR of the state, -inf at the start."""
        return self.prior.log_snr(state.level) if state.steps else -math.inf

    def gain(self, state: State, target: int) -> float:
        """SNR that the step to level `target` adds."""
        return snr_gain(self.prior.log_snr(target), self.log_snr(state))

    def target(self, plan: Plan, state: State, partial: int) -> int:
        """The level at which the next step ends."""
        full = self.schedules[plan.preset].levels[state.steps]
        return state.level - round((state.level - full) * (partial or 256) / 256)

    def bands(self, plan: Plan, z: Tensor) -> Bands | Whole:
        """The coordinates in which steps of a chain over tensors like z [1, C, h, w] are sent."""
        channels, height, width = z.shape[1:]
        return (Whole if self.errors(plan) is None else bands_of)((channels, height, width))

    def errors(self, plan: Plan) -> tuple[tuple[float, ...], ...] | None:
        """Expected errors of all bands, where steps are sent in parts; one budget for all does not suit each band."""
        return self.schedules[plan.preset].bands if plan.budgets else None

    def parts(self, plan: Plan, state: State, target: int) -> tuple[Part, ...]:
        """The messages of the step from `state` to level `target`, with their calibrated KL."""
        errors = self.errors(plan)
        row = errors[state.steps] if errors is not None else (self.schedules[plan.preset].mse[state.steps],)
        return divide(self.bands(plan, state.z).counts, row, self.gain(state, target))

    def messages(self, parts: Sequence[Part], codes: Sequence[int], step: int) -> list[Message]:
        """What the parts of step number `step` carry under their budget codes."""
        factors = [0.0 if code == NO_BITS else 2 ** ((code - NOMINAL) / CODES_PER_OCTAVE) for code in codes]
        return [
            Message(part, part.bits * factor, step + j * PART_KEY)
            for j, (part, factor) in enumerate(zip(parts, factors, strict=True))
        ]

    def read(
        self, plan: Plan, state: State, partial: int, before: Sequence[bytes], segment: bytes | memoryview
    ) -> tuple[int, list[Message], int]:
        """(level reached, messages, bytes in front of their payloads) of the segment behind those `before`."""
        target = self.target(plan, state, partial)
        parts = self.parts(plan, state, target)
        codes, lead = plan.read_codes(before, segment, len(parts))
        return target, self.messages(parts, codes, state.steps), lead

    def join(self, bands: Bands | Whole, messages: Sequence[Message], samples: Sequence[Vector]) -> Tensor:
        """A step's sample [1, C, h, w] from those of its messages that were sent, and shared noise for the others."""
        given = iter(samples)
        return bands.join([
            (one.part.bands, torch.as_tensor(next(given)) if one.bits else self.noise(one.key, one.part.size))
            for one in messages
        ])

    def advance(self, state: State, x_hat: Tensor, target: int, sample: Tensor) -> State:
        """The state at level `target`, reached by a whitened `sample` of q(z_s | z_t, x), of any shape."""
        mean, deviation = posterior(state.z, x_hat, self.prior.log_snr(target), self.log_snr(state))
        return replace(state, z=mean + deviation * sample.view_as(mean), level=target, steps=state.steps + 1)

    def reconstruct(self, state: State, how: str) -> Chain[Tensor]:
        """x0_hat from the state where a file ends; deterministic, ancestral noise included."""
        if how == "ensemble":
            return (yield from self._ensemble(state))
        levels = torch.linspace(state.level, 1, self.flow_steps + 1).round().int().unique().flip(0).tolist()
        for number, s in enumerate(levels[1:] if how != "mse" else []):
            x_hat = yield state.denoise()
            if how == "flow":
                z = flow_step(state.z, x_hat, self.prior.log_snr(s), self.log_snr(state))
                state = replace(state, z=z, level=s, steps=state.steps + 1)
            else:
                state = self.advance(state, x_hat, s, self.noise(ANCESTRAL_KEY + number, x_hat.numel()))
        return (yield state.denoise())

    def _ensemble(self, state: State) -> Chain[Tensor]:
        """The average of x0_hat over the picture's eight orientations (geometric self-ensemble, Timofte et al. 2016).

        A network is not quite indifferent to a picture's orientation, and what differs is error.
        """
        total = torch.zeros_like(state.z)
        for quarters, mirrored in itertools.product(range(4), (False, True)):
            turned = state.z.flip(-1) if mirrored else state.z
            x_hat = yield replace(state, z=turned.rot90(quarters, (-2, -1))).denoise()
            x_hat = x_hat.rot90(-quarters, (-2, -1))
            total += x_hat.flip(-1) if mirrored else x_hat
        return total / 8


def budget_code(ratio: float) -> int:
    """The budget code of `ratio` times the calibrated KL; nothing is sent below 2^-8 times of it."""
    if ratio <= 0:
        return NO_BITS
    return min(255, max(NO_BITS, NOMINAL + round(CODES_PER_OCTAVE * math.log2(ratio))))
