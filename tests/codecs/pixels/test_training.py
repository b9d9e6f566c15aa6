"""Training of the networks: its loss is what the coder needs, it learns, goes on where it stopped, and is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.codecs.pixels import learning, mixture, training
from diffpress.codecs.pixels.lanes import LANES
from diffpress.codecs.pixels.plane import BEST, FAST, Planes, parameters
from diffpress.codecs.pixels.prediction import SLANT, Floats, Ints, State
from diffpress.codecs.pixels.segment import encode_pixels
from diffpress.commands.train import main
from diffpress.data import save_image
from helpers import ROOT, synthetic_photo


def coded_bits(image: torch.Tensor, position: int, model: int) -> float:
    """Bits per pixel that the coder's tables give the plane at `position`, those before it being known."""
    planes, bits = Planes((image.shape[1], image.shape[2])), 0.0
    for k in range(position + 1):
        parts, bits = np.divmod(image[training.ORDER[k]].numpy().astype(np.int64), mixture.COARSE), 0.0

        def source(
            first: int, last: int, time: int, weights: Floats, part: int, parts: tuple[Ints, Ints] = parts
        ) -> Ints:
            nonlocal bits
            rows = np.arange(first, last)
            symbols = parts[part][rows, time - SLANT * rows]
            bits -= float(np.log2(weights[rows - first, symbols] / weights.sum(1)).sum())
            return symbols

        planes.run(training.ORDER, k, source, model)
    return bits / image[0].numel()


def network_of(model: int, position: int, inputs: int, predictions: int) -> training.MixtureNetwork:
    """The shipped network of a plane in torch."""
    layers = [torch.from_numpy(layer) for layer in parameters(model)[position][0]]
    network = training.MixtureNetwork(inputs, predictions, layers[0].shape[1])
    for own, layer in zip((network.first, network.second, network.third), layers, strict=True):
        own.bias.data = layer[0, : own.out_features]
        own.weight.data = layer[1 : 1 + own.in_features, : own.out_features].T
    return network


@pytest.mark.parametrize(("model", "position"), [(BEST, 0), (BEST, 2), (FAST, 1)])
def test_loss_is_what_the_coder_needs(model: int, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped network, in torch, on what the coder read, gives the bits of the coder's tables."""
    image = synthetic_photo(40, 48)
    met = training.collect(image, model, 1.0, 0)[position]
    network = network_of(model, position, met.inputs.shape[1], met.predicted.shape[1] - 1)
    with torch.no_grad():
        loss = network(met.inputs.float(), met.predicted, met.pixels).mean()
    monkeypatch.setattr(learning, "learn", lambda *_: None)
    assert float(loss) == pytest.approx(coded_bits(image, position, model), rel=0.005)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the coder read, met and made of it in the last line of more than LANES pixels of a photo's third plane."""
    found: dict[str, torch.Tensor] = {}

    def look(
        state: State, learner: learning.Learner, first: int, last: int, components: Floats, pixels: Ints
    ) -> None:
        if last - first > LANES:
            y, inputs = np.arange(first, last), learner.network.inputs
            for gradient in learner.gradients:
                gradient[:] = 0
            learning.add_gradients(state, learner, first, last, components, pixels)
            found["inputs"] = torch.from_numpy(inputs.reshape(len(inputs), -1, LANES)[y // LANES, :, y % LANES].copy())
            found["predicted"] = torch.from_numpy(state.predicted[:, y].T.copy())
            found["pixels"] = torch.from_numpy(pixels.astype(np.float32))
            for k, gradient in enumerate(learner.gradients):
                found[f"gradient {k}"] = torch.from_numpy(gradient.copy())

    monkeypatch.setattr(learning, "learn", look)
    coded_bits(synthetic_photo(37, 75), 2, BEST)  # the last block of rows is not full
    return found


def test_what_is_learned_while_coding_follows_the_gradient_of_the_bits(line: dict[str, torch.Tensor]) -> None:
    count = len(parameters(BEST)[2][0][0]) - 1
    network = network_of(BEST, 2, count, line["predicted"].shape[1] - 1)
    bits = network(line["inputs"], line["predicted"], line["pixels"]).sum()
    for k, layer in enumerate((network.first, network.second, network.third)):
        bias, weight = torch.autograd.grad(bits, [layer.bias, layer.weight], retain_graph=True)
        expected = torch.cat([bias[None], weight.T])
        own, padding = line[f"gradient {k}"].reshape(len(expected), -1).tensor_split([expected.shape[1]], 1)
        assert float(expected.norm()) > 1
        assert float((own - expected).norm() / expected.norm()) < 0.03  # the coder's tables are rounded
        assert not padding.any()


@pytest.mark.parametrize("model", [BEST, FAST])
def test_learning_while_coding_saves_bits(model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = synthetic_photo(96, 96)
    own = len(encode_pixels(image, fast=model == FAST))
    monkeypatch.setattr(learning, "learn", lambda *_: None)
    assert own < 0.995 * len(encode_pixels(image, fast=model == FAST))


def test_folded_network_takes_inputs_as_they_are() -> None:
    torch.manual_seed(0)
    network = training.MixtureNetwork(6, 2, 16)
    network.centre.copy_(torch.randn(6))
    network.spread.copy_(torch.rand(6) + 0.5)
    found, inputs = network.folded(), torch.randn(5, 6)
    normalised = (inputs - network.centre) / network.spread
    expected = network.third(network.second(network.first(normalised).relu()).relu()).detach().numpy()
    hidden = inputs.numpy().astype(np.float64)
    for name in mixture.LAYERS:
        hidden = hidden @ found[name][1:] + found[name][0]
        hidden = hidden if name == mixture.LAYERS[-1] else np.maximum(hidden, 0)
    assert np.allclose(hidden[:, : expected.shape[1]], expected, atol=1e-5)


def run(folder: Path, steps: int, *more: str) -> Path:
    """train.py fit on photos of folder/photos; returns the last checkpoint."""
    config = str(ROOT / "configs" / "pixels" / "mixture.yaml")
    arguments = [
        "fit", "-c", config, "--data.train", str(folder / "photos"), "--data.crop_size", "32",
        "--model.init_args.model", "5", "--model.init_args.hidden", "16", "--model.init_args.samples", "256",
        "--trainer.max_steps", str(steps), "--trainer.logger", "false", "--trainer.check_val_every_n_epoch", "100",
        "--model.init_args.output", str(folder / "mixture.npz"), "--trainer.callbacks.dirpath", str(folder / "kept"),
        *more,
    ]  # fmt: skip
    assert main(arguments) == 0
    return folder / "kept" / "last.ckpt"


@pytest.mark.slow
def test_training_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for k in range(10):
        save_image(synthetic_photo(40, 40 + k), tmp_path / "photos" / f"{k}.png")
    last = run(tmp_path, 8)
    first = dict(np.load(tmp_path / "mixture.npz"))
    assert {name.rsplit("_", 2)[0] for name in first} == {*mixture.LAYERS, "usual"}
    assert all(name.split("_")[1] == "5" and values.dtype == np.int32 for name, values in first.items())
    run(tmp_path, 16, "--ckpt_path", str(last))
    state = torch.load(last, weights_only=True)
    assert state["global_step"] == 16
    assert int(state["state_dict"]["crops"]) > 8, "goes on with what the first run left"
    assert np.abs(first["weights1_3_0"] - np.load(tmp_path / "mixture.npz")["weights1_3_0"]).max() > 0
