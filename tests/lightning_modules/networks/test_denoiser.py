"""The denoiser's network: its options, its folder, and how it is deepened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffpress.lightning_modules import ModelError
from diffpress.lightning_modules.denoiser import DenoiserTraining
from diffpress.lightning_modules.networks.denoiser import Denoiser


def random_denoiser(widths: tuple[int, ...], blocks: int, activation: str = "relu") -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(widths, blocks, embedding=16, activation=activation)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
@pytest.mark.parametrize("widths", [(8,), (8, 12)])
def test_folder_keeps_shape_weights_and_activation(tmp_path: Path, activation: str, widths: tuple[int, ...]) -> None:
    network = random_denoiser(widths, 3, activation)
    network.save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored.get("activation", "relu") == activation
    again = Denoiser.load(tmp_path)
    assert again.activation == activation
    z, log_snr = torch.randn(2, 3, 16, 24), torch.tensor([-3.0, 8.0])
    assert torch.equal(again(z, log_snr), network(z, log_snr))
    keep = {name: torch.arange(block.conv_in.out_channels) >= 3 for name, block in network.blocks().items()}
    narrow = network.narrowed(keep)
    narrow.save(tmp_path / "narrow")
    with torch.no_grad():
        assert torch.equal(Denoiser.load(tmp_path / "narrow")(z, log_snr), narrow(z, log_snr))
        deeper = narrow.deepened(4)
        assert torch.equal(deeper(z, log_snr), narrow(z, log_snr))
    assert deeper.activation == activation


def test_activations_differ_and_others_are_refused() -> None:
    z, log_snr = torch.randn(1, 3, 16, 16), torch.zeros(1)
    relu, silu, gelu = (random_denoiser((8,), 1, name)(z, log_snr) for name in ("relu", "silu", "gelu"))
    assert not torch.allclose(relu, silu)
    assert not torch.allclose(silu, gelu)
    with pytest.raises(ModelError, match="none of relu, silu, gelu"):
        Denoiser((8,), activation="tanh")


def test_a_denoiser_is_deepened_but_not_made_shallower_or_wider(tmp_path: Path) -> None:
    network = random_denoiser((8, 12), 2)
    keep = {name: torch.arange(block.conv_in.out_channels) >= 3 for name, block in network.blocks().items()}
    pruned = network.narrowed(keep)
    deeper = pruned.deepened([3, 2])
    z, log_snr = torch.randn(2, 3, 16, 24), torch.tensor([-3.0, 8.0])
    assert torch.equal(deeper(z, log_snr), pruned(z, log_snr))
    deeper(z, log_snr).sum().backward()
    for name in ("down.0.2", "up.0.2"):
        assert deeper.blocks()[name].conv_out.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    for blocks in (1, [2, 2, 2], [3, 1]):
        with pytest.raises(ValueError, match="blocks"):
            pruned.deepened(blocks)
    pruned.save(tmp_path)
    with pytest.raises(ModelError, match="no denoiser of widths"):
        DenoiserTraining((8, 16), 2, 16, initial=str(tmp_path))
    with pytest.raises(ModelError, match="trained with relu, not with silu"):
        DenoiserTraining((8, 12), 2, 16, "silu", initial=str(tmp_path))
