"""DiffC under a Trainer: many images to files, or to rate and quality, over devices and nodes.

The one module of lightning_modules that imports codecs (and, for its test step, the evaluation's scores): DiffC *is* a
codec, run here so that ``trainer.predict`` and ``trainer.test`` spread images as Lightning's strategies do.  Batches
are cut before they are spread, so any number of processes writes the same files as one.

    module = DiffCModule("stable-diffusion-v1-5/stable-diffusion-v1-5", out="files", bpp=0.05)
    trainer = lightning.Trainer(accelerator="gpu", devices=8, num_nodes=2)
    trainer.predict(module, image_batches("photos", 4))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ..data import ImageFolder, write_file
from . import load_model

Named = tuple[str, Tensor]


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

    def setup(self, stage: str) -> None:
        """Load the model, onto this process's device."""
        from ..codecs import get_codec

        if self.codec is None or self.codec.prior.device != self.device:
            prior = load_model(self.model_name, device=self.device, **self.model_options)
            self.codec = get_codec("diffc", model=prior, **self.codec_options)

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

    def test_step(self, batch: Sequence[Named] | Named, batch_idx: int = 0) -> None:
        """Log bits per pixel of the files and the evaluation's scores of what they decode to, averaged over images."""
        from ..codecs import container
        from ..evaluation.measure import score
        from ..evaluation.metrics import bits_per_pixel

        named = _as_list(batch)
        for (_, image), stream in zip(named, self._encode(named), strict=True):
            data = container.write(stream, self.codec)
            decoded = self.codec.decode(container.read(data, self.codec))
            figures = {"bpp": bits_per_pixel(len(data), image.shape[1], image.shape[2])}
            figures |= {name: value for name, value in score(decoded, image.cpu()).items() if value is not None}
            self.log_dict(
                {f"test/{name}": torch.tensor(value, dtype=torch.float32) for name, value in figures.items()},
                on_step=False, on_epoch=True, sync_dist=True, batch_size=1,
            )

    def _encode(self, named: list[Named]) -> list[Any]:
        prompts = [self.prompts.get(name, "") for name, _ in named]
        if len(named) == 1:
            return [self.codec.encode(named[0][1], prompt=prompts[0], **self.request)]
        return self.codec.encode_batch([image for _, image in named], prompts=prompts, **self.request)


def _as_list(batch: Sequence[Named] | Named) -> list[Named]:
    if len(batch) == 2 and isinstance(batch[0], str):
        return [(batch[0], batch[1])]  # type: ignore[list-item]
    return list(batch)  # type: ignore[arg-type]


def image_batches(
    images: str | Path | ImageFolder, batch_size: int = 1, num_workers: int = 0
) -> DataLoader[list[Named]]:
    """Batches of at most `batch_size` images of one size, from a folder, for DiffCModule; lists of (name, image)."""
    folder = images if isinstance(images, ImageFolder) else ImageFolder(images)
    batches = _Batches(folder, batch_size)
    return DataLoader(batches, batch_size=None, sampler=_Share(batches), num_workers=num_workers)


class _Batches(Dataset[list[Named]]):
    """Groups of images of one size, in the order of their first members."""

    def __init__(self, folder: ImageFolder, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch holds at least one image, not {batch_size}")
        self.folder = folder
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, file in enumerate(folder.files):
            by_size.setdefault(_stored_size(file), []).append(number)
        groups = (group[i : i + batch_size] for group in by_size.values() for i in range(0, len(group), batch_size))
        self.groups = sorted(groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[Named]:
        return [self.folder[number] for number in self.groups[index]]


def _stored_size(file: Path) -> tuple[int, int]:
    """Width and height without decoding; (0, 0) where they cannot be told, for the reader to complain about."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, ValueError):
        return 0, 0


class _Share(DistributedSampler[int]):
    """Every n-th batch for each of n processes, none twice; Lightning leaves a DistributedSampler alone."""

    def __init__(self, data: _Batches) -> None:
        torch.utils.data.Sampler.__init__(self)
        self.data = data

    def __iter__(self) -> Iterator[int]:
        rank, world = _process()
        return iter(range(rank, len(self.data), world))

    def __len__(self) -> int:
        rank, world = _process()
        return len(range(rank, len(self.data), world))

    def set_epoch(self, epoch: int) -> None:
        """The order is always the same."""


def _process() -> tuple[int, int]:
    import torch.distributed as distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
