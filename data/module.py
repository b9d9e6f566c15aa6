"""The one LightningDataModule: training crops, validation crops and whole test images for every recipe.

Batches are uint8 [B, 3, H, W] up to the edge of the model.  The training stream is a function of (seed, number of
samples already consumed), so a resumed run continues with exactly the batches an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from .crops import CropSource, FixedCrops, RandomCrops
from .datasets import ImageFolder, NamedImages, load_data, load_photos
from .images import ImageError

Named = tuple[str, Tensor]

HELD_OUT = 10  # where no validation images are named, one photo of so many is held out
NO_TRAINING_IMAGES = "there are no training images: name a folder of photos with --data.train"
NO_TEST_IMAGES = "there are no images: name a folder of photos, kodak or imagenet64 with --data.test"


@dataclass
class Source:
    """A training source in a configuration file, or one named by its path alone.

    path       folder of photos (searched recursively; relative to the working directory or else to data_dir), or
               "imagenet64" for the training images in data_dir
    weight     share of the samples relative to the other sources
    downscale  photos are shrunk by a random factor of at most this before cropping, as far as their size allows
    native     share of the crops that are not shrunk

    By default half the crops are shrunk by up to 3, as those of the larger photos of configs/data/photos.yaml: a
    camera's photos at their own scale are smooth and noisy, and photos that have been scaled for a screen are neither.
    """

    path: str
    weight: float = 1.0
    downscale: float = 3.0
    native: float = 0.5


class ImageData(lightning.LightningDataModule):
    """Training, validation and test images for LightningCLI.

    train              sources to cut random crops from, mixed by weight; a string stands for a source with its defaults
    val                folder or "imagenet64" (its validation images); None: every tenth photo of each training source
                       is held out
    test               "kodak", "imagenet64" or a folder, whole images one by one as (name, uint8 [3, H, W])
    data_dir           where "kodak", "imagenet64" and relative folders are looked up
    batch_size         samples per batch and device, training and validation; prediction: at most so many whole images,
                       of one size
    crop_size          side of the square crops in pixels
    samples_per_epoch  length of a training epoch in samples over all devices
    val_samples        validation crops; None: one per validation image
    val_downscale      as Source.downscale, for validation crops
    num_workers        loader processes; 0 loads in the training process (a crop costs well under a millisecond)
    seed               of the training stream

    Photos smaller than a crop are left out, and the log says so.
    """

    def __init__(
        self,
        train: list[Source] | list[str] | str | None = None,
        val: str | None = None,
        test: str | None = None,
        data_dir: str = "datasets",
        batch_size: int = 32,
        crop_size: int = 64,
        samples_per_epoch: int = 32_000,
        val_samples: int | None = None,
        val_downscale: float = 1.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sources = [train] if isinstance(train, str) else train or []
        self.train_sources = [Source(source) if isinstance(source, str) else source for source in sources]
        self.val, self.test, self.data_dir = val, test, Path(data_dir)
        self.batch_size, self.crop_size, self.num_workers, self.seed = batch_size, crop_size, num_workers, seed
        self.samples_per_epoch, self.val_samples, self.val_downscale = samples_per_epoch, val_samples, val_downscale
        self.train_data: RandomCrops | None = None
        self.val_data: FixedCrops | None = None
        self.test_data: NamedImages | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` needs ("fit", "validate", "test", "predict", None: everything); photos stay in memory."""
        if stage == "fit" and not self.train_sources:
            raise ImageError(NO_TRAINING_IMAGES)
        wanted = stage in ("fit", None) or (stage == "validate" and self.val is None)
        if wanted and self.train_sources and self.train_data is None:
            self._read_training_photos()
        if stage in ("fit", "validate", None) and self.val is not None and self.val_data is None:
            self._validate_on(self._load(self.val, "val"))
        if stage in ("test", "predict", None) and self.test is not None and self.test_data is None:
            self.test_data = load_data(self.test, self.data_dir)

    def _read_training_photos(self) -> None:
        """Set train_data, and where `val` names nothing val_data to photos that are not in train_data."""
        sources, held_out = [], []
        for source in self.train_sources:
            photos = self._load(source.path, "train")
            if self.val is None:
                if len(photos) < 2:
                    raise ImageError(
                        f"{source.path} has one photo to train on and none to hold out for validation; "
                        "add photos, or name a folder with --data.val"
                    )
                count = min(HELD_OUT, len(photos))
                held_out += photos[count - 1 :: count]
                photos = [photo for index, photo in enumerate(photos) if index % count != count - 1]
            sources.append(CropSource(photos, source.weight, source.downscale, source.native))
        self.train_data = RandomCrops(sources, self.crop_size, self.samples_per_epoch, self.seed)
        if held_out:
            self._validate_on(held_out)
            total = len(held_out) + sum(len(source.photos) for source in sources)
            rank_zero_info(
                f"{len(held_out)} of {total} photos are held out for validation, every {HELD_OUT}th by name; "
                "--data.val names a folder to validate on instead"
            )

    def _validate_on(self, photos: list[np.ndarray]) -> None:
        self.val_data = FixedCrops(photos, self.crop_size, self.val_samples, self.val_downscale)

    def _load(self, path: str, split: Literal["train", "val"]) -> list[np.ndarray]:
        photos = load_photos(path, self.data_dir, split)
        large = [photo for photo in photos if min(photo.shape[:2]) >= self.crop_size]
        if not large:
            side = max(min(photo.shape[:2]) for photo in photos)
            raise ImageError(
                f"crops of {self.crop_size} pixels fit in no photo of {path}, whose largest has a shorter side of "
                f"{side}; use larger photos or a smaller --data.crop_size"
            )
        if len(large) < len(photos):
            rank_zero_info(f"{len(photos) - len(large)} of {len(photos)} photos of {path} are smaller than a crop of "
                           f"{self.crop_size} pixels and left out")  # fmt: skip
        return large

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        if self.train_data is None:
            raise ImageError(NO_TRAINING_IMAGES)
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        done = self._batches_done
        return ResumableLoader(self.train_data, self.batch_size, rank, world, done, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[torch.Tensor] | list[Any]:
        if self.val_data is None:
            return []
        return DataLoader(self.val_data, self.batch_size, num_workers=self.num_workers)

    def test_dataloader(self) -> DataLoader[tuple[str, torch.Tensor]]:
        """Whole images, one per step, as (name, uint8 [3, H, W])."""
        if self.test_data is None:
            raise ImageError(NO_TEST_IMAGES)
        return DataLoader(self.test_data, batch_size=None, num_workers=self.num_workers)

    def predict_dataloader(self) -> DataLoader[list[Named]]:
        """Whole images in batches of one size, each a list of (name, uint8 [3, H, W])."""
        if self.test_data is None:
            raise ImageError(NO_TEST_IMAGES)
        return image_batches(self.test_data, self.batch_size, self.num_workers)

    def _batches_done(self) -> int | None:
        """Training batches that the attached trainer has finished, over all epochs; None without a fitting trainer."""
        if self.trainer is None:
            return None
        # `processed` is the only counter that is right in every checkpoint: one written inside on_train_batch_end has
        # not counted its own batch as completed yet, one written on an interruption has a batch ready but not done.
        total = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)


