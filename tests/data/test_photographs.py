"""Odd photographs: what comes out and what is said of it, as docs/photographs.md tells."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import icc
import numpy as np
import pytest
import torch
from PIL import Image

from diffpress.commands.compress import main as compress
from diffpress.commands.decompress import main as decompress
from diffpress.data import ImageError, read_image
from diffpress.data.images import Photo, read_photo, save_photo
from helpers import ROOT, synthetic_photo

COLOUR = (10, 200, 30)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'


def saved(image: Image.Image, image_format: str, **options: Any) -> Callable[[], bytes]:
    def data() -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    return data


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (16, 8), colour)


def png(depth: int, kind: int, rows: bytes, width: int = 16, height: int = 8, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of chunks; `kind` is its colour type."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "Maker"
    return tags


HALF = flat("RGBA", (*COLOUR, 128))
PALETTE = flat("RGB", COLOUR).quantize(2)
RED = [Image.new("RGB", (16, 8), (value, 0, 0)) for value in (200, 10)]
SIXTEEN = (b"\0" + struct.pack(">3H", *(256 * value + 255 for value in COLOUR)) * 16) * 8
BOMB = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))

# name in docs/photographs.md: (bytes, the pixel at the top left, height and width, what is said)
READ: dict[str, tuple[Callable[[], bytes], tuple[int, int, int], tuple[int, int], str]] = {
    "PNG, grey": (saved(flat("L", 90), "PNG"), (90, 90, 90), (8, 16), ""),
    "PNG, one bit": (saved(flat("1", 1), "PNG"), (255, 255, 255), (8, 16), ""),
    "PNG, palette": (saved(PALETTE, "PNG"), COLOUR, (8, 16), ""),
    "PNG, palette with a transparent colour": (saved(PALETTE, "PNG", transparency=0), COLOUR, (8, 16), "alpha"),
    "PNG, transparent": (saved(HALF, "PNG"), COLOUR, (8, 16), "alpha"),
    "PNG, grey and transparent": (saved(flat("LA", (90, 128)), "PNG"), (90, 90, 90), (8, 16), "alpha"),
    "PNG, an alpha channel that is opaque": (saved(flat("RGBA", (*COLOUR, 255)), "PNG"), COLOUR, (8, 16), ""),
    "PNG, grey of 16 bits": (saved(Image.fromarray(np.full((8, 16), 0x5AFF, np.uint16)), "PNG"), (90, 90, 90), (8, 16),
                             "16 bits a sample cut to 8"),
    "PNG, colours of 16 bits": (lambda: png(16, 2, SIXTEEN), COLOUR, (8, 16), "16 bits a sample cut to 8"),
    "JPEG, lying on its side": (saved(flat("RGB", COLOUR), "JPEG", exif=exif(6), quality=100), COLOUR, (16, 8),
                                "turned upright (EXIF orientation 6)"),
    "JPEG, mirrored": (saved(flat("RGB", COLOUR), "JPEG", exif=exif(2), quality=100), COLOUR, (8, 16),
                       "turned upright (EXIF orientation 2)"),
    "JPEG, progressive": (saved(flat("RGB", COLOUR), "JPEG", progressive=True, quality=100), COLOUR, (8, 16), ""),
    "JPEG, EXIF that is none": (saved(flat("RGB", COLOUR), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=100),
                                COLOUR, (8, 16), "unreadable EXIF ignored"),
    "JPEG, colour profile of other primaries": (saved(flat("RGB", COLOUR), "JPEG", icc_profile=icc.rgb(), quality=100),
                                                (0, 201, 0), (8, 16), "colours converted from Test RGB to sRGB"),
    "JPEG, colour profile sRGB": (saved(flat("RGB", COLOUR), "JPEG", icc_profile=icc.srgb(), quality=100), COLOUR,
                                  (8, 16), ""),
    "PNG, grey with a profile": (saved(flat("L", 100), "PNG", icc_profile=icc.grey(1.0)), (168, 168, 168), (8, 16),
                                 "colours converted from Test grey to sRGB"),
    "JPEG, CMYK": (saved(flat("CMYK", (0, 0, 0, 255)), "JPEG", quality=100), (0, 0, 0), (8, 16),
                   "CMYK converted to RGB"),
    "TIFF, CMYK with a profile": (saved(flat("CMYK", (255, 255, 0, 0)), "TIFF", icc_profile=icc.cmyk()),
                                  (118, 118, 118), (8, 16), "colours converted from Test CMYK to sRGB"),
    "PNG, a profile for CMYK": (saved(flat("RGB", COLOUR), "PNG", icc_profile=icc.cmyk()), COLOUR, (8, 16),
                                "unusable colour profile ignored"),
    "PNG, a profile that is none": (saved(flat("RGB", COLOUR), "PNG", icc_profile=b"not a profile" * 20), COLOUR,
                                    (8, 16), "unusable colour profile ignored"),
    "TIFF, L*a*b*": (saved(flat("LAB", (255, 128, 128)), "TIFF"), (255, 255, 255), (8, 16), "LAB converted to RGB"),
    "WebP, animated": (saved(RED[0], "WEBP", save_all=True, append_images=RED[1:], lossless=True), (200, 0, 0), (8, 16),
                       "first of 2 frames"),
    "MPO, two photographs in a JPEG": (saved(RED[0], "MPO", save_all=True, append_images=RED[1:], quality=100),
                                       (200, 0, 0), (8, 16), "first of 2 frames"),
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "TIFF, floating point": (saved(flat("F", 0.5), "TIFF"), "floating-point samples are not supported"),
    "TIFF, 32 bits": (saved(flat("I", 1 << 20), "TIFF"), "32-bit integer samples are not supported"),
    "JPEG, cut": (lambda: saved(Image.effect_noise((64, 64), 50), "JPEG")()[:900], "cannot be read as an image"),
    "PNG, 10^10 pixels announced": (lambda: png(8, 2, b"", 100_000, 100_000), "more pixels than"),
    "PNG, a comment of 100 MB deflated": (lambda: png(8, 0, (b"\0" + bytes(16)) * 8, 16, 8, BOMB), "cannot be read"),
}


@pytest.mark.parametrize("name", READ)
def test_odd_photographs(name: str, tmp_path: Path) -> None:
    data, colour, size, said = READ[name]
    (tmp_path / "photo").write_bytes(data())
    photo = read_photo(tmp_path / "photo")
    assert tuple(photo.image.shape[1:]) == size
    assert (photo.image[:, 0, 0] - torch.tensor(colour)).abs().max() <= 2
    assert ", ".join(photo.notes) == said.replace("alpha", "")
    assert (photo.alpha is not None) == (said == "alpha")
    assert f"| {name} |" in (ROOT / "docs" / "photographs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_photographs(name: str, tmp_path: Path) -> None:
    data, said = REFUSED[name]
    (tmp_path / "photo").write_bytes(data())
    with pytest.raises(ImageError, match=said):
        read_photo(tmp_path / "photo")
    assert f"| {name} |" in (ROOT / "docs" / "photographs.md").read_text(encoding="utf-8")


def test_background(tmp_path: Path) -> None:
    saved_file = tmp_path / "photo.png"
    saved_file.write_bytes(saved(HALF, "PNG")())
    black = read_photo(saved_file, background="#000000")
    assert black.alpha is None
    assert black.notes == ("transparency composited over #000000",)
    assert black.image[:, 0, 0].tolist() == [5, 100, 15]
    assert read_image(saved_file)[:, 0, 0].tolist() == [132, 227, 142]
    with pytest.raises(ImageError, match="is no colour"):
        read_photo(saved_file, background="transparent-ish")


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    """A photo with everything, as its file is read."""
    rgba = Image.fromarray(synthetic_photo(24, 40).permute(1, 2, 0).numpy())
    rgba.putalpha(Image.linear_gradient("L").resize((40, 24)))
    rgba.save(tmp_path / "photo.webp", lossless=True, exact=True, exif=exif(6), xmp=XMP, icc_profile=icc.rgb())
    return read_photo(tmp_path / "photo.webp", keep_metadata=True)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_formats_that_hold_everything(suffix: str, photo: Photo, tmp_path: Path) -> None:
    assert save_photo(photo, tmp_path / f"copy{suffix}") == ()
    copy = read_photo(tmp_path / f"copy{suffix}", keep_metadata=True)
    check_same(copy, photo)
    with Image.open(tmp_path / f"copy{suffix}") as file:
        assert file.getexif().get(0x010F) == "Maker"
        assert 0x0112 not in file.getexif()  # the orientation was applied


def check_same(copy: Photo, photo: Photo) -> None:
    assert torch.equal(copy.image, photo.image)
    assert copy.alpha is not None
    assert photo.alpha is not None
    assert torch.equal(copy.alpha, photo.alpha)
    assert (copy.metadata["xmp"], copy.metadata["icc"]) == (XMP, icc.rgb())


def test_formats_that_do_not_say_so(photo: Photo, tmp_path: Path) -> None:
    assert save_photo(photo, tmp_path / "a.bmp") == (".bmp holds no transparency, EXIF, XMP, ICC",)
    assert save_photo(photo, tmp_path / "a.jpg") == (".jpg holds no transparency",)
    assert read_photo(tmp_path / "a.jpg", keep_metadata=True).metadata.keys() == {"exif", "xmp", "icc"}


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_there_and_back_through_a_file(
    suffix: str, photo: Photo, tiny_prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_prior), "--device", "cpu"]
    source, file, copy = tmp_path / "photo.webp", tmp_path / "p.dfc", tmp_path / f"copy{suffix}"
    assert compress([str(source), "-o", str(file), "--lossless", "--metadata", "keep", *model]) == 0
    said = capsys.readouterr().out
    assert "(turned upright (EXIF orientation 6); " in said
    assert "; EXIF, XMP, ICC, transparency kept in " in said
    assert decompress([str(file), "-o", str(copy), *model]) == 0
    check_same(read_photo(copy, keep_metadata=True), photo)
    assert compress([str(source), "-o", str(tmp_path / "b.dfc"), "--lossless", "--background", "white", *model]) == 0
    said = capsys.readouterr().out
    assert "colours converted from Test RGB to sRGB; transparency composited over white" in said
    assert decompress([str(tmp_path / "b.dfc"), "-o", str(tmp_path / "b.png"), *model]) == 0
    assert torch.equal(read_image(tmp_path / "b.png"), read_image(source))
    assert file.stat().st_size > (tmp_path / "b.dfc").stat().st_size
