"""Small stand-ins for the public data sets."""

from pathlib import Path

import numpy as np
import pytest

from diffpress.data import save_image


@pytest.fixture
def tiny_imagenet64(tmp_path: Path) -> Path:
    """A data folder with 8 validation and 2 x 6 training images in the npz layout."""
    rng = np.random.default_rng(0)
    val = rng.integers(0, 256, (8, 12288), dtype=np.uint8)
    train = rng.integers(0, 256, (12, 12288), dtype=np.uint8)
    folder = tmp_path / "imagenet64"
    folder.mkdir()
    np.savez(folder / "val_data.npz", data=val)
    np.savez(folder / "train_data_batch_1.npz", data=train[:6])
    np.savez(folder / "train_data_batch_2.npz", data=train[6:])
    return tmp_path


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A folder with five smooth, distinguishable photos of different sizes and a sub-folder."""
    import torch

    folder = tmp_path / "photos"
    generator = torch.Generator().manual_seed(0)
    for index, (height, width) in enumerate([(80, 120), (100, 70), (96, 96), (64, 200), (150, 110)]):
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        photo = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
        sub = folder / "more" if index == 4 else folder
        save_image((photo * 255).round().to(torch.uint8), sub / f"photo{index}.png")
    return folder
