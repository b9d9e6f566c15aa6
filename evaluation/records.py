"""What was measured, and its place on disk: one record for each codec and image, ``records/CODEC/IMAGE.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..codecs import CodecError
from ..data import ImageError, write_file
from ..kernels import KernelError
from ..lightning_modules import ModelError

USER_ERRORS = (CodecError, ImageError, ModelError, KernelError, OSError)  # their messages are sentences for users
BOUND = "autoencoder alone"  # name of the point that no rate of a latent model exceeds


@dataclass
class Measurement:
    """One point of one image.

    file          path of the compressed file below the output folder, "" for hypothetical points
    num_bytes     its size on disk; hypothetical points: the bits that would be needed / 8
    scores        quality by CompressAI's names ("psnr-rgb", "ssim-rgb", "ms-ssim-rgb", ...); None where undefined
    encode_s      seconds from pixels to the file's bytes; for prefixes of one file, of the whole file
    decode_s      seconds from the file's bytes to pixels
    encode_mib, decode_mib  MiB of memory that encoding and decoding took at their peak beyond what was in use before,
                  on a GPU or of the process; decoding of prefixes in one pass: of the whole file.  None: not known
    peak_mib      MiB at the higher peak: resident memory of the whole process, libraries included, or on a GPU
    first_bytes   bytes of the file from which its first picture decodes; of files with one segment all of them
    hypothetical  no such file exists: ideal coder, entropy estimate, bound of an autoencoder
    error         why there is no result, one sentence; every other field is then empty
    """

    point: str
    file: str = ""
    num_bytes: float = 0
    bpp: float = 0.0
    scores: dict[str, float | None] = field(default_factory=dict)
    encode_s: float = 0.0
    decode_s: float = 0.0
    encode_mib: float | None = None
    decode_mib: float | None = None
    peak_mib: float | None = None
    first_bytes: int = 0
    segments: int = 1
    lossless: bool = False
    hypothetical: bool = False
    error: str = ""


@dataclass
class Record:
    """All points of one codec on one image.

    progress  the first segments of one file, for the report's slider; only of images that are pictured there
    identity  digest of codec, options, points and model; pixels: of the image
    load      the machine's load average when the measurement began: above 0, seconds were taken beside other work
    versions  of everything that codes, and the machine, when this was measured (provenance.py)
    """

    codec: str
    image: str
    height: int
    width: int
    identity: str = ""
    pixels: str = ""
    fingerprint: str = ""
    points: list[Measurement] = field(default_factory=list)
    progress: list[Measurement] = field(default_factory=list)
    load: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)


def write_record(record: Record, path: Path) -> None:
    """Write `record` as JSON, whole or not at all."""
    write_file(path, json.dumps(asdict(record), indent=1).encode())


def read_record(path: Path) -> Record | None:
    """The record that :func:`write_record` wrote to `path`; None where there is none, or its files are gone."""
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        lists = {key: [Measurement(**point) for point in data[key]] for key in ("points", "progress")}
        record = Record(**{**data, **lists})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    out = path.parents[2]
    files = [(out / point.file, point.num_bytes) for point in record.points if point.file]
    return record if all(file.is_file() and file.stat().st_size == size for file, size in files) else None


def sentence(error: Exception) -> str:
    """What went wrong, on one line; errors that are not meant for users keep their name."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if text and isinstance(error, USER_ERRORS) else f"{name}: {text}" if text else name
