"""VVC and HEVC, for comparison: one picture through the ffmpeg program that PyPI's imageio-ffmpeg installs.

Colours: BT.709, limited range, 10 bits a sample, converted here in float64 and not by ffmpeg, which is told nothing
about colours: where it is, it converts on its own, and no quality gets beyond 35 dB.  VVC is 4:2:0, the only format
libvvenc codes: chroma is the mean of 2 x 2 pixels, and interpolated linearly back.  HEVC is 4:4:4.  A raw bitstream
knows only the size that was coded, so a file is the true height and width, two bytes each, then the bitstream.

>>> stream = get_codec("vvc", quality=32).encode(image)
"""

from __future__ import annotations

import subprocess
import tempfile
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from diffpress.data.tiling import crop, pad_to_multiple

from ..base import CodecError
from .pillow import NativeCodec

KR, KB = 0.2126, 0.0722  # luma weights of red and blue, ITU-R BT.709
TIMEOUT_S = 3600.0
ONE_THREAD = ("-threads", "1")  # of the encoder: the same file, less processor time, and seconds that mean something


@cache
def ffmpeg() -> str:
    """Path of the program.  Raises CodecError where the package is not installed."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise CodecError("vvc and hevc need the package imageio-ffmpeg: pip install 'diffpress[compare]'") from None
    return imageio_ffmpeg.get_ffmpeg_exe()


class FFmpegCodec(NativeCodec):
    """One intra picture; subclasses name the encoder's arguments.

    bitstream  ffmpeg's name of the raw format
    halved     whether chroma is 4:2:0
    """

    bitstream: str
    halved: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        ffmpeg()

    @abstractmethod
    def _encoder(self) -> list[str]:
        """Arguments of ffmpeg that choose and set the encoder."""

    def _write(self, image: torch.Tensor) -> bytes:
        height, width = image.shape[1:]
        if max(height, width) > 0xFFFF:
            raise CodecError(f"{self.name} cannot encode images of more than 65535 pixels a side")
        padded = pad_to_multiple(image, _multiple(height, width))
        raw = ["-f", "rawvideo", "-pix_fmt", self._samples(), "-s", f"{padded.shape[2]}x{padded.shape[1]}", "-r", "1"]
        command = [*raw, "-i", "pipe:0", "-frames:v", "1", *self._encoder(), "-f", self.bitstream]
        coded = self._run(command, to_yuv(padded, self.halved))
        return height.to_bytes(2, "little") + width.to_bytes(2, "little") + coded

    def _read(self, data: bytes) -> torch.Tensor:
        if len(data) < 4:
            raise CodecError(f"not a {self.name} file, or a damaged one (no size)")
        size = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
        raw = ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", self._samples()]
        planes = self._run(["-f", self.bitstream, "-i", "pipe:0", *raw], data[4:])
        multiple = _multiple(*size)
        coded = (size[0] + -size[0] % multiple, size[1] + -size[1] % multiple)
        if not all(size) or len(planes) != coded[0] * coded[1] * (3 if self.halved else 6):
            raise CodecError(f"not a {self.name} file, or a damaged one (wrong picture size)")
        return crop(from_yuv(planes, coded, self.halved), size).contiguous()

    def _samples(self) -> str:
        return "yuv420p10le" if self.halved else "yuv444p10le"

    def _run(self, arguments: list[str], data: bytes) -> bytes:
        """The file that ffmpeg writes when `data` is its input; raises CodecError with the last line it said."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"  # not a pipe: libvvenc writes its remarks to the standard output
            command = [ffmpeg(), "-hide_banner", "-loglevel", "error", "-xerror", *arguments, *ONE_THREAD, str(out)]
            try:
                done = subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT_S, check=False)
            except subprocess.TimeoutExpired:
                raise CodecError(f"{self.name} took longer than {TIMEOUT_S:.0f} seconds") from None
            if done.returncode or not out.is_file():
                said = done.stderr.decode(errors="replace").strip().splitlines()
                raise CodecError(f"{self.name}: ffmpeg failed ({said[-1].strip() if said else 'it wrote nothing'})")
            return out.read_bytes()


