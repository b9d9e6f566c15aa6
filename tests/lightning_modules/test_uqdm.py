"""UQDM: probabilities, the NELBO, reconstructions, folders, and the training loop."""

import json
import math
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from diffpress.lightning_modules import ModelError
from diffpress.lightning_modules.diffusion import gaussian
from diffpress.lightning_modules.diffusion import pixels as pixel_likelihood
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.diffusion.universal_quantization import BasePrior, interval_log_mass, sample_base
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.training.averaging import EMA
from diffpress.lightning_modules.training.export import export
from diffpress.lightning_modules.training.pixel_diffusion import OptimizerConfig
from diffpress.lightning_modules.uqdm import METHODS, UQDM, load_uqdm

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = ScoreNetConfig(
    embedding_dim=8, norm_groups=4, mid_attention=False, use_fourier_features=False, patch_size=2, preconditioned=True
)


def small_uqdm(**options: object) -> UQDM:
    torch.manual_seed(0)
    return UQDM(NETWORK, ScheduleConfig(-9.0, 5.0), **options)  # type: ignore[arg-type]


def images(count: int, side: int = 16) -> torch.Tensor:
    ramp = torch.linspace(0, 200, side)[None, None, :, None] + torch.linspace(0, 40, side)
    return (ramp + 10 * torch.randn(count, 3, side, side)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("base", ["logistic", "gaussian"])
@pytest.mark.parametrize("std", [0.05, 1.0, 40.0])
def test_masses_of_integers_sum_to_one(base: BasePrior, std: float) -> None:
    k = torch.arange(-2000, 2001, dtype=torch.float64) - 0.3
    one = torch.ones((), dtype=torch.float64)
    assert math.isclose(float(interval_log_mass(k, one, one * std, base).exp().sum()), 1.0, rel_tol=1e-9)


@pytest.mark.parametrize("base", ["logistic", "gaussian"])
def test_masses_far_in_the_tails_are_finite_with_finite_gradient(base: BasePrior) -> None:
    center = torch.tensor([0.0, 30.0, -300.0], requires_grad=True)
    std = torch.full((3,), 0.5, requires_grad=True)
    mass = interval_log_mass(center, torch.ones(()), std, base)
    mass.sum().backward()
    for value in (mass, center.grad, std.grad):
        assert value is not None
        assert torch.isfinite(value).all()
    assert mass[0] > mass[1] > mass[2]


@pytest.mark.parametrize("base", ["logistic", "gaussian"])
def test_base_samples_have_unit_variance(base: BasePrior) -> None:
    torch.manual_seed(0)
    sample = sample_base(torch.empty(200_000), base)
    assert abs(float(sample.mean())) < 0.02
    assert abs(float(sample.std()) - 1.0) < 0.02


def test_pixel_likelihood_equals_the_sum_over_all_values() -> None:
    torch.manual_seed(0)
    for log_snr in (4.0, 9.0, 12.3):
        level = torch.tensor(log_snr, dtype=torch.float64)
        image = torch.randint(0, 256, (500,), dtype=torch.uint8)
        image[:50], image[50:100] = 0, 255
        alpha, _ = gaussian.alpha_sigma(level)
        z = gaussian.diffuse(pixel_likelihood.to_bin_centres(image, torch.float64), level, torch.randn(500).double())
        values = pixel_likelihood.to_bin_centres(torch.arange(256), torch.float64)
        logits = -0.5 * level.exp() * (z[:, None] / alpha - values) ** 2
        expected = torch.log_softmax(logits, 1).gather(1, image.long()[:, None])[:, 0]
        torch.testing.assert_close(pixel_likelihood.log_likelihood(image, z, level), expected)


def test_chain_has_the_moments_of_gaussian_diffusion() -> None:
    torch.manual_seed(0)
    model = small_uqdm(n_steps=3)
    x = torch.full((40_000,), 0.4)
    levels = model.log_snrs()
    for z, level in zip([z.detach() for z in model.chain(x, None)], levels.detach(), strict=True):
        alpha, sigma = gaussian.alpha_sigma(level)
        assert abs(float(z.mean() - alpha * 0.4)) < 4 * float(sigma) / 200
        assert abs(float(z.std() / sigma) - 1.0) < 0.02


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"base_prior": "gaussian", "base_prior_scale": "posterior", "learned_prior_scale": False},
        {"n_steps": 1},
        {"n_steps": 7, "base_prior": "gaussian"},
    ],
)
def test_nelbo_is_finite_adds_up_and_reaches_every_parameter(options: dict) -> None:
    model = small_uqdm(**options)
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    batch = images(3)
    cost = model.nelbo(batch, start="posterior")
    assert cost.steps.shape == (3, model.n_steps)
    torch.testing.assert_close(cost.total, cost.prior + cost.steps.sum(1) + cost.reconstruction)
    assert bool((cost.total > 0).all())
    assert bool((cost.total < 200).all())
    cost.total.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert float(model.nelbo(batch).prior.sum()) == 0.0