class ResumableLoader(DataLoader[torch.Tensor]):
    """A loader over :class:`RandomCrops` that starts every pass at the first sample not consumed yet.

    `batches_done` tells how many batches per device the run has finished; without it (None), epochs are counted by
    `set_epoch`.  The checkpoint stores the position in samples, so batch size and number of devices may change.
    """

    def __init__(
        self, data: RandomCrops, batch_size: int, rank: int, world: int, batches_done: Callable[[], int | None],
        **options: Any,
    ) -> None:  # fmt: skip
        self._step = batch_size * world
        self._batches_done = batches_done
        self._origin = (0, 0)  # (sample, finished batches) at the start of the run or where it was resumed
        sampler = _StreamSampler(data, rank, world, self._position)
        super().__init__(data, batch_size, sampler=sampler, drop_last=True, **options)

    def _position(self) -> int | None:
        batches = self._batches_done()
        if batches is None:
            return None
        return self._origin[0] + (batches - self._origin[1]) * self._step

    def state_dict(self) -> dict[str, int]:
        """The position in the stream of samples, for Lightning's checkpoint."""
        return {"sample": self._position() or 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the saved position; Lightning has restored its batch counter before it calls this."""
        self._origin = (state["sample"], self._batches_done() or 0)


class _StreamSampler(DistributedSampler[int]):
    """This device's indices of one epoch, beginning at the position of the stream.

    A DistributedSampler so that Lightning leaves it alone and calls `set_epoch`; the stream is random in itself, so
    nothing is shuffled here.
    """

    def __init__(self, data: RandomCrops, rank: int, world: int, position: Callable[[], int | None]) -> None:
        super().__init__(data, num_replicas=world, rank=rank, shuffle=False, drop_last=True)
        self._position = position

    def __iter__(self) -> Iterator[int]:
        start = self._position()
        if start is None:
            start = self.epoch * self.num_samples * self.num_replicas
        return iter(range(start + self.rank, start + self.num_samples * self.num_replicas, self.num_replicas))


def image_batches(
    images: str | Path | NamedImages, batch_size: int = 1, num_workers: int = 0
) -> DataLoader[list[Named]]:
    """Batches of at most `batch_size` whole images of one size, from a folder or a data set; lists of (name, image).

    Not for training: nothing is shuffled, cropped or left out.  Batches are cut before they are spread over processes,
    none twice, so what is in a batch does not depend on the number of processes.
    """
    data = ImageFolder(images) if isinstance(images, (str, Path)) else images
    batches = _Batches(data, batch_size)
    return DataLoader(batches, batch_size=None, sampler=EveryNth(batches), num_workers=num_workers)


class _Batches(Dataset[list[Named]]):
    """Groups of images of one size, in the order of their first members."""

    def __init__(self, data: NamedImages, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch holds at least one image, not {batch_size}")
        self.data = data
        sizes = [_stored_size(file) for file in data.files] if isinstance(data, ImageFolder) else [(0, 0)] * len(data)
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, size in enumerate(sizes):
            by_size.setdefault(size, []).append(number)
        groups = (group[i : i + batch_size] for group in by_size.values() for i in range(0, len(group), batch_size))
        self.groups = sorted(groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[Named]:
        return [self.data[number] for number in self.groups[index]]


def _stored_size(file: Path) -> tuple[int, int]:
    """Width and height without decoding; (0, 0) where they cannot be told, for the reader to complain about."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, ValueError):
        return 0, 0


class EveryNth(DistributedSampler[int]):
    """Every n-th item for each of n processes, none twice.

    A DistributedSampler because Lightning leaves those alone; it would wrap any other.  How many processes there are is
    asked when iteration begins: where the sampler is made, they may not have been started.
    """

    def __init__(self, data: Sized) -> None:
        super().__init__(data, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
        self.data = data

    def __iter__(self) -> Iterator[int]:
        rank, world = _process()
        return iter(range(rank, len(self.data), world))

    def __len__(self) -> int:
        rank, world = _process()
        return len(range(rank, len(self.data), world))


def _process() -> tuple[int, int]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
