"""The reverse process that DiffC's encoder and decoder run alike, from pure noise down to where a file ends.

Here is what both sides must compute in the same way: where a step ends, how many bits each of its groups may carry, the
noise they share, the prior's conditioning, and z_s of a received sample.  What only one side does is in encoder.py and
decoder.py; how the last state becomes an image is in reconstruction.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels import get_backend
from ...lightning_modules.diffusion.gaussian import posterior
from ...lightning_modules.priors.interface import Prior
from ..reverse_channel.interface import Vector
from .header import Conditioning, HeaderParams, Schedule, snr_gain
from .subbands import Group, SingleBand, Subbands, group_subbands, subbands_of

NO_BITS, NOMINAL = 0, 128  # budget codes: nothing is sent; exactly the calibrated KL
CODES_PER_OCTAVE = 16  # neighbouring budget codes differ by a factor 2^(1/16), 4.4 %
BUDGET_GRID = 1024  # parts of a bit to which budgets are rounded where machines must agree
START_KEY = 1 << 40  # key of the noise that the chain starts from
GROUP_KEY = 1 << 16  # group j of step i uses key i + j * GROUP_KEY

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class State:
    """z_t of one image, float32 [1, C, h, w].

    timestep   t, as the prior counts: its num_levels for pure noise
    condition  what the prior made of the prompt; None for priors that read none
    step       steps of the schedule that lie behind; 0 means that z is pure noise
    """

    z: Tensor
    timestep: int
    condition: Any = None
    step: int = 0

    @property
    def batch_key(self) -> tuple[int, torch.Size, bool]:
        """States that are equal in this can go through the network together."""
        return self.timestep, self.z.shape, self.condition is None


@dataclass(frozen=True)
class CodedGroup:
    """A group of subbands, the KL in bits that it may carry (0: nothing is sent, its noise is shared), and its key."""

    group: Group
    bits: float
    key: int


@dataclass(frozen=True)
class CalibratedStep:
    """A step of the schedule as both sides know it before anything is sent.

    number  its position in the schedule, from 0
    target  timestep s where it ends
    gain    SNR_s - SNR_t
    groups  what is sent one by one, with the KL that the calibration expects
    exact   budgets are rounded, so that logarithms and powers may differ in their last bit between machines
    """

    number: int
    target: int
    gain: float
    groups: tuple[Group, ...]
    exact: bool = False

    @property
    def bits(self) -> float:
        """Expected KL of all groups."""
        return sum(group.bits for group in self.groups)

    def coded_groups(self, codes: Sequence[int]) -> list[CodedGroup]:
        """The groups with the budgets that `codes`, one byte each, stand for."""
        factors = [0.0 if code == NO_BITS else 2 ** ((code - NOMINAL) / CODES_PER_OCTAVE) for code in codes]
        budgets = [group.bits * factor for group, factor in zip(self.groups, factors, strict=True)]
        if self.exact:
            budgets = [round(bits * BUDGET_GRID) / BUDGET_GRID for bits in budgets]
        return [
            CodedGroup(group, bits, self.number + j * GROUP_KEY)
            for j, (group, bits) in enumerate(zip(self.groups, budgets, strict=True))
        ]


class SharedChain:
    """Steps, budgets, noise and estimates of one prior under its schedules."""

    def __init__(self, prior: Prior, schedules: list[Schedule]) -> None:
        self.prior, self.schedules = prior, schedules
        self.backend = get_backend(device=prior.device)

    def start(self, size: tuple[int, int], conditioning: Conditioning) -> State:
        """Pure noise that both sides draw alike, for an image of (H, W) = `size`."""
        shape = self.prior.shape(size)
        condition = self.prior.condition(conditioning.prompt, conditioning.guidance)
        return State(self.noise(START_KEY, math.prod(shape)).view(1, *shape), self.prior.num_levels, condition)

    def guided(self, state: State, conditioning: Conditioning, scale: float | None) -> State:
        """The state as the final reconstruction sees it: guided by `scale`, else as `conditioning` says."""
        choices = (scale, conditioning.denoising_guidance, conditioning.guidance)
        last = next(choice for choice in choices if choice is not None)
        if last == conditioning.guidance:
            return state
        return replace(state, condition=self.prior.condition(conditioning.prompt, last))

    def noise(self, key: int, dimensions: int) -> Tensor:
        """Standard normals [dimensions] that every machine draws alike."""
        row = torch.zeros(1, dtype=torch.int64, device=self.backend.device)
        return self.backend.normal_rows(key, 0, row, dimensions)[0].to(self.prior.device)

    def log_snr(self, state: State) -> float:
        """log-SNR of the state, -inf at the start."""
        return self.prior.log_snr(state.timestep) if state.step else -math.inf

    def subbands(self, params: HeaderParams, shape: Shape) -> Subbands | SingleBand:
        """The coordinates in which steps are sent, of tensors [1, *shape].

        One budget for the whole file would not suit every subband, so the tensor is then sent as it is.
        """
        known = params.group_budgets and self.schedules[params.preset].subband_mse is not None
        return subbands_of(shape) if known else SingleBand(shape)

    def step(self, params: HeaderParams, number: int, shape: Shape, partial: int = 0) -> CalibratedStep:
        """Step `number` of the schedule for latents [1, *shape]; `partial` / 256 of it, or all where that is 0."""
        schedule = self.schedules[params.preset]
        begin = schedule.timesteps[number - 1] if number else self.prior.num_levels
        target = begin - round((begin - schedule.timesteps[number]) * (partial or 256) / 256)
        gain = 0.0
        if target < begin:
            gain = snr_gain(self.prior.log_snr(target), self.prior.log_snr(begin) if number else -math.inf)
            gain = float(np.float32(gain)) if self.prior.exact else gain
        rows = schedule.subband_mse if params.group_budgets else None
        mse = (schedule.mse[number],) if rows is None else rows[number]
        groups = group_subbands(self.subbands(params, shape).counts, mse, gain)
        return CalibratedStep(number, target, gain, groups, self.prior.exact)

    def join(
        self, subbands: Subbands | SingleBand, groups: Sequence[CodedGroup], samples: Sequence[Vector]
    ) -> Tensor:
        """A step's sample [1, C, h, w] from those of the groups that were sent, and shared noise for the others."""
        received = iter(samples)
        vectors = [
            (one.group.subbands, torch.as_tensor(next(received)) if one.bits else self.noise(one.key, one.group.size))
            for one in groups
        ]
        return subbands.join(vectors, exact=self.prior.exact)

    def denoise(self, state: State) -> Tensor:
        """x0_hat = E[x0 | z_t], float32 [1, C, h, w]."""
        return self.denoise_batch([state])[0]

    def denoise_batch(self, states: Sequence[State]) -> Sequence[Tensor]:
        """x0_hat [1, C, h, w] of several states of one `batch_key`, from one call of the network."""
        first = states[0]
        z = first.z if len(states) == 1 else torch.cat([state.z for state in states])
        if first.condition is None:
            return self.prior.denoise(z, first.timestep).split(1)
        conditions = [state.condition for state in states]
        return self.prior.denoise(z, first.timestep, conditions).split(1)

    def advance(self, state: State, x_hat: Tensor, target: int, sample: Tensor) -> State:
        """The state at timestep `target`.

        sample  of q(z_s | z_t, x) in coordinates where p(z_s | z_t), with q's variance, is N(0, I); d values of any
                shape: z_s = mean(z_t, x0_hat) + std * sample
        """
        mean, std = posterior(state.z, x_hat, self.prior.log_snr(target), self.log_snr(state))
        return replace(state, z=mean + std * sample.view_as(mean), timestep=target, step=state.step + 1)


def budget_code(ratio: float) -> int:
    """The budget code of `ratio` times the calibrated KL; nothing is sent below 2^-8 times of it."""
    if ratio <= 0:
        return NO_BITS
    return min(255, max(NO_BITS, NOMINAL + round(CODES_PER_OCTAVE * math.log2(ratio))))
