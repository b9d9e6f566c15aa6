"""What no file stands for: DiffC with an ideal coder, and the quality that an autoencoder alone sets.  Hypothetical,
and to be called so wherever these figures are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...lightning_modules.priors.interface import Prior
from ..base import check_image
from .codec import DiffC
from .encoder import weakened
from .header import Plan, Side
from .lockstep import Chain, run

IDEAL_KEY = 1 << 42  # first key of the ideal coder's own noise


@dataclass(frozen=True)
class IdealPoint:
    """A point of the ideal curve: `bits` = KL of the first `segments` steps and the prompt's bytes, no header."""

    segments: int
    bits: float
    image: Tensor


def ideal_curve(
    codec: DiffC, image: Tensor, segments: Sequence[int] | None = None, prompt: str = "", lossless: bool = False
) -> list[IdealPoint]:
    """What `codec` would give for uint8 `image` [3, H, W] if a coder sent a true sample of q in KL(q || p) bits.

    segments  numbers of steps, ascending, after which a file ends; None: after the last one only
    lossless  as prefixes of a lossless file, for which nothing is left out (Sender.weaken)
    Steps, their parts and what is left out are as in files.  p has the best variance for each part, untold, so that
    one of d coordinates costs d/2 log2(1 + |mu|^2 / d) (bands.py).  Figures published for DiffC count with p's
    variance fixed at q's, as Theis et al. 2022 do, |mu|^2 / (2 ln 2), which is more, above all in long steps.
    """
    check_image(image)
    steps = len(codec.schedules[codec.preset].levels)
    wanted = [steps] if segments is None else list(segments)
    if any(not 1 <= k <= steps for k in wanted):
        raise ValueError(f"segments must lie between 1 and {steps}")
    weaken = 0.0 if lossless else codec.weaken
    chains = [[k] for k in wanted] if weaken else [wanted]  # what is left out depends on where a file ends
    return [point for ends in chains for point in run(codec.prior, [_ideal(codec, image, ends, prompt, weaken)])[0]]


def _ideal(codec: DiffC, image: Tensor, wanted: list[int], prompt: str, weaken: float) -> Chain[list[IdealPoint]]:
    size = (image.shape[1], image.shape[2])
    side = Side(prompt, codec.guidance, codec.denoising_guidance)
    plan = Plan(codec.preset, codec.coder, budgets=True, lossless=False)
    x0, state, bits = codec.prior.encode(image[None]), codec.chain.start(size, side), 8.0 * len(side.to_bytes())
    last, bands = max(wanted), codec.chain.bands(plan, state.z)
    end = codec.prior.log_snr(codec.schedules[codec.preset].levels[last - 1])
    points = []
    for step in range(1, last + 1):
        target = codec.chain.target(plan, state, 0)
        x_hat = yield state.denoise()
        difference, gain = weakened(x0 - x_hat, end, weaken), codec.chain.gain(state, target)
        energies = bands.energies(bands.transform(difference))
        bits += sum(part.needed(gain, energies) for part in codec.chain.parts(plan, state, target))
        mu = math.sqrt(gain) * difference.flatten()
        state = codec.chain.advance(state, x_hat, target, mu + codec.chain.noise(IDEAL_KEY + step, mu.numel()))
        if step in wanted:
            ending = codec.chain.with_guidance(state, side, codec.denoising_guidance)
            estimate = yield from codec.chain.reconstruct(ending, codec.ending(codec.preset))
            points.append(IdealPoint(step, bits, codec.prior.decode(estimate, size)[0].cpu()))
    return points


def autoencoder_bound(prior: Prior, image: Tensor) -> Tensor:
    """uint8 [3, H, W] that a latent prior's autoencoder makes of `image`: no rate gives a better one."""
    return prior.decode(prior.encode(check_image(image)[None]), (image.shape[1], image.shape[2]))[0].cpu()
