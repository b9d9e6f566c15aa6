"""Every kind of image file becomes RGB by the stated rule, or is refused in one sentence."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffpress.data import ImageError, list_images, read_image, save_image, write_file

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp"])
def test_lossless_files_return_every_pixel(tmp_path: Path, suffix: str) -> None:
    save_image(as_tensor(RGB), tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, as_tensor(RGB))
    assert os.listdir(tmp_path) == [f"a{suffix}"]  # no temporary file is left


@pytest.mark.parametrize("suffix", [".jpg", ".avif", ".jxl", ".jp2"])
def test_lossy_formats_are_read(tmp_path: Path, suffix: str) -> None:
    if suffix == ".jxl":
        pytest.importorskip("pillow_jxl")
    flat = torch.full((3, 16, 24), 100, dtype=torch.uint8)
    save_image(flat, tmp_path / f"a{suffix}")
    assert (read_image(tmp_path / f"a{suffix}").int() - 100).abs().max() <= 3


def test_greyscale_is_repeated(tmp_path: Path) -> None:
    for mode in ("L", "1"):
        Image.fromarray(RGB[..., 0]).convert(mode).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png")
        assert image.shape == (3, 5, 7)
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])


def test_sixteen_bit_grey_keeps_the_high_byte(tmp_path: Path) -> None:
    samples = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    Image.fromarray(samples).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0, 0, 1, 255]]


def test_palette_is_looked_up(tmp_path: Path) -> None:
    Image.fromarray(RGB).quantize(256).save(tmp_path / "a.png")
    expected = Image.open(tmp_path / "a.png").convert("RGB")
    assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(np.asarray(expected)))


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = (0, 128, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[255, 127, 0]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(np.rot90(RGB, -1)))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 0, 0, 255)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").max() <= 2


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert int(read_image(tmp_path / "a.webp")[0, 0, 0]) == 10


def test_float_samples_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: floating-point samples"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n garbage"])
def test_broken_files_are_named_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_cut_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:3000])
    with pytest.raises(ImageError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)


def test_listing_files_folders_and_patterns(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.webp"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png"]
    assert [path.name for path in list_images(tmp_path, recursive=True)] == ["a.JPG", "b.png", "c.webp"]
    assert [path.name for path in list_images([tmp_path / "b.png", str(tmp_path / "*")])] == ["b.png", "a.JPG"]
    assert [path.name for path in list_images(tmp_path / "notes.txt")] == ["notes.txt"]  # named: not judged by suffix
    for wrong in (tmp_path / "missing.png", tmp_path / "*.gif"):
        with pytest.raises(ImageError):
            list_images(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images"):
        list_images(tmp_path / "empty")


def test_writing_replaces_whole_files_and_names_what_fails(tmp_path: Path) -> None:
    write_file(tmp_path / "new" / "a.bin", b"1")
    write_file(tmp_path / "new" / "a.bin", b"22")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"22"
    with pytest.raises(ImageError, match="cannot be written"):
        write_file(tmp_path / "new" / "a.bin" / "b", b"")
    with pytest.raises(ImageError, match="no image format"):
        save_image(as_tensor(RGB), tmp_path / "a.unknown")
