"""Batches of whole images of one size, spread over processes without repeating any.

Not for training (module.py): nothing is shuffled, cropped or left out.  Batches are cut before they are spread, so what
is in a batch does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from pathlib import Path

from PIL import Image
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from .datasets import ImageFolder, NamedImages

Named = tuple[str, Tensor]


def image_batches(
    images: str | Path | NamedImages, batch_size: int = 1, num_workers: int = 0
) -> DataLoader[list[Named]]:
    """Batches of at most `batch_size` images of one size, from a folder or a data set; lists of (name, image)."""
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
