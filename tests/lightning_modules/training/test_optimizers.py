"""Muon and Adam in one optimizer: which parameters get which, and that each is what its paper says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from diffpress.lightning_modules.networks.denoiser import Denoiser
from diffpress.lightning_modules.networks.scaled_denoiser import DenoiserConfig, ScaledDenoiser
from diffpress.lightning_modules.networks.score_net import ScoreNet, ScoreNetConfig
from diffpress.lightning_modules.training.optimizers import MuonAdam, orthogonalise, split_parameters
from diffpress.lightning_modules.training.pixel_diffusion import OptimizerConfig

NETWORKS = [
    Denoiser((8, 12), 1, 16),
    ScaledDenoiser(DenoiserConfig(widths=(8, 12), blocks=1, embedding=16), predict_scale=True),
    ScoreNet(ScoreNetConfig(embedding_dim=8, norm_groups=4), predict_scale=True),
]


def test_orthogonalise_flattens_the_spectrum() -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(24, 90)))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_muon_gets_every_inner_kernel_and_nothing_else(network: nn.Module) -> None:
    outer = network.first_and_last_layers()  # type: ignore[operator]
    muon, adam = split_parameters(network, outer)
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert {*muon, *adam} == set(names)
    assert len(muon) + len(adam) == len(names)
    kernels = [name for name, parameter in network.named_parameters() if parameter.ndim == 4]
    assert len(kernels) - len(muon) == sum(isinstance(m, nn.Conv2d) for layer in outer for m in layer.modules())
    for number, part in enumerate((muon, adam)):
        order = [name for name in names.values() if name in {names[p] for p in part}]
        assert [names[p] for p in part] == order, number  # checkpoints count parameters in this order


def train(optimizer: torch.optim.Optimizer, module: nn.Module, steps: int) -> None:
    """Steps with the gradients of a seeded stream."""
    rng = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        optimizer.step()


def test_the_part_without_muon_is_adam() -> None:
    ours = nn.Linear(5, 4)
    theirs = copy.deepcopy(ours)
    train(MuonAdam([], list(ours.parameters()), adam_lr=0.01, betas=(0.8, 0.95), eps=1e-3), ours, 7)
    train(torch.optim.Adam(theirs.parameters(), 0.01, (0.8, 0.95), 1e-3), theirs, 7)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("counter", [int, torch.tensor], ids=["integer", "tensor, as in earlier versions"])
def test_a_loaded_state_goes_on(counter: type) -> None:
    network = Denoiser((8, 12), 1, 16)
    optimizer = MuonAdam(*split_parameters(network, network.first_and_last_layers()))
    train(optimizer, network, 3)
    state = copy.deepcopy(optimizer.state_dict())
    assert [group["muon"] for group in state["param_groups"]] == [True, False]
    assert set().union(*state["state"].values()) == {"momentum", "step", "mean", "square"}
    for values in state["state"].values():
        if "step" in values:
            values["step"] = counter(values["step"])
    other = copy.deepcopy(network)
    resumed = MuonAdam(*split_parameters(other, other.first_and_last_layers()))
    resumed.load_state_dict(state)
    train(optimizer, network, 4)
    train(resumed, other, 4)
    counters = [values["step"] for values in resumed.state.values() if "step" in values]
    assert {type(step) for step in counters} == {int}  # a tensor on a GPU would be waited for
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weight_decay_with_muon_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay is for Adam alone"):
        OptimizerConfig(muon_lr=0.01, weight_decay=0.1)
