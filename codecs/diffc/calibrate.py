"""Choose a prior's timesteps: measure its error on photos, then find the cheapest way down.

`fit_pyramid` decides how much a denoiser's estimates at lower resolutions count, where the model has that.
`measure` needs one network evaluation per timestep and image; `shortest_path` is algorithm 3 of Vonderfecht and Liu
2025 with a price per network evaluation, over what steps cost beyond the cheapest way to where they end (`excess`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...lightning_modules.diffusion.gaussian import diffuse
from ...lightning_modules.priors.interface import Prior
from ...lightning_modules.priors.pixel import DenoiserPrior, Node, Pyramid
from ..reverse_channel import ReverseChannelCoder
from .header import snr_gain
from .subbands import subbands_of

SHARE_POWER = 0.25  # between counting bits (0) and counting shares of a file (1): docs/decisions/0055-levels.md
SMALL_GAIN = 0.02  # share of the squared error below which a term of the pyramid is not worth its network evaluation


@dataclass(frozen=True)
class Errors:
    """Squared error of x0_hat at some timesteps, by subbands (subbands.py).

    sums    float64 [images, timesteps, subbands], over all coefficients of a subband
    counts  int64 [images, subbands], how many these are
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def mse(self) -> NDArray[np.float64]:
        """[images, timesteps], per dimension."""
        return self.sums.sum(2) / self.counts.sum(1)[:, None]

    @property
    def bands(self) -> NDArray[np.float64]:
        """[timesteps, subbands], per coefficient, over all images; the mean over the others where no image has one."""
        total = self.counts.sum(0)
        return np.where(total, self.sums.sum(0) / np.maximum(total, 1), self.mse.mean(0)[:, None])


def measure(
    prior: Prior, images: Iterable[Tensor], timesteps: Sequence[int], tick: Callable[[], None] = lambda: None
) -> Errors:
    """Errors of x0_hat at noisy versions of uint8 images [3, H, W].

    The first of `timesteps` stands for pure noise.  Noise is drawn once per image, from its own seed.
    """
    rows, counts = [], []
    for number, image in enumerate(images):
        x0 = prior.encode(image[None])
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(number)).to(x0)
        _, channels, height, width = x0.shape
        subbands, row = subbands_of((channels, height, width)), []
        for position, t in enumerate(timesteps):
            z = diffuse(x0, prior.log_snr(t) if position else -math.inf, noise)
            row.append(subbands.energies(subbands.transform(prior.denoise(z, t) - x0)))
            tick()
        rows.append(row)
        counts.append(subbands.counts)
    return Errors(np.array(rows), np.array(counts))


def fit_pyramid(
    prior: DenoiserPrior, images: Sequence[Tensor], log_snrs: Sequence[float], tick: Callable[[], None] = lambda: None
) -> list[Node]:
    """Nodes of `prior.pyramid` at `log_snrs`, fitted to uint8 images [3, H, W] by least squares, ascending.

    From the cleanest to the noisiest, because a node needs those of lower resolution, which has less noise.  What is
    worth less than SMALL_GAIN is left out: the lower resolutions, or the network's own estimate, which costs most.
    """
    nodes: list[Node] = []
    for log_snr in sorted(log_snrs, reverse=True):
        pyramid = Pyramid(nodes, prior.multiple)
        products = np.zeros((4, 4))  # inner products of the three terms and the image
        for number, image in enumerate(images):
            x0 = prior.encode(image[None])
            noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(number)).to(x0)
            terms = pyramid.terms(prior.own_estimate, diffuse(x0, log_snr, noise), log_snr)
            rows = torch.cat([terms, x0[None]]).flatten(1).double().cpu().numpy()
            products += rows @ rows.T
            tick()
        mixtures = [np.array([1.0, 0.0, 0.0]), *(_least_squares(products, used) for used in ([2], [0, 1, 2]))]
        errors = [np.append(mixture, -1.0) @ products @ np.append(mixture, -1.0) for mixture in mixtures]
        chosen = next(m for m, error in zip(mixtures, errors, strict=True) if error <= (1 + SMALL_GAIN) * errors[-1])
        own, smooth, coarse = chosen.round(4).tolist()
        if nodes and not any(nodes[0][2:]) and not coarse:
            nodes.pop(0)  # above the last node there is only the network itself anyway
        nodes.insert(0, (round(log_snr, 4), own, smooth, coarse))
    return nodes


def _least_squares(products: NDArray[np.float64], used: list[int]) -> NDArray[np.float64]:
    """Weights of the best mixture of the three terms, zero for those not in `used`."""
    weights = np.zeros(3)
    weights[used] = np.linalg.solve(products[np.ix_(used, used)], products[used, 3])
    return weights


