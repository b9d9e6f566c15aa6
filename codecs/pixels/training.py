"""Trains what the pixel coder knows before it sees an image: mixture.npz, by train.py.

    python train.py fit -c configs/pixels/mixture.yaml --data configs/data/pixels.yaml --data.data_dir DIR

The coder runs over crops of photos as it does for a file; what its networks read and the pixels that came are kept in
a buffer, and the networks of the three planes are fitted to draws from it by Adam on the bits per pixel.  A resumed run
goes on with weights, optimizer and schedule, and fills its buffer anew.
"""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from . import mixture
from .lanes import LANES
from .plane import BEST, MODELS, WEIGHT_SCALE, Planes, parameters, regressors
from .prediction import RING, SLANT, Floats, Ints, Plan, Singles, State

ORDER = (1, 0, 2)
NORMALISED_BY = 8  # crops from which the inputs' means and deviations are taken


class Samples:
    """What the coder met in one plane: N pixels.

    inputs float16 [N, F]; predicted float32 [N, P + 1]; pixels float32 [N]; sums float64 [n + 1, n + 1], regressors
    and pixel times themselves, less their planes' means, weighted by the inverse of their surroundings' variance
    """

    def __init__(self, inputs: Singles, predicted: Singles, pixels: Ints, rows: Singles) -> None:
        self.inputs = torch.from_numpy(inputs.astype(np.float16))
        self.predicted, self.pixels = torch.from_numpy(predicted), torch.from_numpy(pixels.astype(np.float32))
        weighted = rows / (3 + np.ptp(rows[:, :4], axis=1, keepdims=True) ** 2 / 4)
        self.sums = torch.from_numpy(weighted.T.astype(np.float64) @ rows)


def collect(image: Tensor, model: int, kept: float, seed: int) -> list[Samples]:
    """What the coder meets in uint8 `image` [3, H, W], plane by plane, a share `kept` of the pixels."""
    rng, planes = np.random.default_rng(seed), Planes((image.shape[1], image.shape[2]))
    result = []
    for position in range(3):
        plane = image[ORDER[position]].numpy().astype(np.int64)
        parts = np.divmod(plane, mixture.COARSE)
        met: list[tuple[Any, ...]] = []

        def source(
            first: int, last: int, time: int, _: Floats, part: int, parts: tuple[Ints, Ints] = parts
        ) -> Ints:
            y = np.arange(first, last)
            return parts[part][y, time - SLANT * y]

        def watch(
            plan: Plan, state: State, first: int, last: int, time: int, inputs: Singles,
            plane: Ints = plane, met: list[tuple[Any, ...]] = met, position: int = position,
        ) -> None:  # fmt: skip
            y = first + np.flatnonzero(rng.random(last - first) < kept)
            blocks, lanes, n = y // LANES, y % LANES, len(plan.usual)
            count = mixture.feature_count(len(state.recent), len(plan.strides), position)
            read = inputs.reshape(len(inputs), -1, LANES)[blocks, :count, lanes]
            vectors = state.vectors[time % RING].reshape(len(inputs), n + 2, LANES)[blocks, : n + 1, lanes]
            met.append((read, state.predicted[:, y].T.copy(), plane[y, time - SLANT * y], vectors))

        planes.run(ORDER, position, source, model, watch=watch)
        result.append(Samples(*(np.concatenate(values) for values in zip(*met, strict=True))))
    return result


class MixtureNetwork(nn.Module):
    """mixture.py in torch: bits of pixels [N] given inputs [N, F] and predictions [N, P + 1]."""

    def __init__(self, inputs: int, predictions: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, mixture.output_count(predictions))
        self.centre, self.spread = nn.Buffer(torch.zeros(inputs)), nn.Buffer(torch.ones(inputs))
        self.start = torch.from_numpy(mixture.START).float()

    def forward(self, inputs: Tensor, predicted: Tensor, pixels: Tensor) -> Tensor:
        k, two = mixture.COMPONENTS, math.log(2)
        out = self.third(self.second(self.first((inputs - self.centre) / self.spread).relu()).relu())
        log_scales = out[:, :k] + self.start
        log_weights = torch.log_softmax(out[:, k : 2 * k] * two, 1)
        share = torch.softmax(out[:, 3 * k :].unflatten(1, (k, -1)) * two, 2)
        means = (share * predicted[:, None]).sum(2) + mixture.OFFSET * out[:, 2 * k : 3 * k] * torch.exp2(log_scales)
        inverse, away = torch.exp2(-log_scales), pixels[:, None] - means
        upper, lower = torch.sigmoid((away + 0.5) * inverse), torch.sigmoid((away - 0.5) * inverse)
        upper = torch.where(pixels[:, None] >= 255, torch.ones_like(upper), upper)
        lower = torch.where(pixels[:, None] <= 0, torch.zeros_like(lower), lower)
        return -torch.log2((torch.exp(log_weights) * (upper - lower)).sum(1) + 2.0**-22)

    def folded(self) -> dict[str, Floats]:
        """Weights of mixture.distributions, on inputs that are not normalised."""
        with torch.no_grad():
            weights = (self.first.weight / self.spread).T
            layers = (weights, self.first.bias - self.centre @ weights), *(
                (layer.weight.T, layer.bias) for layer in (self.second, self.third)
            )
            values = [torch.cat([bias[None], weight]).double().numpy() for weight, bias in layers]
        return dict(zip(mixture.LAYERS, values, strict=True))