def test_reconstructions_are_exact_at_the_end_and_better_with_every_step() -> None:
    model = small_uqdm(n_steps=4)
    batch = images(4, 32)
    with torch.no_grad():
        latents = model.nelbo(batch).latents
    for method in METHODS:
        errors = [
            float((model.reconstruct(z, sent, method).float() - batch.float()).square().mean())
            for sent, z in enumerate(latents)
        ]
        assert errors == sorted(errors, reverse=True), method
        assert errors[-1] < 4.0


def test_folder_round_trip_keeps_weights_configuration_and_fingerprint(tmp_path: Path) -> None:
    model = small_uqdm(n_steps=3, base_prior="gaussian")
    model.save_folder(tmp_path / "a")
    loaded = load_uqdm(tmp_path / "a")
    assert loaded.model_config() == model.model_config()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    again = load_uqdm(tmp_path / "a")
    assert again.fingerprint == loaded.fingerprint
    assert len(loaded.fingerprint) == 4
    with torch.no_grad():
        model.schedule.w.add_(1.0)
    model.save_folder(tmp_path / "b")
    assert load_uqdm(tmp_path / "b").fingerprint != loaded.fingerprint


def test_folders_of_other_models_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VDM"}))
    with pytest.raises(ModelError, match="kind VDM, not UQDM"):
        load_uqdm(tmp_path)
    with pytest.raises(ModelError, match="missing"):
        load_uqdm(tmp_path / "nothing")


class Losses(Callback):
    """Keeps every training loss."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        self.values.append(float(outputs["loss"]))


class SeededBatches(torch.utils.data.Dataset):
    """Batch i depends on i alone."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.manual_seed(1000 + self.first + index)
        return images(8)


def fit(folder: Path, first: int, last: int, resume: Path | None = None, **trainer: object) -> tuple[UQDM, list[float]]:
    losses = Losses()
    model = small_uqdm(optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2, decay_steps=40))
    lightning.Trainer(
        max_steps=last, accelerator="cpu", devices=1, logger=TensorBoardLogger(folder, default_hp_metric=False),
        callbacks=[losses, EMA(decay=0.9), ModelCheckpoint(folder, "last", every_n_train_steps=last)],
        enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, gradient_clip_val=1.0, num_sanity_val_steps=0, **trainer,
    ).fit(
        model, DataLoader(SeededBatches(first, last - first), batch_size=None),
        DataLoader(SeededBatches(900, 1), batch_size=None), ckpt_path=resume,
    )  # fmt: skip
    return model, losses.values


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UQDM, list[float]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, *fit(folder, 0, 40)


