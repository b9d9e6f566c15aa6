"""Image files in and out: any format Pillow reads to a uint8 tensor [3, H, W], and back to a file.

Not for data sets (datasets.py) and not for cutting images up (tiling.py).

How a file becomes sRGB, 8 bits a sample (colour.py):

* EXIF orientation is applied, so that the tensor is the picture as a viewer shows it.
* Colours are converted to sRGB where a profile says that they are others (littlecms, relative colorimetric with black
  point compensation; a profile that moves no colour by more than one grey level counts as sRGB).
* Greyscale and black-and-white are repeated to three channels; a palette is looked up.
* Transparency is composited over white, or comes apart from the colours (`read_photo`).
* 16-bit samples keep their high byte (``value >> 8``, what Pillow itself does with 16-bit colour).
* CMYK without a profile, YCbCr, LAB and HSV are converted by Pillow's formulas.
* Of an animation the first frame is taken.
* 32-bit integer samples beyond 16 bits and floating-point samples have no agreed range and are refused.
"""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageColor, PngImagePlugin, UnidentifiedImageError

from .colour import ImageError, Picture, to_picture

# fmt: off
SUFFIXES = frozenset([
    ".png", ".jpg", ".jpeg", ".jpe", ".webp", ".avif", ".jxl", ".jp2", ".j2k", ".jpx",
    ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
])
# fmt: on


logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it says of damaged files is in the exceptions


@dataclass(frozen=True)
class Photo:
    """An image file with what stands beside its colours.

    image     uint8 [3, H, W], sRGB; in the colours of the profile `metadata["icc"]` if there is one
    alpha     uint8 [H, W], 255 for opaque; None if all of it is opaque
    metadata  "exif", "xmp", "icc" as the bytes in the file
    notes     what was changed or left out on the way, in a few words each
    """

    image: torch.Tensor
    alpha: torch.Tensor | None = None
    metadata: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_photo(
    path: str | os.PathLike[str] | IO[bytes], *, background: str | None = None, keep_metadata: bool = False
) -> Photo:
    """The image in the file `path`; raises ImageError as `read_image` does, and for a `background` that is no colour.

    background     composite transparency over this colour, a name or #rrggbb; None: give it as `alpha`
    keep_metadata  give EXIF, XMP and the colour profile, by which the colours then are
    """
    if background is not None:
        check_colour(background)
    picture = _read(path, keep_metadata)
    notes, alpha = list(picture.notes), None
    rgb = picture.rgb
    if picture.alpha is not None and background is not None:
        notes.append(f"transparency composited over {background}")
        rgb = picture.over(background)
    elif picture.alpha is not None:
        alpha = torch.from_numpy(np.array(picture.alpha))
    return Photo(to_tensor(rgb), alpha, picture.metadata if keep_metadata else {}, tuple(notes))


def check_colour(name: str) -> str:
    """`name` itself if Pillow knows such a colour (a name or #rrggbb); raises ImageError."""
    try:
        ImageColor.getrgb(name)
    except ValueError:
        raise ImageError(f"{name!r} is no colour; give a name such as white, or #rrggbb") from None
    return name


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """The image in the file `path` as uint8 RGB [3, H, W].  Raises ImageError (missing, broken, unsupported)."""
    return to_tensor(_read(path).over("white"))


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """As :func:`read_image`, but a contiguous uint8 NumPy array [H, W, 3]."""
    return np.array(_read(path).over("white"))


def _read(path: str | os.PathLike[str] | IO[bytes], keep_profile: bool = False) -> Picture:
    _load_plugins()
    try:
        with warnings.catch_warnings(record=True) as warned:  # what Pillow says of EXIF goes into the notes
            warnings.simplefilter("always")
            with Image.open(path) as image:
                picture = to_picture(image, keep_profile)
        if any("EXIF" in str(one.message) for one in warned):
            picture.notes.append("unreadable EXIF ignored")
        return picture
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, not an image") from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image in a format that Pillow reads") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: more pixels than Pillow's limit of {2 * (Image.MAX_IMAGE_PIXELS or 0)}") from None
    except Exception as error:  # damaged files raise whatever Pillow's readers stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: cannot be read as an image ({reason})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB by the rules above.  Raises ImageError for samples without an agreed range."""
    return to_picture(image).over("white")


