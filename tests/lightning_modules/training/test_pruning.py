"""Channels that died in training: found, left out without a difference, and grown again where training goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffpress.data import save_image
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.identity import ModelError
from diffpress.lightning_modules.networks.denoiser import Denoiser
from diffpress.lightning_modules.networks.scaled_denoiser import DenoiserConfig
from diffpress.lightning_modules.training.pruning import activity, main
from diffpress.lightning_modules.uqdm import UQDM
from helpers import synthetic_photo

DEAD = {"down.0.0": [1, 5], "down.1.0": [0, 2, 3, 11], "up.0.0": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A denoiser with random weights, some of whose channels never act."""
    torch.manual_seed(0)
    network = Denoiser((8, 12), blocks=1, embedding=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for name, channels in DEAD.items():
        network.blocks()[name].conv_in.bias.data[channels] = -1e3  # type: ignore[union-attr]
    network.half().save(tmp_path / "model")
    (tmp_path / "model" / "prior.json").write_text(json.dumps({"log_snr": [13.0, -8.0]}))
    return tmp_path / "model"


def test_dead_channels_are_left_out_and_nothing_changes(folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        save_image(synthetic_photo(40, 33, number), tmp_path / "photos" / f"{number}.png")
    main(folder, tmp_path / "pruned", tmp_path / "photos", images=3, size=32)
    before, after = Denoiser.load(folder), Denoiser.load(tmp_path / "pruned")
    widths = {name: block.conv_in.out_channels for name, block in before.blocks().items()}
    left = {name: block.conv_in.out_channels for name, block in after.blocks().items()}
    assert left == {name: width - len(DEAD[name]) for name, width in widths.items()}
    z, log_snr = torch.randn(2, 3, 16, 24), torch.tensor([-3.0, 8.0])
    with torch.no_grad():
        torch.testing.assert_close(after(z, log_snr), before(z, log_snr), rtol=1e-5, atol=1e-5)
    prior = load_model(tmp_path / "pruned", device="cpu")
    assert prior.fingerprint != load_model(folder, device="cpu").fingerprint
    with pytest.raises(ModelError, match="folder of its own"):
        main(folder, folder, tmp_path / "photos", images=3, size=32)


def test_a_block_keeps_one_channel_at_least(folder: Path, tmp_path: Path) -> None:
    save_image(synthetic_photo(32, 32), tmp_path / "photos" / "one.png")
    main(folder, tmp_path / "pruned", tmp_path / "photos", images=1, size=32, share=2.0)
    widths = [block.conv_in.out_channels for block in Denoiser.load(tmp_path / "pruned").blocks().values()]
    assert min(widths) >= 1


def test_activity_is_a_share_of_places(folder: Path) -> None:
    shares = activity(Denoiser.load(folder), [synthetic_photo(32, 32)])
    for name, share in shares.items():
        assert (share[DEAD[name]] == 0).all()
        assert 0 < share.max() <= 1


def test_training_goes_on_with_all_channels(folder: Path, tmp_path: Path) -> None:
    """UQDM starts from a pruned denoiser with blocks of full width, and what they have more is trained as well."""
    network = Denoiser.load(folder)
    keep = {name: torch.arange(block.conv_in.out_channels) >= 2 for name, block in network.blocks().items()}
    pruned = network.narrowed(keep)
    pruned.half().save(tmp_path / "narrow")
    model = UQDM(DenoiserConfig(widths=(8, 12), blocks=1, embedding=16), n_steps=2, initial=str(tmp_path / "narrow"))
    block = model.network.denoiser.blocks()["down.1.0"]  # type: ignore[union-attr]
    assert block.conv_in.out_channels == 12
    z, log_snr = torch.randn(2, 3, 16, 16), torch.tensor([-3.0, 8.0])
    with torch.no_grad():
        expected = pruned.float()(z, log_snr)
        torch.testing.assert_close(model.predict(z, log_snr)[0], expected, rtol=1e-4, atol=1e-4)
    model.predict(z, log_snr)[0].square().mean().backward()
    assert block.conv_out.weight.grad is not None
    assert (block.conv_out.weight.grad[:, -2:].abs().sum((0, 2, 3)) > 0).all()