@dataclass(frozen=True)
class Vvc(FFmpegCodec):
    """VVC (H.266) by libvvenc, 4:2:0, fixed quantiser, perceptual optimisation off.

    quality  quantiser QP, 0 (best) .. 63
    preset   of libvvenc: faster, fast, medium, slow, slower
    """

    name = "vvc"
    suffix = ".vvc"
    bitstream = "vvc"
    halved = True
    ranges = (("quality", 0, 63),)
    choices = (("preset", ("faster", "fast", "medium", "slow", "slower")),)
    quality: int = 32
    preset: str = "slower"

    def _encoder(self) -> list[str]:
        return ["-c:v", "libvvenc", "-preset", self.preset, "-qp", str(self.quality), "-qpa", "0"]


@dataclass(frozen=True)
class Hevc(FFmpegCodec):
    """HEVC (H.265) by libx265, 4:4:4, fixed quantiser, tuned for PSNR.

    quality  quantiser QP, 0 (best) .. 51
    preset   of libx265: ultrafast, fast, medium, slow, slower, veryslow, placebo
    """

    name = "hevc"
    suffix = ".hevc"
    bitstream = "hevc"
    halved = False
    ranges = (("quality", 0, 51),)
    choices = (("preset", ("ultrafast", "fast", "medium", "slow", "slower", "veryslow", "placebo")),)
    quality: int = 32
    preset: str = "veryslow"

    def _encoder(self) -> list[str]:
        # info=0: libx265 otherwise writes its own settings into the file, two kilobytes of text
        settings = f"qp={self.quality}:keyint=1:info=0:log-level=error"
        return ["-c:v", "libx265", "-preset", self.preset, "-tune", "psnr", "-x265-params", settings]


def _multiple(height: int, width: int) -> int:
    """What the sides of the coded picture are multiples of, the image's edge repeated: both encoders' smallest unit is
    8 pixels, and their smallest side 16."""
    return 8 if min(height, width) > 8 else 16


def to_yuv(image: torch.Tensor, halved: bool) -> bytes:
    """Planes Y, Cb, Cr of a uint8 RGB image [3, H, W]: 10-bit samples as 16-bit little-endian, Y in 64..940.

    halved  4:2:0, for even sides; else 4:4:4
    """
    r, g, b = image.double() / 255
    y = KR * r + (1 - KR - KB) * g + KB * b
    chroma = torch.stack([(b - y) / (2 * (1 - KB)), (r - y) / (2 * (1 - KR))])
    if halved:
        chroma = torch.nn.functional.avg_pool2d(chroma[None], 2)[0]
    planes = [64 + 876 * y, 512 + 896 * chroma[0], 512 + 896 * chroma[1]]
    return b"".join(plane.round().clamp(0, 1023).numpy().astype("<u2").tobytes() for plane in planes)


def from_yuv(data: bytes, size: tuple[int, int], halved: bool) -> torch.Tensor:
    """uint8 RGB [3, H, W] of :func:`to_yuv`'s bytes; halved chroma is interpolated linearly."""
    height, width = size
    samples = torch.from_numpy(np.frombuffer(data, dtype="<u2").astype(np.float64))
    luma, rest = samples[: height * width].view(height, width), samples[height * width :]
    chroma = (rest.view(1, 2, *((height // 2, width // 2) if halved else size)) - 512) / 896
    cb, cr = torch.nn.functional.interpolate(chroma, size, mode="bilinear", align_corners=False)[0]
    y = (luma - 64) / 876
    r, b = y + 2 * (1 - KR) * cr, y + 2 * (1 - KB) * cb
    g = (y - KR * r - KB * b) / (1 - KR - KB)
    return (torch.stack([r, g, b]) * 255).round().clamp(0, 255).to(torch.uint8)
