"""ImageNet64 in the public npz layout.

`val_data.npz` and `train_data_batch_*.npz` hold the key ``data``: N x 12288 uint8, the planes R, G, B of 64 x 64
pixels.  An optional `removed.npy` lists indices into the validation images to leave out, such as those that are
training images, too.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from .images import ImageError

SIDE = 64
VALUES = 3 * SIDE * SIDE


def find_folder(data_dir: str | Path) -> Path:
    """The folder with the npz files: `data_dir`/imagenet64 or `data_dir` itself.  Raises ImageError."""
    data_dir = Path(data_dir)
    for folder in (data_dir / "imagenet64", data_dir):
        if (folder / "val_data.npz").is_file() or training_files(folder):
            return folder
    raise ImageError(
        f"{data_dir}: no ImageNet64 here; expected imagenet64/val_data.npz or imagenet64/train_data_batch_*.npz "
        "(the npz files of the downsampled ImageNet, 64 x 64, from image-net.org)"
    )


def training_files(folder: Path) -> list[Path]:
    """The training batches of `folder` in the order of their numbers."""
    files = folder.glob("train_data_batch_*.npz")
    return sorted(files, key=lambda path: (len(path.stem), path.stem))


def read_npz(path: Path) -> np.ndarray:
    """The images of one npz file, uint8 [N, 3, 64, 64].  Raises ImageError when it is missing or has another layout."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            data = archive["data"]
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise ImageError(f"{path}: not an npz file with the key 'data'") from None
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != VALUES:
        raise ImageError(f"{path}: 'data' is {data.dtype} {list(data.shape)}, expected uint8 [N, {VALUES}]")
    return np.asarray(data).reshape(-1, 3, SIDE, SIDE)


def read_validation(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Validation images uint8 [N, 3, 64, 64] without those in `removed.npy`, and their indices in the file, int [N]."""
    images = read_npz(folder / "val_data.npz")
    keep = np.ones(len(images), dtype=bool)
    removed_file = folder / "removed.npy"
    if removed_file.is_file():
        try:
            removed = np.load(removed_file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise ImageError(f"{removed_file}: not a NumPy file of indices") from None
        if removed.size and (removed.dtype.kind not in "iu" or removed.min() < 0 or removed.max() >= len(images)):
            raise ImageError(f"{removed_file}: must hold indices below {len(images)}, the number of validation images")
        keep[removed.astype(np.int64)] = False
    return images[keep], np.flatnonzero(keep)


def read_training(folder: Path) -> np.ndarray:
    """All training images of `folder`, uint8 [N, 3, 64, 64].  Raises ImageError when there are none."""
    files = training_files(folder)
    if not files:
        raise ImageError(f"{folder}: no train_data_batch_*.npz")
    return np.concatenate([read_npz(path) for path in files])


class ImageNet64(Dataset[tuple[str, torch.Tensor]]):
    """The validation images as (name, uint8 [3, 64, 64]); names are ``val00000`` by index in the file."""

    name = "imagenet64"

    def __init__(self, data_dir: str | Path) -> None:
        self.images, indices = read_validation(find_folder(data_dir))
        self.names = [f"val{index:05d}" for index in indices]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        return self.names[index], torch.from_numpy(self.images[index])