def to_pil(image: torch.Tensor) -> Image.Image:
    """A uint8 tensor [3, H, W] as a Pillow image in mode RGB."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A Pillow image in mode RGB as a contiguous uint8 tensor [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def save_image(image: torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Write a uint8 tensor [3, H, W] to `path`; see :func:`save_photo`."""
    save_photo(Photo(image), path)


def save_photo(photo: Photo, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write `photo` to `path` in the format of its suffix, WebP without loss; returns what that cannot hold.

    PNG, WebP and TIFF hold everything, JPEG metadata; transparency is composited over white where it cannot be kept.
    Raises ImageError where the suffix names no format, or writing fails.
    """
    path, picture = Path(path), to_pil(photo.image)
    image_format = _format(path)
    options: dict[str, Any] = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    left_out = []
    if photo.alpha is not None and image_format in ("PNG", "WEBP", "TIFF"):
        picture.putalpha(Image.fromarray(photo.alpha.numpy()))
    elif photo.alpha is not None:
        picture = Picture(picture, Image.fromarray(photo.alpha.numpy())).over("white")
        left_out.append("transparency")
    if image_format in ("PNG", "WEBP", "TIFF", "JPEG"):
        options |= _metadata_options(image_format, photo.metadata)
    else:
        left_out += [name.upper() for name in photo.metadata]
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=image_format, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None
    write_file(path, buffer.getvalue())
    return (f"{path.suffix} holds no {', '.join(left_out)}",) if left_out else ()


def _metadata_options(image_format: str, metadata: Mapping[str, bytes]) -> dict[str, Any]:
    """`metadata` as Pillow's writer of a format takes them."""
    names = {"exif": "exif", "icc": "icc_profile", "xmp": "xmp"}
    options: dict[str, Any] = {names[name]: data for name, data in metadata.items()}
    xmp = options.pop("xmp", b"") if image_format in ("PNG", "TIFF") else b""
    if image_format == "PNG" and xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    if image_format == "TIFF":
        tags = Image.Exif()
        with contextlib.suppress(Exception):  # Pillow raises whatever its parser runs into
            tags.load(metadata.get("exif", b""))
        if xmp:
            tags[700] = xmp
        options |= {"compression": "tiff_deflate", "exif": tags}
    return options


def _format(path: Path) -> str:
    _load_plugins()
    Image.init()
    image_format = Image.EXTENSION.get(path.suffix.lower())
    if image_format is None or image_format not in Image.SAVE:
        raise ImageError(f"{path}: no image format is known for the suffix {path.suffix!r}")
    return image_format


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it and a rename: nobody ever sees half a file there.

    The data are on the disk before the rename, so that a machine that loses its power keeps the old file or the new.

    Missing folders are made.  Raises ImageError when the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only the owner can read
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror})") from None


def list_images(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, recursive: bool = False
) -> list[Path]:
    """The image files named by `inputs`: files as they are, folders by suffix, glob patterns expanded.

    Folder contents and matches are sorted by name; a file named twice is listed once, at its first place.
    Raises ImageError for a path that does not exist, and for a folder or pattern without images.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    found: dict[Path, None] = {}
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            pattern = "**/*" if recursive else "*"
            matches = sorted(p for p in path.glob(pattern) if p.suffix.lower() in SUFFIXES and p.is_file())
            if not matches:
                raise ImageError(f"{path}: no images in this folder")
        elif path.exists():
            matches = [path]
        elif glob.has_magic(str(entry)):
            names = glob.glob(os.path.expanduser(str(entry)), recursive=True)
            matches = sorted(p for p in map(Path, names) if p.suffix.lower() in SUFFIXES and p.is_file())
            if not matches:
                raise ImageError(f"{entry}: matches no images")
        else:
            raise ImageError(f"{path}: no such file or folder")
        found.update(dict.fromkeys(matches))
    return list(found)


@cache
def _load_plugins() -> None:
    """Let Pillow know JPEG XL where its plug-in is installed; without it such files are reported as unreadable."""
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401
