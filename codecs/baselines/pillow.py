"""JPEG, JPEG 2000, WebP, AVIF, JPEG XL and PNG behind the codec protocol, through Pillow and its plug-ins.

Each writes the format's own file and nothing else (``Stream.native``), so that every viewer opens it and its size is
the size on disk.  No metadata, no colour profile.  VVC and HEVC are in ffmpeg.py.

>>> from diffpress.codecs import get_codec
>>> stream = get_codec("webp", quality=80).encode(image)
"""

from __future__ import annotations

import dataclasses
import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from diffpress.data.images import ImageError, to_pil, to_rgb, to_tensor

from ..base import CodecError, Header, Stream, check_image


class NativeCodec(ABC):
    """A codec whose stream is one complete file of a foreign format.  Its dataclass fields are its options.

    ``encode(image, **options)`` takes the same options as the constructor, for this image only.
    Subclasses say what is allowed: `ranges`, (option, lowest, highest) each, and `choices`, (option, values) each.
    """

    name: str
    suffix: str
    ranges: tuple[tuple[str, float, float], ...] = ()
    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        """Raises CodecError for values that are not allowed."""
        for option, low, high in self.ranges:
            value = getattr(self, option)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and low <= value <= high):
                raise CodecError(f"{self.name}: {option} must be between {low} and {high}, got {value}")
        for option, values in self.choices:
            if getattr(self, option) not in values:
                given = getattr(self, option)
                raise CodecError(f"{self.name}: {option} must be one of {', '.join(values)}, got {given}")

    def encode(self, image: torch.Tensor, **options: Any) -> Stream:
        """Encode a uint8 image [3, H, W].  Raises CodecError for unknown options or values the format does not have."""
        check_image(image)
        data = self._with(options)._write(image)
        return Stream(Header(self.name, image.shape[1], image.shape[2]), (data,), native=True)

    def decode(self, stream: Stream, *, segments: int | None = None) -> torch.Tensor:
        """uint8 [3, H, W] of the file in the stream's one segment.  Raises CodecError when it is damaged."""
        if len(stream.segments) != 1 or segments == 0:
            raise CodecError(f"a {self.name} file is one segment and decodes only as a whole")
        image = self._read(stream.segments[0])
        if image.shape[1:] != (stream.header.height, stream.header.width):
            raise CodecError(
                f"the {self.name} file is {image.shape[2]} x {image.shape[1]}, "
                f"its header says {stream.header.width} x {stream.header.height}"
            )
        return image

    @abstractmethod
    def _write(self, image: torch.Tensor) -> bytes:
        """The file for `image`, or CodecError."""

    @abstractmethod
    def _read(self, data: bytes) -> torch.Tensor:
        """The image of the file, or CodecError."""

    def _with(self, options: dict[str, Any]) -> NativeCodec:
        if not options:
            return self
        known = {f.name for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        unknown = sorted(set(options) - known)
        if unknown:
            raise CodecError(f"{self.name} has no option {unknown[0]!r}; its options: {', '.join(sorted(known))}")
        return dataclasses.replace(self, **options)  # type: ignore[type-var]


class PillowCodec(NativeCodec):
    """A format that Pillow reads and writes; subclasses say with which options."""

    pillow_format: str

    @abstractmethod
    def _options(self) -> dict[str, Any]:
        """Keyword arguments of ``PIL.Image.Image.save``."""

    def _write(self, image: torch.Tensor) -> bytes:
        buffer = io.BytesIO()
        try:
            to_pil(image).save(buffer, format=self.pillow_format, **self._options())
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            # KeyError: this build of Pillow lacks the format; the others: sizes that the format does not allow
            size = f"{image.shape[2]} x {image.shape[1]}"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CodecError(f"{self.name} cannot encode this {size} image ({reason})") from None
        return buffer.getvalue()

    def _read(self, data: bytes) -> torch.Tensor:
        try:
            with Image.open(io.BytesIO(data), formats=[self.pillow_format]) as file:
                file.load()
                return to_tensor(to_rgb(file))
        except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, ImageError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CodecError(f"not a {self.name} file, or a damaged one ({reason})") from None
        except Image.DecompressionBombError:
            raise CodecError(f"the {self.name} file announces more pixels than Pillow's limit") from None


@dataclass(frozen=True)
class Jpeg(PillowCodec):
    """JPEG, progressive with optimised Huffman tables.

    quality      1 (smallest) .. 100
    subsampling  "4:2:0" (as nearly every JPEG file and the published curves) or "4:4:4"
    """

    name = "jpeg"
    suffix = ".jpg"
    pillow_format = "JPEG"
    ranges = (("quality", 1, 100),)
    choices = (("subsampling", ("4:2:0", "4:4:4")),)
    quality: int = 75
    subsampling: str = "4:2:0"

    def _options(self) -> dict[str, Any]:
        return {"quality": self.quality, "subsampling": self.subsampling, "optimize": True, "progressive": True}


@dataclass(frozen=True)
class Jpeg2000(PillowCodec):
    """JPEG 2000 by OpenJPEG, as a bare codestream (a .jp2 wrapper is 85 bytes more).

    quality   aimed PSNR in dB (over the transformed components); used unless bpp or lossless is given
    bpp       aimed rate in bits per pixel
    lossless  the reversible transform, every pixel exact
    """

    name = "jpeg2000"
    suffix = ".j2k"
    pillow_format = "JPEG2000"
    ranges = (("quality", 1, 100), ("bpp", 0.001, 24))
    quality: float = 36.0
    bpp: float | None = None
    lossless: bool = False

    def _options(self) -> dict[str, Any]:
        # mct: decorrelate the colours; without it a Kodak photo takes 1.5 (lossless) to 2.3 times (40 dB) the bits
        common = {"no_jp2": True, "mct": 1}
        if self.lossless:
            return {**common, "irreversible": False}
        if self.bpp is not None:
            return {**common, "irreversible": True, "quality_mode": "rates", "quality_layers": [24 / self.bpp]}
        return {**common, "irreversible": True, "quality_mode": "dB", "quality_layers": [self.quality]}


@dataclass(frozen=True)
class WebP(PillowCodec):
    """WebP.  Lossy WebP is 4:2:0 by definition.

    quality   0 (smallest) .. 100; of lossless files: how hard to try
    effort    0 (fast) .. 6
    lossless  every pixel exact
    """

    name = "webp"
    suffix = ".webp"
    pillow_format = "WEBP"
    ranges = (("quality", 0, 100), ("effort", 0, 6))
    quality: int = 75
    effort: int = 6
    lossless: bool = False

    def _options(self) -> dict[str, Any]:
        return {"quality": self.quality, "method": self.effort, "lossless": self.lossless}


@dataclass(frozen=True)
class Avif(PillowCodec):
    """AVIF by libaom.  Pillow converts to YCbCr in 8 bits, so quality 100 is not lossless.

    quality      0 (smallest) .. 100
    subsampling  "4:4:4" or "4:2:0"
    speed        0 (slow, small) .. 10
    tune         what libaom optimises: "psnr", "ssim" or "iq".  "psnr" takes about 5 % fewer bits at equal PSNR than
                 libavif's own default "iq"
    """

    name = "avif"
    suffix = ".avif"
    pillow_format = "AVIF"
    ranges = (("quality", 0, 100), ("speed", 0, 10))
    choices = (("subsampling", ("4:2:0", "4:4:4")), ("tune", ("psnr", "ssim", "iq")))
    quality: int = 60
    subsampling: str = "4:4:4"
    speed: int = 4
    tune: str = "psnr"

    def _options(self) -> dict[str, Any]:
        return {"quality": self.quality, "subsampling": self.subsampling, "speed": self.speed, "codec": "aom",
                "advanced": {"tune": self.tune}}  # fmt: skip


@dataclass(frozen=True)
class JpegXl(PillowCodec):
    """JPEG XL by libjxl through pillow-jxl-plugin, as a bare codestream.

    quality   0 (smallest) .. 100
    effort    1 (fast) .. 9
    lossless  every pixel exact
    """

    name = "jxl"
    suffix = ".jxl"
    pillow_format = "JXL"
    ranges = (("quality", 0, 100), ("effort", 1, 9))
    quality: int = 75
    effort: int = 7
    lossless: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            import pillow_jxl  # noqa: F401
        except ImportError:
            raise CodecError("jxl needs the package pillow-jxl-plugin: pip install pillow-jxl-plugin") from None

    def _options(self) -> dict[str, Any]:
        return {"quality": self.quality, "effort": self.effort, "lossless": self.lossless}


@dataclass(frozen=True)
class Png(PillowCodec):
    """PNG with the slowest setting of zlib; always lossless.

    lossless  must stay true; there so that all lossless codecs are built the same way
    """

    name = "png"
    suffix = ".png"
    pillow_format = "PNG"
    lossless: bool = True

    def __post_init__(self) -> None:
        if not self.lossless:
            raise CodecError("png has no lossy mode")

    def _options(self) -> dict[str, Any]:
        return {"optimize": True}
