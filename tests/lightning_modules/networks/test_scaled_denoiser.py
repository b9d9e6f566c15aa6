"""The denoiser as UQDM's network: it starts where the trained denoiser ends, and ships as a folder of its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.networks.denoiser import Denoiser
from diffpress.lightning_modules.networks.scaled_denoiser import DenoiserConfig, ScaledDenoiser
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.uqdm import UQDM

SMALL = DenoiserConfig(widths=(8, 12), blocks=1, embedding=16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser folder with random weights everywhere, in half precision like the shipped one."""
    torch.manual_seed(0)
    denoiser = Denoiser((8, 12), 1, 16)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("denoiser")
    denoiser.half().save(folder)
    return folder


def test_it_starts_with_the_estimates_of_the_trained_denoiser(trained: Path) -> None:
    model = UQDM(SMALL, n_steps=2, initial=str(trained))
    denoiser = Denoiser.load(trained)
    z, log_snr = torch.randn(3, 3, 16, 8), torch.tensor([-6.0, 1.0, 11.0])
    with torch.no_grad():
        x_hat, scale = model.predict(z, log_snr)
        torch.testing.assert_close(x_hat, denoiser(z, log_snr), rtol=1e-4, atol=1e-4)
    assert scale is not None
    assert torch.equal(scale, torch.ones_like(z))


def test_a_denoiser_of_another_shape_or_network_is_refused(trained: Path) -> None:
    with pytest.raises(ModelError, match="no denoiser of the network's shape"):
        UQDM(DenoiserConfig(widths=(8, 16), blocks=1, embedding=16), initial=str(trained))
    with pytest.raises(ValueError, match="give its widths"):
        UQDM(ScoreNetConfig(embedding_dim=8, norm_groups=4), initial=str(trained))


def test_every_parameter_is_used_by_the_bound() -> None:
    torch.manual_seed(0)
    model = UQDM(SMALL, ScheduleConfig(-9.0, 5.0), n_steps=3)
    for parameter in model.network.parameters():  # zero layers hide what lies before them
        torch.nn.init.normal_(parameter, std=0.1)
    model.nelbo(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8), start="posterior").total.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_muon_leaves_first_and_last_layer_alone() -> None:
    network = ScaledDenoiser(SMALL, predict_scale=True)
    from diffpress.lightning_modules.training.pixel_diffusion import OptimizerConfig

    optimizer = UQDM(SMALL, optimizer=OptimizerConfig(muon_lr=0.01)).configure_optimizers()["optimizer"]
    shapes = {tuple(parameter.shape) for parameter in optimizer.param_groups[1]["params"]}
    assert {tuple(network.denoiser.stem.weight.shape), tuple(network.denoiser.head.weight.shape)} <= shapes


@pytest.mark.parametrize("half", [False, True])
def test_folder_round_trip(trained: Path, tmp_path: Path, half: bool) -> None:
    model = UQDM(SMALL, ScheduleConfig(-12.345, 6.0), n_steps=2, initial=str(trained))
    model.save_folder(tmp_path, half=half)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.model_config() == model.model_config()
    stored = load_file(str(tmp_path / "model.safetensors"))
    assert stored["network.denoiser.stem.weight"].dtype == (torch.float16 if half else torch.float32)
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32, name
        rounded = model.state_dict()[name]
        if half and name.startswith("network."):
            rounded = rounded.half().float()
        assert torch.equal(value, rounded), name
