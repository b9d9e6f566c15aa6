"""ImageNet64, Kodak and folders give named uint8 images, and say in one sentence what is wrong with them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.data import ImageError, ImageFolder, ImageNet64, kodak, load_data, load_photos


def test_imagenet64_planes_are_red_green_blue(tmp_path: Path) -> None:
    data = np.zeros((1, 12288), dtype=np.uint8)
    data[0, :4096], data[0, 4096:8192], data[0, 8192:] = 10, 20, 30
    data[0, 1] = 99  # row 0, column 1, red
    np.savez(tmp_path / "val_data.npz", data=data)
    name, image = load_data("imagenet64", tmp_path)[0]
    assert name == "val00000"
    assert image.shape == (3, 64, 64)
    assert image[:, 5, 5].tolist() == [10, 20, 30]
    assert int(image[0, 0, 1]) == 99


def test_images_can_be_left_out(tiny_imagenet64: Path) -> None:
    assert len(ImageNet64(tiny_imagenet64)) == 8
    np.save(tiny_imagenet64 / "imagenet64" / "removed.npy", np.array([1, 5]))
    data = ImageNet64(tiny_imagenet64)
    assert [data[i][0] for i in range(len(data))] == [f"val{i:05d}" for i in (0, 2, 3, 4, 6, 7)]


def test_wrong_npz_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no ImageNet64 here"):
        ImageNet64(tmp_path)
    (tmp_path / "val_data.npz").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="not an npz file"):
        ImageNet64(tmp_path)
    np.savez(tmp_path / "val_data.npz", data=np.zeros((2, 100), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"expected uint8 \[N, 12288\]"):
        ImageNet64(tmp_path)
    np.savez(tmp_path / "val_data.npz", data=np.zeros((2, 12288), dtype=np.uint8))
    np.save(tmp_path / "removed.npy", np.array([7]))
    with pytest.raises(ImageError, match="indices below 2"):
        ImageNet64(tmp_path)


def test_broken_files_are_refused_or_in_training_skipped(photo_folder: Path) -> None:
    (photo_folder / "broken.png").write_bytes(b"no image")
    refusing = ImageFolder(photo_folder)
    with pytest.raises(ImageError, match=r"broken\.png"):
        [refusing[i] for i in range(len(refusing))]
    with pytest.warns(UserWarning, match=r"skipped: .*broken\.png"):
        assert len(load_photos(photo_folder, photo_folder, "train")) == 5


def test_names_stay_unique(photo_folder: Path) -> None:
    (photo_folder / "photo0.webp").write_bytes((photo_folder / "photo0.png").read_bytes())
    assert "photo0.webp" in ImageFolder(photo_folder).names
    (photo_folder / "more" / "photo0.png").write_bytes((photo_folder / "photo0.png").read_bytes())
    names = ImageFolder(photo_folder, recursive=True).names
    assert len(set(names)) == len(names)


def test_kodak_is_never_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="evaluation only"):
        load_photos("kodak", tmp_path, "train")


def test_missing_kodak_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="download-kodak"):
        load_data("kodak", tmp_path)
    (tmp_path / "kodim01.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"23 of the 24 Kodak images are missing, first kodim02\.png"):
        load_data("kodak", tmp_path)


def test_shared_kodak_is_the_manifest(shared: Path) -> None:
    assert kodak.verify(shared / "data" / "kodak") == []
    data = load_data("kodak", shared / "data")
    assert len(data) == 24
    assert {tuple(data[i][1].shape) for i in (0, 3)} == {(3, 512, 768), (3, 768, 512)}


def test_shared_imagenet64(shared: Path) -> None:
    data = load_data("imagenet64", shared / "data")
    assert len(data) == 200
    assert data[0][1].dtype == torch.uint8


def test_folder_by_path(photo_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(photo_folder)
    assert data.name == "photos"
    assert data[0][0] == "photo0"
    assert data[0][1].shape == (3, 80, 120)
