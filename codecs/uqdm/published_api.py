"""The calls of the original UQDM README, on top of this project's own: for those who come with scripts for it.

    model = load_checkpoint("checkpoints/uqdm-tiny")
    train_iter, eval_iter = load_data("imagenet64", model.config["data"], data_dir="datasets")
    model.trainer(train_iter, eval_iter)
    model.evaluate(eval_iter, n_batches=10)
    compressed = model.compress(image)                 # Stream; container.write makes a file of it
    reconstructions = model.decompress(compressed)     # one image per segment

Differences: `compress` takes one uint8 image [3, H, W] of any size; `decompress` needs no shape; rates are printed in
bits per dimension and bits per pixel, each under its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from ...data import ImageData
from ...lightning_modules import find_model
from ...lightning_modules.diffusion.pixels import psnr
from ...lightning_modules.identity import read_json
from ...lightning_modules.uqdm import METHODS, UQDM, Method, load_uqdm
from ..base import Stream
from .codec import UQDMCodec


class OriginalUQDM:
    """A UQDM with the methods of the original class; `model` is ours, `config` the contents of config.json."""

    def __init__(self, model: UQDM, config: dict[str, Any]) -> None:
        self.model, self.config = model, config

    def trainer(self, train_iter: Iterable[Tensor], eval_iter: Iterable[Tensor] | None = None, **options: Any) -> None:
        """Train on uint8 batches [B, 3, H, W]; `options` go to lightning.Trainer (default: the config's n_steps)."""
        settings = {"max_steps": self.config.get("training", {}).get("n_steps", -1), "gradient_clip_val": 1.0}
        lightning.Trainer(**{**settings, **options}).fit(self.model, train_iter, eval_iter)
        self.model.eval()

    @torch.no_grad()
    def evaluate(self, eval_iter: Iterable[Tensor], n_batches: int | None = None) -> dict[str, list[float]]:
        """Print and return cumulated rates and the PSNR of each method: after 0, 1, .., T steps and at the end.

        "bpd", "bpp", "psnr_denoise", "psnr_ancestral", "psnr_flow"; means over images, then over batches; the last PSNR
        is infinite.
        """
        self.model.eval()
        rates: list[Tensor] = []
        qualities: dict[Method, list[list[float]]] = {method: [] for method in METHODS}
        for batch in islice(eval_iter, n_batches):
            cost = self.model.nelbo(batch)
            parts = torch.cat([cost.prior[:, None], cost.steps, cost.reconstruction[:, None]], 1)
            rates.append(parts.mean(0).cumsum(0))
            for method in METHODS:
                images = (self.model.reconstruct(z, sent, method) for sent, z in enumerate(cost.latents))
                qualities[method].append([float(psnr(x, batch).mean()) for x in images])
        bpd = torch.stack(rates).mean(0)
        result = {"bpd": bpd.tolist(), "bpp": (bpd * 3).tolist()}
        for method in METHODS:
            result[f"psnr_{method}"] = [*torch.tensor(qualities[method]).mean(0).tolist(), float("inf")]
        for name, values in result.items():
            print(f"{name}: {' '.join(f'{value:.4f}' for value in values)}")
        return result

    def compress(self, image: Tensor) -> Stream:
        """The stream of a uint8 image [3, H, W], with all steps and p(x | z_0)."""
        return UQDMCodec(self.model, ending="likelihood").encode(image)

    def decompress(self, stream: Stream, recon_method: Method = "denoise") -> list[Tensor]:
        """uint8 images [3, H, W] from the first 0, 1, .. all segments."""
        codec = UQDMCodec(self.model)
        return [codec.decode(stream, segments=k, reconstruction=recon_method) for k in range(len(stream.segments) + 1)]


def load_checkpoint(path: str | Path, averaged: bool = True) -> OriginalUQDM:
    """The model in a folder, published or ours; see load_uqdm."""
    folder = find_model(path)
    return OriginalUQDM(load_uqdm(folder, averaged=averaged), read_json(folder / "config.json"))


def load_data(
    name: str, config: dict[str, Any], data_dir: str = "datasets"
) -> tuple[Iterator[Tensor], Iterable[Tensor]]:
    """(endless training batches, validation batches) of uint8 [B, 3, 64, 64]; name: "ImageNet64" or a photo folder.

    config  the "data" part of a published config.json; its batch_size counts
    """
    source = "imagenet64" if name.lower() in ("imagenet", "imagenet64") else name
    data = ImageData(train=source, val=source, data_dir=data_dir, batch_size=config.get("batch_size", 2))
    data.setup("fit")

    def endless() -> Iterator[Tensor]:
        while True:
            yield from data.train_dataloader()

    return endless(), data.val_dataloader()
