"""Training the denoiser with the shipped recipe made small: what it learns, resumes, exports and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpress.commands.train import main as train
from diffpress.data import save_image
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.networks.denoiser import Denoiser
from helpers import ROOT, synthetic_photo

pytestmark = pytest.mark.usefixtures("one_thread")

Fit = Callable[..., Path]
SAVING = ("--trainer.callbacks.every_n_train_steps=6", "--trainer.callbacks.save_top_k=-1")


def arguments(photos: Path, log: Path, steps: int, *more: str) -> list[str]:
    return [
        "fit", "-c", str(ROOT / "configs" / "denoiser" / "pixel.yaml"), "--model.init_args.widths=[8, 16]",
        "--model.init_args.blocks=1", "--data.train", str(photos), "--data.crop_size=32", "--data.batch_size=4",
        "--data.samples_per_epoch=64", "--data.val_samples=8", f"--trainer.logger.init_args.save_dir={log}",
        f"--trainer.max_steps={steps}", "--trainer.val_check_interval=6", "--trainer.enable_progress_bar=false",
        "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        save_image(synthetic_photo(64, 64, number), folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def fit(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """fit(steps, *options): trains from the command line and returns its last checkpoint."""

    def run(steps: int, *more: str) -> Path:
        log = tmp_path_factory.mktemp("run")
        assert train(arguments(photos, log, steps, *more)) == 0
        return next(log.rglob("last.ckpt"))

    return run


@pytest.fixture(scope="module")
def whole(fit: Fit) -> Path:
    """The last checkpoint of twelve steps, beside one of the first six."""
    return fit(12, *SAVING)


@pytest.fixture(scope="module")
def half(whole: Path) -> Path:
    return next(whole.parent.glob("*step=6*.ckpt"))


@pytest.fixture(scope="module")
def model(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model folder of `whole`."""
    folder = tmp_path_factory.mktemp("model")
    assert train(["export", str(whole), str(folder)]) == 0
    return folder


def read(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, weights_only=True)


def validation(checkpoint: Path) -> tuple[dict[str, list[float]], list[str]]:
    """({name: values} of validation, tags of pictures) that the run of a checkpoint logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(checkpoint.parent.parent.rglob("events*")).parent))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith("val/")]
    return {name: [scalar.value for scalar in events.Scalars(name)] for name in names}, events.Tags()["images"]


def test_training_lowers_the_validation_loss_and_logs_psnr_and_pictures(whole: Path) -> None:
    values, pictures = validation(whole)
    assert values["val/eps_loss"][-1] < values["val/eps_loss"][0]
    noisiest_last = [values[f"val/psnr_{grey}"][-1] for grey in (5, 15, 25, 50, 100)]
    assert noisiest_last == sorted(noisiest_last, reverse=True)
    assert "val/noisy_and_denoised_50" in pictures


def test_six_steps_and_six_more_are_twelve(fit: Fit, whole: Path, half: Path) -> None:
    a, b = read(whole), read(fit(12, *SAVING, f"--ckpt_path={half}"))
    for part in ("current_model_state", "state_dict"):
        for key, value in a[part].items():
            torch.testing.assert_close(value, b[part][key])


def test_options_given_hold_for_a_resumed_run(fit: Fit, half: Path, tmp_path: Path) -> None:
    options = ("--trainer.callbacks.every_n_train_steps=1", "--model.init_args.log_snr_range=[-5, 9]")
    changed = fit(7, *options, f"--ckpt_path={half}")
    assert json.loads(read(changed)["diffpress"])["log_snr_range"] == [-5, 9]
    assert train(["export", str(changed), str(tmp_path)]) == 0
    assert json.loads((tmp_path / "prior.json").read_text()) == {"log_snr": [9, -5]}


def test_export_writes_the_averaged_weights(whole: Path, model: Path, tmp_path: Path) -> None:
    averaged = read(whole)["state_dict"]
    weights = Denoiser.load(model).state_dict()
    assert averaged.keys() == {f"network.{name}" for name in weights}
    for name, value in weights.items():
        assert torch.equal(value, averaged[f"network.{name}"])
    assert json.loads((model / "prior.json").read_text()) == {"log_snr": [13.0, -8.0]}
    assert train(["export", str(whole), str(tmp_path), "--half"]) == 0
    half = Denoiser.load(tmp_path).state_dict()["head.weight"]
    assert torch.equal(half, weights["head.weight"].half().float())


def test_training_goes_on_from_a_model_with_more_blocks(fit: Fit, model: Path, tmp_path: Path) -> None:
    deeper = fit(1, f"--model.init_args.initial={model}", "--model.init_args.blocks=[2, 1]",
                 "--trainer.val_check_interval=1", "--model.init_args.lr=0", "--model.init_args.adam_lr=0")  # fmt: skip
    assert train(["export", str(deeper), str(tmp_path)]) == 0
    network, again = Denoiser.load(model), Denoiser.load(tmp_path)
    assert set(again.blocks()) - set(network.blocks()) == {"down.0.1", "up.0.1"}
    with torch.no_grad():
        z, log_snr = torch.randn(2, 3, 16, 24), torch.tensor([-3.0, 8.0])
        torch.testing.assert_close(again(z, log_snr), network(z, log_snr))


def test_bf16_follows_single_precision(fit: Fit, whole: Path) -> None:
    exact = validation(whole)[0]["val/eps_loss"]
    rough = validation(fit(12, "--trainer.precision=bf16-mixed"))[0]["val/eps_loss"]
    assert rough == pytest.approx(exact, rel=0.01)
    assert rough != exact


def test_one_resolution_and_another_activation_become_a_prior(fit: Fit, tmp_path: Path) -> None:
    flat = fit(2, "--model.init_args.widths=[8]", "--model.init_args.blocks=3", "--model.init_args.activation=silu",
               "--trainer.callbacks.every_n_train_steps=1")  # fmt: skip
    assert train(["export", str(flat), str(tmp_path), "--half"]) == 0
    prior = load_model(tmp_path, device="cpu")
    assert prior.network.activation == "silu"
    assert prior.multiple == 2
    image = synthetic_photo(22, 30)[None]
    x0 = prior.encode(image)
    assert float((prior.denoise(x0, 0) - x0).abs().mean()) < 0.01


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("--model.init_args.initial=absent", "there is no model folder 'absent'"),
        ("--model.init_args.blocks=[1, 1, 1]", "3 numbers of blocks for 2 resolutions"),
        ("--model.init_args.activation=tanh", "activation 'tanh' is none of relu, silu, gelu"),
        ("--data.crop_size=80", "crops of 80 pixels fit in no photo of"),
        ("--data.train=absent", "there is no folder of photos 'absent', here or in datasets"),
        ("--data.train=null", "there are no training images: name a folder of photos with --data.train"),
        ("--data.crop_size=many", "Parser key \"data.crop_size\": Expected a <class 'int'>"),
        ("--data.trian=photos", "unrecognized arguments: --data.trian"),
    ],
)
def test_training_that_cannot_start_says_why_in_a_line(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: str, sentence: str
) -> None:
    assert train([*arguments(photos, tmp_path, 1), wrong]) == 2
    captured = capfd.readouterr()
    assert f"error: {sentence}" in captured.err
    assert "Traceback" not in captured.out + captured.err
    assert "usage:" not in captured.err


def test_training_flushes_numbers_too_small_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "diffpress.commands.train._CommandLine", lambda *_, **__: seen.append(float(torch.tensor(1e-40) * 1))
    )
    train(["fit"])
    assert seen == [0.0]
    assert float(torch.tensor(1e-40) * 1) > 0
