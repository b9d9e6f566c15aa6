"""Image files in and out: any format Pillow reads to a uint8 tensor [3, H, W], and back to a file.

Not for data sets (datasets.py) and not for cutting images up (tiling.py).

How a file becomes RGB, 8 bits a sample:

* EXIF orientation is applied, so that the tensor is the picture as a viewer shows it.
* Greyscale and black-and-white are repeated to three channels; a palette is looked up.
* Transparency is composited over white.
* 16-bit samples keep their high byte (``value >> 8``, what Pillow itself does with 16-bit colour).
* CMYK, YCbCr, LAB and HSV are converted by Pillow's formulas; colour profiles are ignored.
* Of an animation the first frame is taken.
* 32-bit integer samples beyond 16 bits and floating-point samples have no agreed range and are refused.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

# fmt: off
SUFFIXES = frozenset([
    ".png", ".jpg", ".jpeg", ".jpe", ".webp", ".avif", ".jxl", ".jp2", ".j2k", ".jpx",
    ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
])
# fmt: on


class ImageError(ValueError):
    """A file that cannot be read or written as an image; its message is one sentence that names the file."""


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """The image in the file `path` as uint8 RGB [3, H, W].  Raises ImageError (missing, broken, unsupported)."""
    return torch.from_numpy(read_array(path)).permute(2, 0, 1).contiguous()


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """As :func:`read_image`, but a contiguous uint8 NumPy array [H, W, 3]."""
    _load_plugins()
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(to_rgb(image))
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
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: cannot be read as an image ({reason})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB by the rules above.  Raises ImageError for samples without an agreed range."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        samples = np.asarray(image).astype(np.int64)
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageError("32-bit integer samples are not supported")
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("floating-point samples are not supported")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_pil(image: torch.Tensor) -> Image.Image:
    """A uint8 tensor [3, H, W] as a Pillow image in mode RGB."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def save_image(image: torch.Tensor, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a uint8 tensor [3, H, W] to `path`, in the format of its suffix, through :func:`write_file`.

    `options` go to Pillow (``quality=90``, ...).  Raises ImageError when the suffix names no format or writing fails.
    """
    _load_plugins()
    path = Path(path)
    Image.init()
    image_format = Image.EXTENSION.get(path.suffix.lower())
    if image_format is None or image_format not in Image.SAVE:
        raise ImageError(f"{path}: no image format is known for the suffix {path.suffix!r}")
    buffer = io.BytesIO()
    try:
        to_pil(image).save(buffer, format=image_format, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None
    write_file(path, buffer.getvalue())


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it and a rename: readers never see half a file.

    Missing folders are made.  Raises ImageError when the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
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