def test_training_lowers_the_loss_and_logs_its_parts(whole_run: tuple[Path, UQDM, list[float]]) -> None:
    folder, _, losses = whole_run
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5
    log = EventAccumulator(str(next(folder.rglob("events*")).parent))
    log.Reload()
    tags = set(log.Tags()["scalars"])
    parts = {"bpd", "bpd_prior", "bpd_diffusion", "bpd_reconstruction", "bpp"}
    assert {f"train/{part}" for part in parts} <= tags
    assert {f"val/{part}" for part in parts} <= tags
    assert {f"val/psnr_{method}/{sent}" for method in METHODS for sent in range(5)} <= tags
    assert "val/denoise" in log.Tags()["images"]
    bpd, bpp = (log.Scalars(f"val/{name}")[-1].value for name in ("bpd", "bpp"))
    assert math.isclose(bpp, 3 * bpd, rel_tol=1e-5)


def test_resumed_run_continues_the_same_curve(whole_run: tuple[Path, UQDM, list[float]], tmp_path: Path) -> None:
    folder, _, whole = whole_run
    _, before = fit(tmp_path / "before", 0, 20)
    _, after = fit(tmp_path / "after", 20, 40, resume=tmp_path / "before" / "last.ckpt")
    assert before + after == pytest.approx(whole, rel=1e-4)
    averages = [
        torch.load(place / "last.ckpt", weights_only=True)["state_dict"] for place in (folder, tmp_path / "after")
    ]
    for name, value in averages[0].items():
        torch.testing.assert_close(averages[1][name], value)


def test_testing_logs_the_bound_in_parts_and_every_reconstruction() -> None:
    """On a named image, which is cut into tiles, and on a plain batch, by a random network."""
    model = small_uqdm(n_steps=3)
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(1)
    data = DataLoader([("a photo", images(1, 100)[0, :, :70]), images(4, 64)], batch_size=None)
    (result,) = trainer.test(model, data, verbose=False)
    states = {f"psnr_{method}/{sent}" for method in METHODS for sent in range(4)}
    steps = {f"bpd_step/{step}" for step in (1, 2, 3)}
    parts = {"bpd", "bpd_prior", "bpd_diffusion", "bpd_reconstruction", "bpp"}
    assert set(result) == {f"test/{name}" for name in states | steps | parts}
    figures = {name.removeprefix("test/"): value for name, value in result.items()}
    assert figures["bpd_prior"] == 0.0  # z_1 is shared noise
    assert figures["bpd_diffusion"] == pytest.approx(sum(figures[step] for step in steps), rel=1e-5)
    assert figures["bpd"] == pytest.approx(figures["bpd_diffusion"] + figures["bpd_reconstruction"], rel=1e-5)
    assert figures["bpp"] == pytest.approx(3 * figures["bpd"], rel=1e-5)
    assert all(figures[name] > 0 for name in steps | {"bpd_reconstruction"})
    for method in METHODS:
        curve = [figures[f"psnr_{method}/{sent}"] for sent in range(4)]
        assert curve == sorted(curve), method
        # what is left of the noise after the last step is no longer the method's affair
        assert curve[-1] == pytest.approx(figures["psnr_denoise/3"], rel=1e-5)
        assert curve[-1] > 40.0


def test_export_writes_the_averaged_weights(whole_run: tuple[Path, UQDM, list[float]], tmp_path: Path) -> None:
    folder, model, _ = whole_run
    export(folder / "last.ckpt", tmp_path)
    exported = load_uqdm(tmp_path)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    for name, value in exported.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name])
    assert exported.model_config() == model.model_config()


def test_optimizer_warms_up_and_decays() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, decay_steps=100)
    assert config.factor(0) == pytest.approx(0.1)
    assert config.factor(10) > 0.95
    assert config.factor(100) == pytest.approx(0.01)
    assert OptimizerConfig(warmup_steps=0).factor(10**6) == 1.0
    muon = small_uqdm(optimizer=OptimizerConfig(muon_lr=0.02)).configure_optimizers()["optimizer"]
    shapes = [tuple(parameter.shape) for parameter in muon.param_groups[1]["params"]]
    assert any(len(shape) == 4 for shape in shapes)  # first and last layer stay with Adam
    assert all(parameter.ndim == 4 for parameter in muon.param_groups[0]["params"])
