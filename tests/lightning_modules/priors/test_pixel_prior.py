"""Pixel-space priors: our denoiser, its training and export, and diffusers' UNet2DModel in all parameterisations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffpress.commands.train import main as train
from diffpress.data import save_image
from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.denoiser import DenoiserTraining
from diffpress.lightning_modules.diffusion.gaussian import alpha_sigma, diffuse
from diffpress.lightning_modules.networks.denoiser import SIGMA_DATA, Denoiser
from diffpress.lightning_modules.priors.interface import Prior
from diffpress.lightning_modules.priors.pixel import DenoiserPrior, export
from diffpress.lightning_modules.training.optimizers import orthogonalise
from helpers import ROOT, synthetic_photo


def test_untrained_denoiser_is_the_wiener_filter_of_white_data(tiny_prior: Path) -> None:
    prior = load_model(tiny_prior, device="cpu")
    x = SIGMA_DATA * torch.randn(1, 3, 32, 32)
    for level in (100, 400, 700):
        alpha, sigma = alpha_sigma(prior.log_snr(level))
        z = diffuse(x, prior.log_snr(level), torch.randn_like(x))
        gain = alpha * SIGMA_DATA**2 / (alpha**2 * SIGMA_DATA**2 + sigma**2)
        torch.testing.assert_close(prior.denoise(z, level), (gain.float() * z).clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_prior_interface(tiny_prior: Path) -> None:
    prior = load_model(tiny_prior, device="cpu")
    assert isinstance(prior, Prior)
    image = synthetic_photo(37, 91)[None]
    x0 = prior.encode(image)
    assert tuple(x0.shape[1:]) == prior.shape((37, 91))
    assert torch.equal(prior.decode(x0, (37, 91)), image)


def test_tiled_denoising_equals_whole(tiny_prior: Path) -> None:
    torch.manual_seed(1)
    whole, tiled = DenoiserPrior(tiny_prior), DenoiserPrior(tiny_prior, tile=64, overlap=64)
    for prior in (whole, tiled):
        torch.manual_seed(2)
        torch.nn.init.normal_(prior.network.head.weight, std=0.1)
    z = torch.randn(1, 3, 160, 96)
    torch.testing.assert_close(tiled.denoise(z, 500), whole.denoise(z, 500), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("pipeline", [False, True])
def test_unet2d_predictions_are_turned_into_x0(tmp_path: Path, prediction: str, pipeline: bool) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(prediction_type=prediction)
    if pipeline:
        DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    else:
        unet.save_pretrained(tmp_path)
        scheduler.save_pretrained(tmp_path)
    prior = load_model(tmp_path, device="cpu")
    z = torch.randn(1, 3, 16, 16)
    for level in (1, 300, 1000):
        output = unet(z, level - 1).sample.detach()
        cumulative = scheduler.alphas_cumprod[level - 1]
        expected = {
            "epsilon": (z - (1 - cumulative).sqrt() * output) / cumulative.sqrt(),
            "sample": output,
            "v_prediction": cumulative.sqrt() * z - (1 - cumulative).sqrt() * output,
        }[prediction].clamp(-1, 1)
        torch.testing.assert_close(prior.denoise(z, level), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("content", ["{}", "not json", '{"_class_name": "Sofa"}', "[]"])
def test_bad_model_folders_are_sentences(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="no model folder"):
        load_model(tmp_path / "absent")


def test_orthogonalise_flattens_the_spectrum() -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(24, 90)))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_training_learns_resumes_and_exports(tmp_path: Path) -> None:
    """Twelve steps in one go and six plus six give the same weights; the export is what the checkpoint averages."""
    for number in range(6):
        save_image(synthetic_photo(64, 64, number), tmp_path / "photos" / f"{number}.png")

    def fit(name: str, steps: int, *more: str) -> Path:
        arguments = [
            "fit", "-c", str(ROOT / "configs" / "denoiser" / "pixel.yaml"),
            "--model.init_args.widths=[8, 16]", "--model.init_args.blocks=1", "--data.train", str(tmp_path / "photos"),
            "--data.val", str(tmp_path / "photos"), "--data.crop_size=32", "--data.batch_size=4",
            "--data.samples_per_epoch=64", f"--trainer.logger.init_args.save_dir={tmp_path / name}",
            f"--trainer.max_steps={steps}", "--trainer.val_check_interval=6", "--trainer.enable_progress_bar=false",
            "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu", *more,
        ]  # fmt: skip
        assert train(arguments) == 0
        return next((tmp_path / name).rglob("last.ckpt"))

    saving = ("--trainer.callbacks.every_n_train_steps=6", "--trainer.callbacks.save_top_k=-1")
    whole = fit("whole", 12, *saving)
    half = next((tmp_path / "whole").rglob("*step=6*.ckpt"), None)
    assert half is not None
    resumed = fit("resumed", 12, *saving, f"--ckpt_path={half}")
    a, b = (torch.load(path, weights_only=True) for path in (whole, resumed))
    for key, value in a["current_model_state"].items():
        torch.testing.assert_close(value, b["current_model_state"][key])
    every = "--trainer.callbacks.every_n_train_steps=1"
    changed = fit("changed", 7, every, f"--ckpt_path={half}", "--model.init_args.focus_share=0.9")
    assert torch.load(changed, weights_only=True)["hyper_parameters"]["focus_share"] == 0.9
    export(whole, tmp_path / "model", torch.float32)
    network = Denoiser.load(tmp_path / "model")
    torch.testing.assert_close(network.state_dict()["head.weight"], a["state_dict"]["network.head.weight"])
    assert json.loads((tmp_path / "model" / "prior.json").read_text()) == {"log_snr": [13.0, -8.0]}

    deeper = fit("deeper", 1, f"--model.init_args.initial={tmp_path / 'model'}", "--model.init_args.blocks=[2, 1]",
                 "--trainer.val_check_interval=1", "--model.init_args.lr=0", "--model.init_args.adam_lr=0")  # fmt: skip
    export(deeper, tmp_path / "deeper model", torch.float32)
    again = Denoiser.load(tmp_path / "deeper model")
    assert set(again.blocks()) - set(network.blocks()) == {"down.0.1", "up.0.1"}
    with torch.no_grad():
        z, log_snr = torch.randn(2, 3, 16, 24), torch.tensor([-3.0, 8.0])
        torch.testing.assert_close(again(z, log_snr), network(z, log_snr))

    fit("bf16", 12, "--trainer.precision=bf16-mixed")
    exact, images = validation(tmp_path / "whole")
    rough, _ = validation(tmp_path / "bf16")
    assert exact[-1] < exact[0]
    assert rough == pytest.approx(exact, rel=0.01)
    assert rough != exact
    assert "val/noisy_and_denoised_50" in images


def validation(run: Path) -> tuple[list[float], list[str]]:
    """(validation losses, tags of the pictures) that a training run logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(run.rglob("events*")).parent))
    events.Reload()
    return [scalar.value for scalar in events.Scalars("val/eps_loss")], events.Tags()["images"]


