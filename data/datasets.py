"""Whole images by name: Kodak, ImageNet64, folders; what the evaluation and the command lines iterate over.

Everything here gives pairs (name, image): a name without suffix that is unique in its data set, and a uint8 tensor
[3, H, W].  Not for training: crops.py and module.py cut batches out of these.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from . import imagenet64, kodak
from .imagenet64 import ImageNet64
from .images import ImageError, list_images, read_array, read_image


class ImageFolder(Dataset[tuple[str, torch.Tensor]]):
    """The images of a folder (or of a list of files), read when asked for; `recursive`: of its sub-folders, too."""

    def __init__(self, path: str | Path | Iterable[str | Path], *, recursive: bool = False, name: str = "") -> None:
        self.files = list_images(path, recursive=recursive)
        self.names = _unique_names(self.files)
        self.name = name or (Path(path).resolve().name if isinstance(path, (str, Path)) else "images")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        return self.names[index], read_image(self.files[index])


NamedImages = ImageFolder | ImageNet64


def load_data(name_or_path: str | Path, data_dir: str | Path = "datasets") -> NamedImages:
    """The data set "kodak" or "imagenet64" (its validation images) below `data_dir`, or the images of a folder.

    Items are (name, uint8 [3, H, W]).  Raises ImageError, with what to do, when it is not there.
    """
    if str(name_or_path) == "kodak":
        return ImageFolder(kodak.find_images(data_dir), name="kodak")
    if str(name_or_path) == "imagenet64":
        return ImageNet64(data_dir)
    path = Path(name_or_path)
    if path.is_dir() and (path / "val_data.npz").is_file() and not _has_images(path):
        return ImageNet64(path)
    return ImageFolder(path)


def load_photos(name_or_path: str | Path, data_dir: str | Path, split: Literal["train", "val"]) -> list[np.ndarray]:
    """All images of a source at once, as uint8 arrays [H, W, 3] for cropping; broken files are skipped with a warning.

    "imagenet64" gives the training or validation images by `split`; "kodak" is refused for training (it is a test set).
    """
    if str(name_or_path) == "imagenet64":
        folder = imagenet64.find_folder(data_dir)
        images = imagenet64.read_training(folder) if split == "train" else imagenet64.read_validation(folder)[0]
        return list(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    if str(name_or_path) == "kodak":
        if split == "train":
            raise ImageError("kodak is for evaluation only and cannot be trained on")
        return [read_array(path) for path in kodak.find_images(data_dir)]
    path = Path(name_or_path)
    if not path.is_absolute() and not path.exists():
        path = Path(data_dir) / path
        if not path.exists():
            raise ImageError(f"there is no folder of photos {str(name_or_path)!r}, here or in {data_dir}")
    photos = []
    for file in list_images(path, recursive=True):
        try:
            photos.append(read_array(file))
        except ImageError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
    if not photos:
        raise ImageError(f"{path}: none of the images can be read")
    return photos


def _unique_names(files: list[Path]) -> list[str]:
    """Stems where they are unique, else whole file names, else (same names in several folders) numbered ones."""
    for names in ([file.stem for file in files], [file.name for file in files]):
        if len(set(names)) == len(names):
            return names
    return [f"{index:04d}-{file.name}" for index, file in enumerate(files)]


def _has_images(path: Path) -> bool:
    try:
        return bool(list_images(path))
    except ImageError:
        return False
