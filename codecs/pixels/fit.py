"""Fits what the pixel coder knows before it sees an image: mixture.npz, from folders of photos.

    python -m diffpress.codecs.pixels.fit mixture.npz FOLDER ...

For crops of the photos the coder runs as it does for a file; what its networks read and the pixels that came are kept,
and each plane's network is fitted to them by Adam on the bits per pixel.  About ten minutes on one core.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data import read_image
from . import mixture
from .plane import WEIGHT_SCALE, Planes, parameters
from .prediction import SLANT, Floats, Ints

CROP = 224
SMALL = 150  # images taken of an ImageNet64 file
KEPT = 0.4  # share of the pixels that a network is fitted to
HIDDEN = 48
STEPS, BATCH, RATE = 6000, 2048, 4e-3
ORDER = (1, 0, 2)

Pixels = NDArray[np.uint8]
Singles = NDArray[np.float32]
# inputs [N, F], means [N, P + 1], pixels [N], regressors [N, R + 1]
Samples = tuple[Singles, Singles, Singles, Singles]


def collect(image: Pixels, seed: int) -> list[Samples]:
    """What the coder meets in uint8 `image` [3, H, W], for each of its three planes, a share KEPT of the pixels."""
    rng, planes = np.random.default_rng(seed), Planes((image.shape[1], image.shape[2]))
    result: list[Samples] = []
    for position in range(3):
        plane = image[ORDER[position]].astype(np.int64)
        rows: list[list[Singles]] = [[], [], [], []]

        def source(first: int, last: int, time: int, _: Floats, plane: Ints = plane) -> Ints:
            y = np.arange(first, last)
            return plane[y, time - SLANT * y]

        def watch(
            first: int, last: int, time: int, regressors: Floats, means: Floats, inputs: Floats,
            plane: Ints = plane, rows: list[list[Singles]] = rows,
        ) -> None:  # fmt: skip
            y = first + np.flatnonzero(rng.random(last - first) < KEPT)
            values = (inputs[y], means[y], plane[y, time - SLANT * y], regressors[y])
            for row, value in zip(rows, values, strict=True):
                row.append(value.astype(np.float32))

        planes.run(ORDER, position, source, watch=watch)
        inputs, means, pixels, regressors = (np.concatenate(row) for row in rows)
        result.append((inputs, means, pixels, regressors))
    return result


def usual_predictor(samples: Samples) -> Floats:
    """Coefficients that predict all samples at once, each weighted by the inverse of its surroundings' variance."""
    rows = samples[3].astype(np.float64)
    weights = 1 / (3 + np.ptp(rows[:, :4], axis=1) ** 2 / 4)
    sums = (rows * weights[:, None]).T @ rows
    n = len(sums) - 1
    return np.linalg.solve(sums[:n, :n] + 1e-3 * len(rows) * np.eye(n), sums[:n, n])


class MixtureNetwork(nn.Module):
    """mixture.py in torch: negative log-likelihood, in bits, of pixels [N] given inputs [N, F], means [N, P + 1]."""

    def __init__(self, inputs: Singles) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs.shape[1], HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.third = nn.Linear(HIDDEN, mixture.OUTPUTS)
        self.centre: Tensor = torch.from_numpy(inputs.mean(0))
        self.spread: Tensor = torch.from_numpy(inputs.std(0)) + 1e-2
        self.start = torch.from_numpy(mixture.START).float()

    def forward(self, inputs: Tensor, means: Tensor, pixels: Tensor) -> Tensor:
        out = self.third(self.second(self.first((inputs - self.centre) / self.spread).relu()).relu())
        k, two = mixture.COMPONENTS, math.log(2)
        log_scales = out[:, :k] + self.start
        log_weights = torch.log_softmax(out[:, k : 2 * k] * two, 1)
        share = torch.softmax(out[:, 3 * k :] * two, 1)
        mean = (share * means).sum(1, keepdim=True) + mixture.OFFSET * out[:, 2 * k : 3 * k] * torch.exp2(log_scales)
        inverse, away = torch.exp2(-log_scales), pixels[:, None] - mean
        upper, lower = torch.sigmoid((away + 0.5) * inverse), torch.sigmoid((away - 0.5) * inverse)
        upper = torch.where(pixels[:, None] >= 255, torch.ones_like(upper), upper)
        lower = torch.where(pixels[:, None] <= 0, torch.zeros_like(lower), lower)
        mass = (torch.exp(log_weights) * (upper - lower)).sum(1)
        return -torch.log2(mass + 2.0**-20)

    def folded(self) -> mixture.Network:
        """Weights of mixture.tables, on inputs that are not normalised."""
        first, second, third = self.first, self.second, self.third
        with torch.no_grad():
            weights = (first.weight / self.spread).T
            bias = first.bias - self.centre @ weights
            values = (weights, bias, second.weight.T, second.bias, third.weight.T, third.bias)
            return {name: value.double().numpy() for name, value in zip(mixture.NETWORK, values, strict=True)}


def fit_network(samples: Samples, seed: int = 0) -> mixture.Network:
    """The network of one plane."""
    torch.manual_seed(seed)
    network = MixtureNetwork(samples[0])
    tensors = [torch.from_numpy(array) for array in samples[:3]]
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    running = 0.0
    for step in range(STEPS):
        batch = torch.randint(0, len(tensors[0]), (BATCH,))
        loss = network(*(tensor[batch] for tensor in tensors)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        running += 0.01 * (loss.item() - running) if step else loss.item()
        if step % 500 == 499:
            print(f"step {step + 1}: {running:.4f} bits", flush=True)
    return network.folded()


def crops(folders: Sequence[Path]) -> list[Pixels]:
    """A crop [3, <= CROP, <= CROP] of every image, and all images of .npz files in ImageNet64's layout."""
    rng = np.random.default_rng(0)
    result: list[Pixels] = []
    for path in sorted(path for folder in folders for path in ([folder] if folder.is_file() else folder.iterdir())):
        if path.suffix == ".npz":
            with np.load(path) as stored:
                result += list(stored["data"][:SMALL].reshape(-1, 3, 64, 64))
            continue
        image = read_image(path).numpy()
        y, x = (int(rng.integers(max(1, side - CROP + 1))) for side in image.shape[1:])
        result.append(image[:, y : y + CROP, x : x + CROP])
    return result


def main(arguments: Sequence[str]) -> None:
    out, folders = Path(arguments[0]), [Path(folder) for folder in arguments[1:]]
    images = crops(folders)
    stored: dict[str, Any] = {}
    collected = []
    for number, image in enumerate(images):
        collected.append(collect(image, number))
        if number % 50 == 49:
            print(f"{number + 1} of {len(images)} crops", flush=True)
    for position in range(3):
        arrays = [np.concatenate([one[position][k] for one in collected]) for k in range(4)]
        samples: Samples = (arrays[0], arrays[1], arrays[2], arrays[3])
        network = fit_network(samples)
        for name, values in {**network, "usual": usual_predictor(samples)}.items():
            stored[f"{name}_{position}"] = np.round(values * WEIGHT_SCALE).astype(np.int32)
    np.savez_compressed(out, **stored)
    parameters.cache_clear()


if __name__ == "__main__":
    main(sys.argv[1:])
