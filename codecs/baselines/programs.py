"""Codecs that are programs outside Python: AVIF by avifenc, BPG by bpgenc and bpgdec, VVC by vvencapp and vvdecapp,
and the reference software of HEVC (HM) and VVC (VTM).

They write the programs' own files and are there for comparison.  Each is registered everywhere and says in one
sentence, when it is built, which program is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffpress.data.images import ImageError, read_image, save_image
from diffpress.data.tiling import crop, pad_to_multiple

from ..base import CodecError
from .pillow import NativeCodec, check_choice, check_range

TIMEOUT_S = 3600.0


class ProgramCodec(NativeCodec):
    """A codec that runs programs on files in a temporary folder."""

    programs: tuple[str, ...]

    def __post_init__(self) -> None:
        for program in self.programs:
            if shutil.which(program) is None:
                raise CodecError(f"{self.name} needs the program {program}, which is not on the PATH")

    def _run(self, *command: str | Path) -> None:
        """Run a program; raises CodecError with the last line it said."""
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise CodecError(f"{command[0]} took longer than {TIMEOUT_S:.0f} seconds") from None
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise CodecError(f"{command[0]} failed: {said[-1].strip() if said else f'status {done.returncode}'}")


@dataclass(frozen=True)
class AvifEnc(ProgramCodec):
    """AVIF by libavif's avifenc and avifdec; unlike Pillow's encoder it can be lossless.

    quality   0 (smallest) .. 100, mapped to libaom's quantisers 63 .. 0
    speed     0 (slow, small) .. 10
    lossless  every pixel exact: RGB planes without a colour transform
    """

    name = "avifenc"
    suffix = ".avif"
    programs = ("avifenc", "avifdec")
    quality: int = 60
    speed: int = 4
    lossless: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("avifenc", "quality", self.quality, 0, 100)
        check_range("avifenc", "speed", self.speed, 0, 10)

    def _write(self, image: torch.Tensor) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.png", Path(folder) / "out.avif"
            save_image(image, source)
            quantiser = str(round(63 * (100 - self.quality) / 100))  # --min/--max are in every version, -q is not
            how = ["--lossless"] if self.lossless else ["--yuv", "444", "--min", quantiser, "--max", quantiser]
            self._run("avifenc", "--speed", str(self.speed), *how, source, target)
            return target.read_bytes()

    def _read(self, data: bytes) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.avif", Path(folder) / "out.png"
            source.write_bytes(data)
            self._run("avifdec", source, target)
            return _read_png(target)


@dataclass(frozen=True)
class Bpg(ProgramCodec):
    """BPG (HEVC intra) by libbpg.

    quality      quantiser, 0 (best) .. 51
    subsampling  "4:4:4" or "4:2:0"
    lossless     every pixel exact
    """

    name = "bpg"
    suffix = ".bpg"
    programs = ("bpgenc", "bpgdec")
    quality: int = 29
    subsampling: str = "4:4:4"
    lossless: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("bpg", "quality", self.quality, 0, 51)
        check_choice("bpg", "subsampling", self.subsampling, ("4:4:4", "4:2:0"))

    def _write(self, image: torch.Tensor) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.png", Path(folder) / "out.bpg"
            save_image(image, source)
            colours = ["-c", "rgb", "-lossless"] if self.lossless else ["-c", "ycbcr", "-q", str(self.quality)]
            self._run("bpgenc", *colours, "-f", self.subsampling.replace(":", ""), "-o", target, source)
            return target.read_bytes()

    def _read(self, data: bytes) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.bpg", Path(folder) / "out.png"
            source.write_bytes(data)
            self._run("bpgdec", "-o", target, source)
            return _read_png(target)


@dataclass(frozen=True)
class Vvc(ProgramCodec):
    """VVC intra by Fraunhofer's vvencapp and vvdecapp, BT.709 in 10 bits, 4:2:0 (the only format vvenc codes).

    The bitstream knows the size of the coded picture, whose sides are even; ours adds the true size in 4 bytes.

    quality  quantiser, 0 (best) .. 63
    preset   of vvencapp: faster, fast, medium, slow, slower
    """

    name = "vvc"
    suffix = ".vvc"
    programs = ("vvencapp", "vvdecapp")
    quality: int = 32
    preset: str = "slower"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("vvc", "quality", self.quality, 0, 63)
        check_choice("vvc", "preset", self.preset, ("faster", "fast", "medium", "slow", "slower"))

    def _write(self, image: torch.Tensor) -> bytes:
        height, width = image.shape[1:]
        if max(height, width) > 0xFFFF:
            raise CodecError("vvc cannot encode images of more than 65535 pixels a side")
        padded = pad_to_multiple(image, 2)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.yuv", Path(folder) / "out.266"
            source.write_bytes(to_yuv(padded, halved=True))
            size = f"{padded.shape[2]}x{padded.shape[1]}"
            self._run(
                *("vvencapp", "--input", source, "--size", size, "--format", "yuv420_10", "--framerate", "1"),
                *("--frames", "1", "--qp", str(self.quality), "--qpa", "0", "--preset", self.preset),
                *("--internal-bitdepth", "10", "--output", target),
            )
            return _size_bytes(height, width) + target.read_bytes()

    def _read(self, data: bytes) -> torch.Tensor:
        height, width = _read_size(self.name, data)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.266", Path(folder) / "out.yuv"
            source.write_bytes(data[4:])
            self._run("vvdecapp", "-b", source, "-o", target)
            planes = target.read_bytes()
        even = (height + height % 2, width + width % 2)
        if len(planes) != 3 * even[0] * even[1]:
            raise CodecError("not a vvc file, or a damaged one (wrong picture size)")
        return crop(from_yuv(planes, even, halved=True), (height, width)).contiguous()


class ReferenceSoftware(ProgramCodec):
    """Intra coding by a standard's reference software, BT.709 in 10 bits, 4:4:4; ours adds the size in 4 bytes.

    quality  quantiser, 0 (best) .. `coarsest`
    config   the software's intra configuration; None: the one in the cfg/ folder beside the program's own folder
    """

    default_config: str
    coarsest: int
    quality: int
    config: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.name, "quality", self.quality, 0, self.coarsest)

    def _config(self) -> Path:
        if self.config is not None:
            path = Path(self.config)
        else:
            program = Path(shutil.which(self.programs[0]) or "").resolve()
            path = program.parent.parent / "cfg" / self.default_config
        if not path.is_file():
            raise CodecError(f"{self.name} needs its configuration, and there is no {path}")
        return path

    def _write(self, image: torch.Tensor) -> bytes:
        height, width = image.shape[1:]
        if max(height, width) > 0xFFFF:
            raise CodecError(f"{self.name} cannot encode images of more than 65535 pixels a side")
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.yuv", Path(folder) / "out.bin"
            source.write_bytes(to_yuv(image, halved=False))
            self._run(
                *(self.programs[0], "-c", self._config(), "-i", source, "-b", target, "-o", Path(folder) / "rec.yuv"),
                *("-wdt", str(width), "-hgt", str(height), "-f", "1", "-fr", "1", "-q", str(self.quality)),
                *("--InputChromaFormat=444", "--ChromaFormatIDC=444", "--ConformanceWindowMode=1"),
                *("--InputBitDepth=10", "--InternalBitDepth=10", "--OutputBitDepth=10"),
            )
            return _size_bytes(height, width) + target.read_bytes()

    def _read(self, data: bytes) -> torch.Tensor:
        size = _read_size(self.name, data)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.bin", Path(folder) / "out.yuv"
            source.write_bytes(data[4:])
            self._run(self.programs[1], "-b", source, "-o", target, "-d", "10")
            planes = target.read_bytes()
        if len(planes) != 6 * size[0] * size[1]:
            raise CodecError(f"not a file of {self.name}, or a damaged one (wrong picture size)")
        return from_yuv(planes, size, halved=False)


@dataclass(frozen=True)
class Hm(ReferenceSoftware):
    """HEVC by the HM software (range extensions, for 4:4:4)."""

    name = "hm"
    suffix = ".hm"
    programs = ("TAppEncoderStatic", "TAppDecoderStatic")
    default_config = "encoder_intra_main_rext.cfg"
    coarsest = 51
    quality: int = 32
    config: str | None = None


@dataclass(frozen=True)
class Vtm(ReferenceSoftware):
    """VVC by the VTM software."""

    name = "vtm"
    suffix = ".vtm"
    programs = ("EncoderAppStatic", "DecoderAppStatic")
    default_config = "encoder_intra_vtm.cfg"
    coarsest = 63
    quality: int = 32
    config: str | None = None


def _size_bytes(height: int, width: int) -> bytes:
    return height.to_bytes(2, "little") + width.to_bytes(2, "little")


def _read_size(name: str, data: bytes) -> tuple[int, int]:
    if len(data) < 4:
        raise CodecError(f"not a file of {name}, or a damaged one (no size)")
    return int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")


# BT.709, full colour to limited range in 10 bits: Y in 64..940, Cb and Cr in 64..960
_KR, _KB = 0.2126, 0.0722


def to_yuv(image: torch.Tensor, halved: bool) -> bytes:
    """Planar 10-bit samples (16-bit little-endian) of a uint8 RGB image [3, H, W].

    halved  4:2:0, for even sides; else 4:4:4
    """
    r, g, b = image.double() / 255
    y = _KR * r + (1 - _KR - _KB) * g + _KB * b
    cb, cr = (b - y) / (2 * (1 - _KB)), (r - y) / (2 * (1 - _KR))
    chroma = torch.stack([cb, cr])
    if halved:
        chroma = torch.nn.functional.avg_pool2d(chroma[None], 2)[0]
    planes = [64 + 876 * y, 512 + 896 * chroma[0], 512 + 896 * chroma[1]]
    return b"".join(plane.round().clamp(0, 1023).numpy().astype("<u2").tobytes() for plane in planes)


def from_yuv(data: bytes, size: tuple[int, int], halved: bool) -> torch.Tensor:
    """uint8 RGB [3, H, W] of :func:`to_yuv`'s bytes; halved chroma is upsampled linearly."""
    height, width = size
    samples = torch.from_numpy(np.frombuffer(data, dtype="<u2").astype(np.float64))
    luma, rest = samples[: height * width].view(height, width), samples[height * width :]
    chroma = (rest.view(1, 2, *((height // 2, width // 2) if halved else size)) - 512) / 896
    cb, cr = torch.nn.functional.interpolate(chroma, size, mode="bilinear", align_corners=False)[0]
    y = (luma - 64) / 876
    r, b = y + 2 * (1 - _KR) * cr, y + 2 * (1 - _KB) * cb
    g = (y - _KR * r - _KB * b) / (1 - _KR - _KB)
    return (torch.stack([r, g, b]) * 255).round().clamp(0, 255).to(torch.uint8)


def _read_png(path: Path) -> torch.Tensor:
    try:
        return read_image(path)
    except ImageError as error:
        raise CodecError(str(error)) from None
