"""The fit of the network: what it trains is what the coder computes, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffpress.codecs.pixels import fit, mixture
from diffpress.codecs.pixels.plane import Planes, parameters
from diffpress.codecs.pixels.prediction import SLANT, Floats, Ints
from helpers import synthetic_photo


def coded_bits(image: torch.Tensor, position: int) -> float:
    """Bits per pixel that the coder's tables give the plane at `position`, those before it being known."""
    planes, bits = Planes((image.shape[1], image.shape[2])), 0.0
    for k in range(position + 1):
        plane, bits = image[fit.ORDER[k]].numpy().astype(np.int64), 0.0

        def source(first: int, last: int, time: int, weights: Floats, plane: Ints = plane) -> Ints:
            nonlocal bits
            rows = np.arange(first, last)
            pixels = plane[rows, time - SLANT * rows]
            bits -= float(np.log2(weights[rows - first, pixels] / weights.sum(1)).sum())
            return pixels

        planes.run(fit.ORDER, k, source)
    return bits / image[0].numel()


@pytest.mark.parametrize("position", [0, 2])
def test_loss_is_what_the_coder_needs(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped network, in torch, on what the coder read, gives the bits of the coder's tables."""
    monkeypatch.setattr(fit, "KEPT", 1.0)
    image = synthetic_photo(40, 48)
    inputs, means, pixels, _ = fit.collect(image.numpy().astype(np.int64), 0)[position]
    shipped, network = parameters()[position][0], fit.MixtureNetwork(inputs)
    layers = network.first, network.second, network.third
    network.centre, network.spread = torch.zeros(inputs.shape[1]), torch.ones(inputs.shape[1])
    with torch.no_grad():
        for layer, (weights, bias) in zip(layers, zip(*[iter(mixture.NETWORK)] * 2, strict=True), strict=True):
            layer.weight.copy_(torch.from_numpy(shipped[weights].T))
            layer.bias.copy_(torch.from_numpy(shipped[bias]))
        loss = network(*(torch.from_numpy(array) for array in (inputs, means, pixels))).mean()
    assert float(loss) == pytest.approx(coded_bits(image, position), rel=0.005)


def test_fit_learns_and_folds_its_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "STEPS", 150)
    monkeypatch.setattr(fit, "BATCH", 512)
    rng = np.random.default_rng(0)
    means = np.repeat(rng.uniform(60, 200, (4000, 1)), 4, axis=1)
    spread = rng.choice([0.5, 8.0], 4000)
    pixels = np.round(means[:, 0] + spread * rng.logistic(size=4000))
    inputs = np.stack([np.log2(spread), rng.normal(size=4000)], 1)
    arrays = tuple(array.astype(np.float32) for array in (inputs, means, pixels, means))
    found = fit.fit_network(arrays)
    hidden = np.array([[-1.0, 0.0], [3.0, 0.0]])
    for k in (0, 2):
        hidden = np.maximum(hidden @ found[mixture.NETWORK[k]] + found[mixture.NETWORK[k + 1]], 0)
    out = hidden @ found["weights2"] + found["bias2"]
    scales = out[:, : mixture.COMPONENTS] + mixture.START
    shares = 2.0 ** out[:, mixture.COMPONENTS : 2 * mixture.COMPONENTS]
    mean_scale = (shares * scales).sum(1) / shares.sum(1)
    assert mean_scale[1] - mean_scale[0] == pytest.approx(4, abs=1)
