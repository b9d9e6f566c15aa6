"""Pixels of any mode, depth and colour profile as sRGB with 8 bits a sample, saying what that changed."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageOps

ORIENTATION = 0x0112
# What describes the picture in a TIFF file, whose other tags say how its samples are stored.
DESCRIPTIVE = frozenset([0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825])
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> Pillow's mode
_SAME = 1  # grey levels by which a conversion may move colours without counting as one


class ImageError(ValueError):
    """A file that cannot be read or written as an image; its message is one sentence that names the file."""


@dataclass
class Picture:
    """An image in mode RGB and what was found beside its colours.

    alpha     mode L, opacity; None if all of it is opaque
    metadata  "exif" (without the orientation, which was applied), "xmp", and "icc" if colours are still the profile's
    notes     what was changed on the way, in a few words each
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    metadata: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def over(self, background: str) -> Image.Image:
        """Mode RGB: composited over a colour by Pillow's name or #rrggbb; raises ValueError for no colour."""
        if self.alpha is None:
            return self.rgb
        rgba = self.rgb.convert("RGBA")
        rgba.putalpha(self.alpha)
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")


def to_picture(image: Image.Image, keep_profile: bool = False) -> Picture:
    """`image` by the rules of images.py; raises ImageError for samples without an agreed range.

    keep_profile  leave RGB samples as they are and give the profile that they are to be shown by, instead of converting
    """
    notes = []
    if (frames := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"first of {frames} frames")
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) or image.mode.startswith("I;16"):
        notes.append("16 bits a sample cut to 8")
    profile = image.info.get("icc_profile")
    image, metadata = _upright(image, notes)
    if image.mode.startswith("I;16") or image.mode == "I":
        samples = np.asarray(image).astype(np.int64)
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageError("32-bit integer samples are not supported")
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("floating-point samples are not supported")
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
        alpha = None if alpha.getextrema() == (255, 255) else alpha
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    if profile:
        image = _by_profile(image, profile, keep_profile, metadata, notes)
    if image.mode not in ("RGB", "L"):
        notes.append(f"{image.mode} converted to RGB")
    return Picture(image.convert("RGB"), alpha, metadata, notes)


def _upright(image: Image.Image, notes: list[str]) -> tuple[Image.Image, dict[str, bytes]]:
    """The image turned as its EXIF says, and its EXIF and XMP; unreadable EXIF is left out."""
    metadata = {}
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        upright = ImageOps.exif_transpose(image)
        exif = upright.info.get("exif", b"")
        if image.format == "TIFF":
            tags = image.getexif()
            for tag in set(tags) - DESCRIPTIVE:
                del tags[tag]
            exif = tags.tobytes() if len(tags) else b""
        if orientation in range(2, 9):
            notes.append(f"turned upright (EXIF orientation {orientation})")
        image = upright
        if exif:
            metadata["exif"] = exif
    except Exception as error:  # Pillow raises whatever its parser runs into
        if isinstance(error, MemoryError):
            raise
        notes.append("unreadable EXIF ignored")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if xmp:
        metadata["xmp"] = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return image, metadata


def _by_profile(
    image: Image.Image, profile: bytes, keep: bool, metadata: dict[str, bytes], notes: list[str]
) -> Image.Image:
    """`image` in sRGB; or as it is, where its profile says sRGB, is to be kept, or fits no image of this mode."""
    try:
        mode, name, transform = _transform(profile)
        if mode == "L" and image.mode == "RGB":  # a grey profile beside colours, or a palette of greys
            raise ImageCms.PyCMSError("another colour space")
        if mode == "RGB":
            image = image.convert("RGB")
        if mode != image.mode:
            raise ImageCms.PyCMSError("another colour space")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("unusable colour profile ignored")
        return image
    if keep and mode == "RGB":
        metadata["icc"] = profile
    elif transform is not None:
        notes.append(f"colours converted from {name} to sRGB")
        image = transform.apply(image)
    return image


@lru_cache(maxsize=8)
def _transform(profile: bytes) -> tuple[str, str, ImageCms.ImageCmsTransform | None]:
    """(mode of the images it is for, name, conversion to sRGB or None where that changes nothing) of a profile."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _MODES.get(source.profile.xcolor_space, "")
    name = " ".join((source.profile.profile_description or "an unnamed profile").split())
    if not mode:
        return mode, name, None
    transform = ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    if mode == "CMYK":
        return mode, name, transform
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * 3), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    before = Image.fromarray(grid)
    moved = np.asarray(transform.apply(before)).astype(int) - np.asarray(before.convert("RGB"))
    return mode, name, transform if abs(moved).max() > _SAME else None