def step_costs(log_snr: Sequence[float], errors: Errors) -> NDArray[np.float64]:
    """Bits per dimension of the step from timestep i to j > i, sent by subbands, [timesteps, timesteps].

    log_snr  of the timesteps, noisiest first (-inf for pure noise), at which `errors` were measured
    The mean over the images that were measured.
    """
    count = len(log_snr)
    mse = errors.sums / np.maximum(errors.counts, 1)[:, None]
    share = errors.counts / errors.counts.sum(1, keepdims=True)
    costs = np.full((count, count), np.inf)
    for i in range(count - 1):
        gains = np.array([snr_gain(log_snr[j], log_snr[i]) for j in range(i + 1, count)])
        bits = 0.5 * np.log2(1 + gains[:, None, None] * mse[:, i])  # [timesteps behind i, images, subbands]
        costs[i, i + 1 :] = (bits * share).sum(2).mean(1)
    return costs


def payload_ratio(
    coder: ReverseChannelCoder, dimensions: int = 4096, rates: Sequence[float] = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1)
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """How many bits `coder` really spends per bit of KL, as a function of KL per dimension.

    Measured on a Gaussian mean of `dimensions` coordinates at a few `rates`, interpolated over their logarithm.
    """
    direction = torch.randn(dimensions, generator=torch.Generator().manual_seed(0))
    ratios = []
    for number, rate in enumerate(rates):
        energy = 2 ** (2 * rate) - 1  # |mu|^2 / d of a step of that rate
        payload, _ = coder.encode(direction * math.sqrt(energy), rate * dimensions, number)
        ratios.append(8 * len(payload) / (rate * dimensions))
    return lambda rate: np.interp(np.log2(np.maximum(rate, 1e-12)), np.log2(rates), ratios)


def excess(costs: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Bits per dimension that a step costs beyond the cheapest way to where it ends, times (rate / R)^SHARE_POWER.

    R is what the cheapest way costs from the start, at most `rate`.  A bit wasted early is a larger share of the file
    that ends there than a bit wasted late.
    """
    least, _ = _cheapest(costs, 0.0)
    weight = (rate / np.clip(least, 1e-9, rate)) ** SHARE_POWER
    beyond = least[:, None] + costs - least
    return np.where(np.isfinite(costs), np.maximum(beyond, 0) * weight, np.inf)


def shortest_path(costs: NDArray[np.float64], price: float) -> list[int]:
    """Indices 0 .. n - 1 of the timesteps visited, first and last included, that minimise cost + price per step."""
    _, came = _cheapest(costs, price)
    path = [len(costs) - 1]
    while path[-1]:
        path.append(int(came[path[-1]]))
    return path[::-1]


def _cheapest(costs: NDArray[np.float64], price: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(least cost + price per step from timestep 0 to each, the timestep before it on that way)."""
    count = len(costs)
    best, came = np.full(count, np.inf), np.zeros(count, dtype=np.int64)
    best[0] = 0.0
    for j in range(1, count):
        totals = best[:j] + costs[:j, j] + price
        came[j] = int(np.argmin(totals))
        best[j] = totals[came[j]]
    return best, came


def choose_path(costs: NDArray[np.float64], steps: int, rate: float) -> list[int]:
    """The path of little `excess` that spends its first `rate` bits per dimension in at most `steps` steps."""
    wasted = excess(costs, rate)
    low, high = 1e-9, 10.0
    for _ in range(60):
        price = math.sqrt(low * high)
        path = shortest_path(wasted, price)
        spent = np.cumsum([costs[i, j] for i, j in itertools.pairwise(path)])
        if int(np.searchsorted(spent, rate)) + 1 > steps:
            low = price
        else:
            high = price
    return shortest_path(wasted, high)


def calibrate(
    prior: Prior,
    images: Sequence[Tensor],
    presets: dict[str, int],
    *,
    rate: float = 1 / 3,
    stride: int = 4,
    last: int = 1,
    coder: ReverseChannelCoder | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The calibration table of `prior`.

    presets  name -> network evaluations until `rate` bits per dimension are spent
    stride   distance of the timesteps considered, ending with timestep `last`
    coder    choose timesteps by what this coder spends; None: by KL
    """
    timesteps = [prior.num_levels, *range(prior.num_levels - stride, last, -stride), last]
    errors = measure(prior, images, timesteps, tick)
    mse, bands = errors.mse.mean(0), errors.bands
    log_snr = [-math.inf, *(prior.log_snr(t) for t in timesteps[1:])]
    costs = step_costs(log_snr, errors)
    spent = costs
    if coder is not None:
        upper = np.isfinite(costs)
        spent = costs.copy()
        spent[upper] *= payload_ratio(coder)(costs[upper])
    table = []
    for name, steps in presets.items():
        path = choose_path(spent, steps, rate)
        table.append(
            {
                "name": name,
                "levels": [timesteps[i] for i in path[1:]],
                "mse": [float(f"{mse[i]:.5g}") for i in path[:-1]],
                "bands": [[float(f"{error:.4g}") for error in bands[i]] for i in path[:-1]],
                # for the reader: KL of the steps, sent by subbands
                "bits_per_dimension": [float(f"{costs[i, j]:.4g}") for i, j in itertools.pairwise(path)],
            }
        )
    return {"images": len(images), "presets": table}
