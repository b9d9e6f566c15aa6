"""DiffC under a Trainer: many images to files, or to rate and quality, over devices and nodes.

The one module of lightning_modules that imports codecs (and, for its test step, the evaluation's scores): DiffC *is* a
codec, run here so that ``trainer.predict`` and ``trainer.test`` spread images as Lightning's strategies do.  Batches
are cut before they are spread, so any number of processes writes the same files as one.

    module = DiffCModule("stable-diffusion-v1-5/stable-diffusion-v1-5", out="files", bpp=0.05)
    trainer = lightning.Trainer(accelerator="gpu", devices=8, num_nodes=2)
    trainer.predict(module, image_batches("photos", 4))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
from torch import distributed

from ..data import write_file
from ..data.module import Named, image_batches
from . import load_model

__all__ = ["DiffCModule", "image_batches"]


class DiffCModule(lightning.LightningModule):
    """A prior and a reverse-channel coder as a LightningModule without anything to train.

    model          model folder or hub id
    out            folder of the files that predict_step writes, as NAME.dfc
    bpp            bits per pixel to stop at, header included; None: all steps
    segments       steps to stop after; None: all
    prompts        what images show, by name
    model_options  of load_model (dtype, compile, offload, refiner, ...)
    codec_options  of DiffC (preset, schedule, coder, guidance, flow_steps, ...)
    force          overwrite existing files
    """

    def __init__(
        self,
        model: str,
        out: str = "compressed",
        bpp: float | None = None,
        segments: int | None = None,
        prompts: dict[str, str] | None = None,
        model_options: dict[str, Any] | None = None,
        codec_options: dict[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        super().__init__()
        self.model_name, self.out, self.force = model, Path(out), force
        self.request: dict[str, Any] = {"bpp": bpp, "segments": segments}
        self.prompts = prompts or {}
        self.model_options, self.codec_options = model_options or {}, codec_options or {}
        self.codec: Any = None
        self._threads = 1
        self._figures: dict[str, dict[str, float]] = {}  # of this process's test images, by name

    def setup(self, stage: str) -> None:
        """Load the model, onto this process's device."""
        from ..codecs import get_codec

        self.allow_zero_length_dataloader_with_multiple_devices = stage == "predict"  # more processes than batches
        if self.codec is None or self.codec.prior.device != self.device:
            prior = load_model(self.model_name, device=self.device, **self.model_options)
            self.codec = get_codec("diffc", model=prior, **self.codec_options)

    def on_predict_start(self) -> None:
        """On a CPU compute by one thread, as compress.py does with several files: sums of others differ in rounding."""
        self._threads = torch.get_num_threads()
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def on_predict_end(self) -> None:
        torch.set_num_threads(self._threads)

    def predict_step(self, batch: Sequence[Named] | Named, batch_idx: int = 0) -> list[str]:
        """Write a file per image of `batch`, one (name, uint8 [3, H, W]) or several; returns the paths.

        Raises FileExistsError without `force` where a file exists.
        """
        from ..codecs import container

        named = _as_list(batch)
        paths = [self.out / f"{name}{self.codec.suffix}" for name, _ in named]
        for path in paths:
            if path.exists() and not self.force:
                raise FileExistsError(f"{path} exists; use force to overwrite it")
        for path, stream in zip(paths, self._encode(named), strict=True):
            write_file(path, container.write(stream, self.codec))
        return [str(path) for path in paths]

    def on_test_start(self) -> None:
        self._figures = {}

    def test_step(self, batch: Sequence[Named] | Named, batch_idx: int = 0) -> None:
        """Measure bits per pixel of the files and the evaluation's scores of what they decode to."""
        from ..codecs import container
        from ..evaluation.metrics import bits_per_pixel, score

        named = _as_list(batch)
        for (name, image), stream in zip(named, self._encode(named), strict=True):
            data = container.write(stream, self.codec)
            decoded = self.codec.decode(container.read(data, self.codec))
            figures = {"bpp": bits_per_pixel(len(data), image.shape[1], image.shape[2])}
            scores = score(decoded, image.cpu())
            self._figures[name] = figures | {key: value for key, value in scores.items() if value is not None}

    def on_test_epoch_end(self) -> None:
        """Log the averages over the images of all processes.

        By name: processes may have different numbers of images, some may lack a score that small images do not have,
        and a sampler that evens numbers out gives an image to two of them.
        """
        parts: list[Any] = [self._figures]
        if self.trainer.world_size > 1:
            parts = [None] * self.trainer.world_size
            distributed.all_gather_object(parts, self._figures)
        images = {name: figures for part in parts for name, figures in part.items()}
        for key in sorted({key for figures in images.values() for key in figures}):
            mean = fmean(figures[key] for figures in images.values() if key in figures)
            self.log(f"test/{key}", mean, sync_dist=True)  # already the same everywhere; without it Lightning warns

    def _encode(self, named: list[Named]) -> list[Any]:
        prompts = [self.prompts.get(name, "") for name, _ in named]
        if len(named) == 1:
            return [self.codec.encode(named[0][1], prompt=prompts[0], **self.request)]
        return self.codec.encode_batch([image for _, image in named], prompts=prompts, **self.request)


def _as_list(batch: Sequence[Named] | Named) -> list[Named]:
    if len(batch) == 2 and isinstance(batch[0], str):
        return [(batch[0], batch[1])]  # type: ignore[list-item]
    return list(batch)  # type: ignore[arg-type]
