"""The score network: what an untrained one returns, its options, and its gradient."""

import pytest
import torch

from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma, x0_from_eps
from diffpress.lightning_modules.networks.score_net import DATA_STD, ScoreNet, ScoreNetConfig

SMALL = {"embedding_dim": 16, "norm_groups": 4}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patch_size": 2, "mid_attention": False, "use_fourier_features": False},
        {"attention_everywhere": True, "n_attention_heads": 2, "n_blocks": 2},
        {"use_detail_features": True, "patch_size": 4},
    ],
)
def test_untrained_network_predicts_z_with_scale_one(options: dict) -> None:
    network = ScoreNet(ScoreNetConfig(**SMALL, **options), predict_scale=True)
    z = torch.randn(2, 3, 8, 12)
    eps, scale = network(z, torch.tensor([3.0, -2.0]))
    torch.testing.assert_close(eps, z)
    torch.testing.assert_close(scale, torch.ones_like(z))
    assert ScoreNet(ScoreNetConfig(**SMALL, **options), predict_scale=False)(z, torch.zeros(2))[1] is None


def test_untrained_preconditioned_network_is_the_linear_denoiser() -> None:
    network = ScoreNet(ScoreNetConfig(**SMALL, preconditioned=True), predict_scale=False)
    z, log_snr = torch.randn(2, 3, 8, 8), torch.tensor([6.0, -1.0])
    level = log_snr[:, None, None, None]
    alpha, sigma = alpha_sigma(level)
    expected = alpha * DATA_STD**2 / (alpha**2 * DATA_STD**2 + sigma**2) * z  # E[x | z] for x ~ N(0, DATA_STD^2)
    torch.testing.assert_close(x0_from_eps(z, network(z, log_snr)[0], level), expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_is_used() -> None:
    torch.manual_seed(0)
    network = ScoreNet(ScoreNetConfig(**SMALL), predict_scale=True)
    for parameter in network.parameters():  # zero layers hide what lies before them
        torch.nn.init.normal_(parameter, std=0.1)
    eps, scale = network(torch.randn(1, 3, 8, 8), torch.zeros(1))
    assert scale is not None
    (eps.square().sum() + scale.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
