"""Training UQDM from the command line, with the shipped recipe made small: killed, resumed, on two processes, in bf16.

The slow ones start processes of their own; they are shortened by command-line options alone.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from diffpress.data import save_image
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.uqdm import UQDM
from helpers import ROOT, synthetic_photo

SMALL = ["--model.init_args.network.embedding_dim=8", "--model.init_args.network.norm_groups=4",
         "--model.init_args.network.mid_attention=false", "--model.init_args.optimizer.lr=3e-3",
         "--model.init_args.optimizer.warmup_steps=5", "--data.crop_size=16"]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a folder of pictures to train and validate on."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        save_image(synthetic_photo(64, 64, number), folder / f"{number}.png")
    return [f"--data.train={folder}", f"--data.val={folder}"]


def command(log: Path, steps: int, *options: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "train.py"), "fit", "-c", str(ROOT / "configs" / "uqdm" / "tiny.yaml"),
        f"--trainer.logger.init_args.save_dir={log}", f"--trainer.max_steps={steps}", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--trainer.num_sanity_val_steps=0",
        *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}


def run(arguments: list[str]) -> None:
    subprocess.run(arguments, env=environment(), check=True)


def curve(log: Path, tag: str = "train/bpd") -> dict[int, float]:
    """{step: value} of the only run below `log`."""
    events = EventAccumulator(str(next(log.rglob("events*")).parent))
    events.Reload()
    return {scalar.step: scalar.value for scalar in events.Scalars(tag)}


@pytest.mark.slow
def test_killed_run_continues_the_same_curve(photos: list[str], tmp_path: Path) -> None:
    options = [*SMALL, *photos, "--trainer.val_check_interval=1000", "--trainer.callbacks.every_n_train_steps=4"]
    whole = command(tmp_path / "whole", 60, *options)
    process = subprocess.Popen(whole, env=environment())
    try:
        while not list((tmp_path / "whole").rglob("*step=12*.ckpt")):  # last.ckpt is written after it
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    checkpoint = next((tmp_path / "whole").rglob("last.ckpt"))
    done = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 8 <= done < 60
    for name, more in {"resumed": [f"--ckpt_path={checkpoint}"], "uninterrupted": []}.items():
        subprocess.run(
            [*command(tmp_path / name, done + 8, *options), *more], env=environment(), cwd=tmp_path, check=True
        )
    resumed, uninterrupted = curve(tmp_path / "resumed"), curve(tmp_path / "uninterrupted")
    assert sorted(resumed) == list(range(done, done + 8))
    assert list(resumed.values()) == pytest.approx([uninterrupted[step] for step in resumed], rel=1e-4)


@pytest.mark.slow
def test_two_processes_learn_like_one_with_twice_the_batch(photos: list[str], tmp_path: Path) -> None:
    # without callbacks: validates the weights as they are, which differ more than their averages
    options = [*SMALL, *photos, "--trainer.val_check_interval=20", "--data.val_samples=16", "--trainer.callbacks=null"]
    runs = {
        "one": ["--data.batch_size=16", "--trainer.devices=1"],
        "two": ["--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=ddp"],
        "half": ["--data.batch_size=16", "--trainer.devices=1", "--model.init_args.optimizer.lr=1e-3"],
    }
    for name, more in runs.items():
        run(command(tmp_path / name, 60, *options, *more))
    one, two, other = (list(curve(tmp_path / name, "val/bpd").values()) for name in runs)
    assert one[-1] < one[0] - 0.5
    assert two == pytest.approx(one, rel=0.03)
    assert other != pytest.approx(one, rel=0.03)  # the bound notices another learning rate


@pytest.mark.slow
def test_published_recipe_learns_real_photos_from_scratch(shared: Path, tmp_path: Path) -> None:
    options = ["--data.crop_size=32", "--data.batch_size=4", "--trainer.val_check_interval=1000",
               "--model.init_args.optimizer.lr=2e-3", "--model.init_args.optimizer.warmup_steps=10",
               f"--data={ROOT / 'configs' / 'data' / 'imagenet64.yaml'}",
               f"--data.data_dir={shared / 'data'}"]  # fmt: skip
    run(command(tmp_path, 60, *options))
    losses = list(curve(tmp_path).values())
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    print(f"bpd {first:.2f} -> {last:.2f}")
    assert last < first - 0.3  # measured: 9.62 -> 8.98 in 72 seconds on a busy machine


def train_in_process(precision: str, compile: bool) -> list[float]:
    """Losses of six steps of a tiny model."""
    torch.manual_seed(0)
    network = ScoreNetConfig(embedding_dim=8, norm_groups=4, mid_attention=False, patch_size=2, preconditioned=True)
    model = UQDM(network, ScheduleConfig(-9.0, 5.0), n_steps=2, compile=compile)
    losses: list[float] = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
            losses.append(float(outputs["loss"]))

    batches = [synthetic_photo(16, 64, seed).unfold(2, 16, 16).permute(2, 0, 1, 3) for seed in range(6)]
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, callbacks=[Keep()],
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
        precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return losses


def test_bf16_follows_single_precision() -> None:
    exact, rough = train_in_process("32-true", False), train_in_process("bf16-mixed", False)
    assert rough == pytest.approx(exact, rel=0.02)
    assert rough != exact


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch.compile says of itself
def test_compiled_network_follows_the_plain_one() -> None:
    assert train_in_process("32-true", True) == pytest.approx(train_in_process("32-true", False), rel=1e-3)