class PixelMixture(lightning.LightningModule):
    """The networks of one of the pixel coder's models.

    model    one of plane.MODELS
    hidden   numbers in a hidden layer, a multiple of lanes.GROUP
    lr       Adam's rate, which falls to 0 at trainer.max_steps as a cosine
    passes   steps for each batch of crops
    samples  pixels of a step, of each plane
    buffer   crops that the pixels are drawn from, the latest
    kept     share of a crop's pixels that go there
    output   mixture.npz, whose entries for this model are replaced when training ends; None: nothing is written
    """

    def __init__(
        self, model: int = BEST, hidden: int = 64, lr: float = 4e-3, passes: int = 8, samples: int = 2048,
        buffer: int = 400, kept: float = 0.25, output: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        self.model, self.lr, self.passes, self.samples, self.kept = model, lr, passes, samples, kept
        self.output = output
        self.networks = nn.ModuleList()
        self.crops = nn.Buffer(torch.zeros((), dtype=torch.int64))
        windows = len(MODELS[model].windows)
        for position in range(3):
            places, orders = regressors(model, ORDER, position)
            predictions, n = windows * len(orders), len(places)
            self.networks.append(
                MixtureNetwork(mixture.feature_count(predictions, windows, position), predictions, hidden)
            )
            self.register_buffer(f"sums{position}", torch.zeros(n + 1, n + 1, dtype=torch.float64))
        self.memory: deque[list[Samples]] = deque(maxlen=buffer)

    def network(self, position: int) -> MixtureNetwork:
        found = self.networks[position]
        assert isinstance(found, MixtureNetwork)
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.networks.parameters(), self.lr)

    def training_step(self, batch: Tensor, batch_index: int) -> None:
        for image in batch.cpu():
            self._remember(image)
        optimizer = self.optimizers()
        for _ in range(self.passes if len(self.memory) >= NORMALISED_BY else 0):
            done = self.trainer.global_step / max(self.trainer.max_steps, 1)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))
            losses = [self._loss(position) for position in range(3)]
            optimizer.zero_grad()
            self.manual_backward(torch.stack(losses).sum())
            optimizer.step()
            self.log("train/bpd", torch.stack(losses).detach().mean(), prog_bar=True)

    def _remember(self, image: Tensor) -> None:
        samples = collect(image, self.model, self.kept, int(self.crops))
        self.memory.append(samples)
        self.crops.add_(1)
        for position, one in enumerate(samples):
            self.get_buffer(f"sums{position}").add_(one.sums)
        if int(self.crops) == NORMALISED_BY:
            for position in range(3):
                inputs = torch.cat([crop[position].inputs for crop in self.memory]).float()
                self.network(position).centre.copy_(inputs.mean(0))
                self.network(position).spread.copy_(inputs.std(0) + 1e-2)

    def _loss(self, position: int) -> Tensor:
        """Mean bits of self.samples pixels, drawn from 32 crops of the buffer."""
        chosen = [self.memory[int(k)][position] for k in torch.randint(len(self.memory), (32,))]
        count = self.samples // len(chosen)
        places = [torch.randint(len(one.pixels), (count,)) for one in chosen]
        return self.network(position)(
            torch.cat([one.inputs[place] for one, place in zip(chosen, places, strict=True)]).float(),
            torch.cat([one.predicted[place] for one, place in zip(chosen, places, strict=True)]),
            torch.cat([one.pixels[place] for one, place in zip(chosen, places, strict=True)]),
        ).mean()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        for number, image in enumerate(batch.cpu()):
            met = collect(image, self.model, 1.0, number)
            bits = [
                self.network(position)(one.inputs.float(), one.predicted, one.pixels).mean()
                for position, one in enumerate(met)
            ]
            self.log("val/bpd", torch.stack(bits).mean(), batch_size=1, prog_bar=True)

    def on_train_end(self) -> None:
        if self.output is not None:
            self.save(Path(self.output))

    def save(self, path: Path) -> None:
        """Write the entries of this model into mixture.npz, whole multiples of 1 / WEIGHT_SCALE."""
        stored: dict[str, Any] = {}
        if path.is_file():
            with np.load(path) as before:
                stored = {name: before[name] for name in before.files}
        for position in range(3):
            for name, values in {**self.network(position).folded(), "usual": self._usual(position)}.items():
                stored[f"{name}_{self.model}_{position}"] = np.round(values * WEIGHT_SCALE).astype(np.int32)
        np.savez_compressed(path, **stored)
        parameters.cache_clear()

    def _usual(self, position: int) -> Floats:
        """Coefficients that predict all samples at once."""
        sums = self.get_buffer(f"sums{position}").numpy()
        n = len(sums) - 1
        ridge = 1e-6 * np.trace(sums[:n, :n]) * np.eye(n)
        return np.asarray(np.linalg.solve(sums[:n, :n] + ridge, sums[:n, n]))