def test_a_denoiser_is_deepened_but_not_made_shallower_or_wider(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Denoiser((8, 12), blocks=2, embedding=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
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


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("--model.init_args.initial=absent", "there is no model folder 'absent'"),
        ("--model.init_args.blocks=[1, 1, 1]", "3 numbers of blocks for 2 resolutions"),
        ("--data.crop_size=64", "crops of 64 pixels do not fit in a photo whose shorter side is 40"),
    ],
)
def test_training_that_cannot_start_says_why_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: str, sentence: str
) -> None:
    save_image(synthetic_photo(40, 48), tmp_path / "photos" / "one.png")
    arguments = [
        "fit", "-c", str(ROOT / "configs" / "denoiser" / "pixel.yaml"), "--model.init_args.widths=[8, 16]",
        "--model.init_args.blocks=1", "--data.train", str(tmp_path / "photos"), "--data.val", str(tmp_path / "photos"),
        "--data.crop_size=32", f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.max_steps=1",
        "--trainer.accelerator=cpu", wrong,
    ]  # fmt: skip
    assert train(arguments) == 2
    captured = capfd.readouterr()
    assert f"error: {sentence}" in captured.err
    assert "Traceback" not in captured.out + captured.err


def test_training_flushes_numbers_too_small_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "diffpress.commands.train._CommandLine", lambda *_, **__: seen.append(float(torch.tensor(1e-40) * 1))
    )
    train([])
    assert seen == [0.0]
    assert float(torch.tensor(1e-40) * 1) > 0
