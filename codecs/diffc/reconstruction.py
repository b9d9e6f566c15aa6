"""How the state where a file ends becomes an estimate of x0: the decoder's choice.

"mse"        x0_hat, one evaluation of the network: the least squared error
"ensemble"   the average of x0_hat over some of the image's eight orientations: less error still, in pixel space
"flow"       the probability flow from there to the data (DiffC-F): realistic textures
"ancestral"  sampling the reverse process to its end (DiffC-A)
DiffC-F and DiffC-A are those of Theis et al. 2022.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...lightning_modules.diffusion.gaussian import flow_step
from .chain import SharedChain, State

# (quarter turns, mirrored): upright ones first, which photos are
ORIENTATIONS = ((0, False), (0, True), (2, True), (2, False), (1, False), (1, True), (3, True), (3, False))
RECONSTRUCTIONS = ("mse", "ensemble", "flow", "ancestral")
ANCESTRAL_KEY = 1 << 41  # first key of the noise of "ancestral", so that decoding is repeatable


def reconstruct(chain: SharedChain, state: State, how: str, flow_steps: int, orientations: int = 8) -> Tensor:
    """x0 [1, C, h, w] from the last state, in one of the ways above.

    flow_steps    network evaluations of the last two
    orientations  of "ensemble", 1 to 8
    """
    if how == "ensemble":
        return _ensemble(chain, state, orientations)
    if how == "mse":
        return chain.denoise(state)
    timesteps = torch.linspace(state.timestep, 1, flow_steps + 1).round().int().unique().flip(0).tolist()
    for number, s in enumerate(timesteps[1:]):
        x_hat = chain.denoise(state)
        if how == "flow":
            z = flow_step(state.z, x_hat, chain.prior.log_snr(s), chain.log_snr(state))
            state = replace(state, z=z, timestep=s, step=state.step + 1)
        else:
            state = chain.advance(state, x_hat, s, chain.noise(ANCESTRAL_KEY + number, x_hat.numel()))
    return chain.denoise(state)


def _ensemble(chain: SharedChain, state: State, count: int) -> Tensor:
    """The average of x0_hat over `count` orientations of the image (geometric self-ensemble, Timofte et al. 2016).

    A network's error depends a little on an image's orientation, so averaging lowers it.
    """
    total = torch.zeros_like(state.z)
    for quarters, mirrored in sorted(ORIENTATIONS[:count]):
        turned = state.z.flip(-1) if mirrored else state.z
        x_hat = chain.denoise(replace(state, z=turned.rot90(quarters, (-2, -1)))).rot90(-quarters, (-2, -1))
        total += x_hat.flip(-1) if mirrored else x_hat
    return total / count
