"""VDM: its bound, its reconstructions, its training loop, and itself as a prior."""

from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion.gaussian import diffuse
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.priors.interface import Prior
from diffpress.lightning_modules.training.export import export
from diffpress.lightning_modules.uqdm import load_uqdm
from diffpress.lightning_modules.vdm import VDM, load_vdm

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = ScoreNetConfig(
    embedding_dim=8, norm_groups=4, mid_attention=False, use_fourier_features=False, patch_size=2, preconditioned=True
)


def small_vdm(**options: object) -> VDM:
    torch.manual_seed(0)
    return VDM(NETWORK, ScheduleConfig(-9.0, 5.0, learned=False), **options)  # type: ignore[arg-type]


def photos(count: int) -> torch.Tensor:
    return (torch.linspace(0, 255, 16).expand(count, 3, 16, 16) + torch.randn(count, 3, 16, 16)).clamp(0, 255).byte()


def test_discrete_bound_approaches_the_continuous_one_from_above() -> None:
    costs = {}
    for steps in (4, 512, None):
        model = small_vdm(n_steps=steps)
        with torch.no_grad():
            costs[steps] = float(torch.cat([model.nelbo(photos(64)).total for _ in range(2)]).mean())
    assert costs[4] > costs[512] * 1.5
    assert costs[512] == pytest.approx(costs[None], rel=0.05)


def test_reconstructions_improve_with_time() -> None:
    model = small_vdm()
    x = torch.linspace(-0.9, 0.9, 16).expand(4, 3, 16, 16)
    original = ((x + 1) * 128 - 0.5).round()
    for method in ("denoise", "ancestral", "flow"):
        errors = []
        for t in (0.9, 0.5, 0.0):
            z = diffuse(x, model.schedule(torch.tensor(t)), torch.randn_like(x))
            errors.append(float((model.reconstruct(z, t, method) - original).square().mean()))  # type: ignore[arg-type]
        assert errors == sorted(errors, reverse=True)


def test_fit_test_and_export(tmp_path: Path) -> None:
    batches = DataLoader([photos(8) for _ in range(4)], batch_size=None)
    model = small_vdm()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, batches, batches)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    named = DataLoader([("a", torch.zeros(3, 20, 70, dtype=torch.uint8))], batch_size=None)
    (result,) = trainer.test(model, named, verbose=False)
    assert {"test/bpd", "test/bpp", "test/psnr_flow/0", "test/psnr_denoise/4"} <= set(result)
    export(tmp_path / "run.ckpt", tmp_path / "model")
    loaded = load_vdm(tmp_path / "model")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_vdm_is_a_prior(tmp_path: Path) -> None:
    model = small_vdm()
    model.save_folder(tmp_path)
    prior = load_model(tmp_path, device="cpu")
    assert isinstance(prior, Prior)
    assert prior.num_levels == 1000
    assert prior.log_snr(0) == pytest.approx(9.0)
    assert prior.log_snr(1000) == pytest.approx(-5.0)
    assert prior.log_snr(500) == pytest.approx(2.0)
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    x0 = prior.encode(image)
    assert tuple(x0.shape[1:]) == prior.shape((5, 7)) == (3, 6, 8)
    assert torch.equal(prior.decode(x0, (5, 7)), image)
    z = diffuse(x0, prior.log_snr(900), torch.randn_like(x0))
    x_hat = prior.denoise(z, 900)
    assert float((x_hat - x0).square().mean()) < float((z - x0).square().mean())
    with pytest.raises(ModelError, match="VDM, not UQDM"):
        load_uqdm(tmp_path)
