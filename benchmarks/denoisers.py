"""Which shape of the shipped prior's network learns most in a given time: the table of docs/decisions/0003-denoiser.md.

    OMP_NUM_THREADS=1 python benchmarks/denoisers.py DIR --seconds 240

Every candidate is trained by the shipped recipe (configs/denoiser/pixel.yaml) on the photos of configs/data/photos.yaml
below DIR for as many steps as fit into the same seconds of processor time (with one thread other programs then do not
count), the learning rate falling to zero at the last of them, and validated on photos/val:

- epsilon-loss, the mean over 8 log-SNRs from -8 to 13, which is the NELBO up to a constant factor
- PSNR in dB of denoising at standard deviations of 5 to 100 grey levels
- megapixels per second of a forward pass on 512 x 512
"""

from __future__ import annotations

import tempfile
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
from diffpress.lightning_modules.denoiser import VALIDATION_SIGMAS, DenoiserTraining
from diffpress.lightning_modules.networks.denoiser import Denoiser

CANDIDATES: list[dict[str, Any]] = [
    {"widths": [64, 80, 112, 144], "blocks": 2},  # shipped, before its third block at half resolution
    {"widths": [48, 96, 144], "blocks": 2},  # one level less
    {"widths": [48, 80, 128, 192], "blocks": 2},  # more of the work at low resolution
    {"widths": [96, 96], "blocks": 2},  # hardly any U
    {"widths": [48, 64, 80, 96], "blocks": 4},  # deeper and narrower
]


def speed(candidate: dict[str, Any]) -> float:
    """Megapixels per second of the best of three forward passes."""
    network = Denoiser(**candidate).eval().to(memory_format=torch.channels_last)
    z = torch.randn(1, 3, 512, 512).contiguous(memory_format=torch.channels_last)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            network(z, torch.zeros(1))
            seconds.append(time.perf_counter() - start)
    return 0.512**2 / min(seconds[1:])


def train(
    candidate: dict[str, Any], steps: int, config: dict[str, Any], images: ImageData, folder: str
) -> dict[str, float]:
    """Validation figures after `steps` steps and the seconds that they took."""
    L.seed_everything(0, verbose=False)
    module = DenoiserTraining(**config["model"]["init_args"] | candidate)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", gradient_clip_val=config["trainer"]["gradient_clip_val"], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        check_val_every_n_epoch=10**6, default_root_dir=folder,
        # over the last few steps of so short a run, or it would average what was hardly trained
        callbacks=[L.pytorch.callbacks.EMAWeightAveraging(decay=0.9)],
    )  # fmt: skip
    start = time.process_time()
    trainer.fit(module, images)
    seconds = time.process_time() - start
    (figures,) = trainer.validate(module, images, verbose=False)
    return figures | {"seconds": seconds}


def main(data: Path, seconds: float = 240.0, only: list[int] | None = None) -> None:
    """Print one row per candidate, or for those numbered in `only`."""
    config = yaml.safe_load(resource("configs/denoiser/pixel.yaml").read_text())
    photos = yaml.safe_load(resource("configs/data/photos.yaml").read_text())
    sources = [Source(**source) for source in photos["train"]]
    images = ImageData(sources, photos["val"], **config["data"], data_dir=str(data))
    images.setup()  # reading the photos is nobody's training time
    print("| widths, blocks | parameters | megapixels/s | steps | epsilon-loss | PSNR at sigma "
          + " / ".join(map(str, VALIDATION_SIGMAS)) + " |\n|---|---|---|---|---|---|", flush=True)
    for number, candidate in enumerate(CANDIDATES):
        if only is not None and number not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            trial = train(candidate, 12, config, images, folder)
            steps = round(seconds / trial["seconds"] * 12)
            figures = train(candidate, steps, config, images, folder)
        parameters = sum(p.numel() for p in Denoiser(**candidate).parameters()) / 1e6
        quality = " / ".join(f"{figures[f'val/psnr_{sigma}']:.1f}" for sigma in VALIDATION_SIGMAS)
        print(f"| {', '.join(map(str, candidate['widths']))}; {candidate['blocks']} | {parameters:.2f} M "
              f"| {speed(candidate):.2f} | {steps} in {figures['seconds']:.0f} s | {figures['val/eps_loss']:.4f} "
              f"| {quality} |", flush=True)


if __name__ == "__main__":
    auto_cli(main)
