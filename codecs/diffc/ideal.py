"""What no file stands for: DiffC with an ideal coder, and the quality that an autoencoder alone sets.  Hypothetical,
and to be called so wherever these figures are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ...lightning_modules.priors.interface import Prior
from ..base import IdealPoint, check_image
from .encoder import water_filled
from .header import Conditioning, HeaderParams
from .reconstruction import reconstruct

if TYPE_CHECKING:
    from .codec import DiffC

IDEAL_KEY = 1 << 42  # first key of the ideal coder's own noise


def ideal_curve(
    codec: DiffC, image: Tensor, segments: Sequence[int] | None = None, prompt: str = "", lossless: bool = False
) -> list[IdealPoint]:
    """What `codec` would give for uint8 `image` [3, H, W] if a coder sent a true sample of q in KL(q || p) bits.

    segments  numbers of steps, ascending, after which a file ends; None: after the last one only
    lossless  as prefixes of a lossless file, for which nothing is left out (encoder.water_filled)
    Steps, their groups and what is left out are as in files.  p has the best variance for each group, which is not
    counted, so that a group costs `subbands.step_bits`.  Figures published for DiffC count with p's variance fixed at
    q's (Theis et al. 2022), |mu|^2 / (2 ln 2), which is more, above all in long steps.
    """
    check_image(image)
    steps = len(codec.schedules[codec.preset].timesteps)
    wanted = [steps] if segments is None else list(segments)
    if any(not 1 <= k <= steps for k in wanted):
        raise ValueError(f"segments must lie between 1 and {steps}")
    if lossless or not codec.water_filling:
        return _one_chain(codec, image, wanted, prompt, 0.0)
    # what is left out depends on where a file ends, so that every point has a chain of its own
    return [_one_chain(codec, image, [k], prompt, codec.water_filling)[0] for k in wanted]


def _one_chain(
    codec: DiffC, image: Tensor, wanted: Sequence[int], prompt: str, water_filling: float
) -> list[IdealPoint]:
    chain, prior, size = codec.chain, codec.prior, (image.shape[1], image.shape[2])
    conditioning = Conditioning(prompt, codec.guidance, codec.denoising_guidance)
    params = HeaderParams(codec.preset, codec.coder, group_budgets=True, lossless=False)
    x0, state, bits = prior.encode(image[None]), chain.start(size, conditioning), 8.0 * len(conditioning.to_bytes())
    shape, points = prior.shape(size), []
    subbands = chain.subbands(params, shape)
    end = prior.log_snr(codec.schedules[codec.preset].timesteps[max(wanted) - 1])
    for number in range(max(wanted)):
        step, x_hat = chain.step(params, number, shape), chain.denoise(state)
        difference = water_filled(x0 - x_hat, end, water_filling)
        energies = subbands.energies(subbands.transform(difference))
        bits += sum(group.needed(step.gain, energies) for group in step.groups)
        mu = math.sqrt(step.gain) * difference.flatten()
        state = chain.advance(state, x_hat, step.target, mu + chain.noise(IDEAL_KEY + state.step + 1, mu.numel()))
        if state.step in wanted:
            last = chain.guided(state, conditioning, codec.denoising_guidance)
            how, count = codec.reconstruction_of(codec.preset), codec.orientations_of(codec.preset)
            estimate = reconstruct(chain, last, how, codec.flow_steps, count)
            points.append(IdealPoint(state.step, bits, prior.decode(estimate, size)[0].cpu()))
    return points


def autoencoder_bound(prior: Prior, image: Tensor) -> Tensor:
    """uint8 [3, H, W] that a latent prior's autoencoder makes of `image`: no rate gives a better one."""
    return prior.decode(prior.encode(check_image(image)[None]), (image.shape[1], image.shape[2]))[0].cpu()
