"""Which recipe for the prior learns most in a given time: the pilots of docs/results/denoiser.md.

    OMP_NUM_THREADS=1 python benchmarks/denoisers.py DIR --seconds 600 [--only "[base, crop48]"]

Every pilot is the recipe `BASE` with what its line changes, trained on the photos of configs/data/long.yaml below DIR
for as many steps as fit into the same seconds of processor time (with one thread, so that other programs count little),
the learning rate falling to zero at the last of them, and validated on 32 crops of 96 x 96 of photos/val:

- PSNR in dB of denoising at standard deviations of 5 to 100 grey levels
- epsilon-loss, the mean over 8 log-SNRs from -8 to 13, which is the NELBO up to a constant factor
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import auto_cli

from diffpress import resource
from diffpress.data import ImageData
from diffpress.data.module import Source
from diffpress.lightning_modules.denoiser import DenoiserTraining
from diffpress.lightning_modules.training.averaging import EMA

BASE: dict[str, Any] = {
    "widths": [96], "blocks": 5, "activation": "silu", "lr": 0.02, "focus_range": [-3.0, 6.0], "focus_share": 0.5,
    "crop": 96, "batch": 8, "precision": "bf16-mixed",
}  # fmt: skip
COMBINED = {"widths": [64], "blocks": 11, "focus_range": [-1.0, 6.0]}
PILOTS: dict[str, dict[str, Any]] = {
    "base": {},
    "float32": {"precision": "32-true"},
    "64 channels, 11 blocks": {"widths": [64], "blocks": 11},
    "128 channels, 3 blocks": {"widths": [128], "blocks": 3},
    "96 channels, 3 blocks": {"blocks": 3},
    "96 channels, 10 blocks": {"blocks": 10},
    "64 and 128 channels at 1/2 and 1/4": {"widths": [64, 128], "blocks": [4, 3]},
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "lr 0.03": {"lr": 0.03},
    "lr 0.012": {"lr": 0.012},
    "focus 0.75": {"focus_share": 0.75},
    "focus [-1, 6]": {"focus_range": [-1.0, 6.0]},
    "crop64": {"crop": 64, "batch": 18},
    "combined, crop64": COMBINED | {"crop": 64, "batch": 18},
    "combined, crop48": COMBINED | {"crop": 48, "batch": 32},
    "combined, crop48, relu": COMBINED | {"crop": 48, "batch": 32, "activation": "relu"},
}


def crops(data: Path, side: int, batch: int) -> ImageData:
    """The photos in memory; reading them is nobody's training time."""
    photos = yaml.safe_load(resource("configs/data/long.yaml").read_text())
    images = ImageData([Source(**source) for source in photos["train"]], photos["val"], data_dir=str(data),
                       batch_size=batch, crop_size=side, val_samples=32)  # fmt: skip
    images.setup()
    return images


def train(recipe: dict[str, Any], images: ImageData, steps: int) -> tuple[DenoiserTraining, float]:
    """The trained module, with averaged weights, and the processor seconds that `steps` steps took."""
    L.seed_everything(0, verbose=False)
    module = DenoiserTraining(**{name: recipe[name] for name in recipe.keys() - {"crop", "batch", "precision"}})
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", gradient_clip_val=1.0, precision=recipe["precision"], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        check_val_every_n_epoch=10**6, callbacks=[EMA(0.99)],
    )  # fmt: skip
    start = time.process_time()
    trainer.fit(module, images)
    return module, time.process_time() - start


def main(data: Path, seconds: float = 600.0, only: list[str] | None = None) -> None:
    """Print a line of JSON per pilot, or for those named in `only`."""
    torch.set_flush_denormal(True)  # as train.py does
    validation = crops(data, 96, 8)
    validator = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    for name in only or PILOTS:
        recipe = BASE | PILOTS[name]
        images = crops(data, recipe["crop"], recipe["batch"])
        started = train(recipe, images, 4)[1]
        step = (train(recipe, images, 16)[1] - started) / 12
        steps = max(1, int(seconds / step))
        module, spent = train(recipe, images, steps)
        (figures,) = validator.validate(module, validation, verbose=False)
        row = {"pilot": name, "steps": steps, "processor seconds": round(spent)}
        row["parameters"] = sum(p.numel() for p in module.network.parameters())
        print(json.dumps(row | {key: round(float(value), 4) for key, value in figures.items()}), flush=True)


if __name__ == "__main__":
    auto_cli(main)
