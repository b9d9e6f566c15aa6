"""Which codecs are measured at which rates: the words of the command line and the default grids.

A codec is written ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``.  ``model=FOLDER`` names its model, the options go to
its constructor or, as dtype, refiner or offload, to `load_model`.  Its rate points are values of one option of
``encode``, or numbers of segments of one file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..codecs import Codec, CodecError, codec_names
from ..codecs.registry import MODEL_CODECS, open_codec
from ..lightning_modules import find_model

Value = float | int | str
LOSSLESS = "lossless"
DEFAULT = "default"
LONGEST_SLUG = 200  # bytes


@dataclass(frozen=True)
class Grid:
    """How a codec's rate is set, and the points it is measured at unless told otherwise.

    option  "segments": prefixes of one file; else the option of `encode` that takes the value
    values  numbers, "all" (prefixes of one file: each, or of a long file at most 16), "lossless"
    """

    option: str
    values: tuple[Value, ...]


GRIDS: dict[str, Grid] = {
    "jpeg": Grid("quality", (5, 10, 20, 35, 50, 65, 80, 90, 95)),
    "jpeg2000": Grid("quality", (22, 24, 26, 28, 30, 32, 35, 38, 42, LOSSLESS)),
    "webp": Grid("quality", (0, 5, 15, 30, 50, 70, 80, 90, 95, LOSSLESS)),
    "avif": Grid("quality", (2, 10, 20, 30, 40, 50, 60, 70, 80)),
    "jxl": Grid("quality", (5, 15, 30, 45, 60, 75, 85, 90, 95, LOSSLESS)),
    "png": Grid("quality", (LOSSLESS,)),
    "vvc": Grid("quality", (46, 40, 34, 28, 22)),
    "hevc": Grid("quality", (51, 47, 42, 37, 32, 27, 22, 17)),
    "compressai": Grid("quality", (1, 2, 3, 4, 5, 6)),
    "diffc": Grid("bpp", ("all", LOSSLESS)),
    "uqdm": Grid("segments", ("all", LOSSLESS)),
    "bitsback": Grid("segments", (LOSSLESS,)),
}


@dataclass(frozen=True)
class CodecSpec:
    """One curve of the comparison.

    label    what it is called everywhere, e.g. "webp" or "avif:speed=6"
    name     registry name of the codec
    options  of its constructor and of load_model
    model    folder of its model, "" for codecs without one
    grid     its rate points
    """

    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    grid: Grid = field(default_factory=lambda: Grid("quality", ()))

    def build(self, device: str | torch.device | None = None) -> Codec:
        """The codec, with its model loaded on `device`.  Raises CodecError or ModelError in one sentence."""
        return open_codec(self.name, self.model or None, device, self.options)

    def identity(self) -> str:
        """Digest of everything that determines the results: options, rate points, contents of the model folders."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for model in filter(None, (self.model, self.options.get("refiner"))):
            folder = find_model(model, self.options.get("variant"), self.options.get("local_files_only", False))
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix != ".md":
                    with path.open("rb") as file:
                        digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return slug(self.label)


def slug(label: str) -> str:
    """`label` as a file name, which systems limit to 255 bytes."""
    name = "".join(c if c.isalnum() or c in "-_=." else "_" for c in label)
    if len(name.encode()) <= LONGEST_SLUG:
        return name
    return f"{name[: LONGEST_SLUG // 4]}-{hashlib.sha256(label.encode()).hexdigest()[:16]}"


def parse_specs(words: Sequence[str], points: Sequence[str] = ()) -> list[CodecSpec]:
    """The codecs of ``--codecs`` with the rate points of ``--points`` (``NAME-or-label:VALUE,VALUE``) or their grids.

    Raises CodecError for unknown names, options without a value, and points that name none of the codecs.
    """
    given = dict(_parse_points(word) for word in points)
    used: set[str] = set()
    specs = []
    for word in words:
        name, _, rest = word.partition(":")
        if name not in codec_names():
            raise CodecError(f"unknown codec {name!r}; available: {', '.join(codec_names())}")
        options = dict(_parse_option(word, part) for part in rest.split(",") if part)
        model = options.pop("model", None) or (MODEL_CODECS[name].default_model if name in MODEL_CODECS else "")
        grid = GRIDS.get(name, Grid("quality", ()))
        for key in (word, name):
            if key in given:
                grid = Grid(grid.option, given[key])
                used.add(key)
                break
        specs.append(CodecSpec(word, name, options, str(model), grid))
    unused = sorted(set(given) - used)
    if unused:
        raise CodecError(f"--points {unused[0]}: no such codec among {', '.join(words)}")
    labels = [spec.slug for spec in specs]
    if len(set(labels)) != len(labels):
        raise CodecError("two of the codecs have the same name and options")
    return specs


def point_name(option: str, value: Value) -> str:
    """``quality=30``, ``segments=4``, ``lossless``, or ``default`` for a codec without a grid."""
    return str(value) if value in (LOSSLESS, DEFAULT) else f"{option}={value}"


def _parse_points(word: str) -> tuple[str, tuple[Value, ...]]:
    label, _, values = word.rpartition(":")
    if not label or not values:
        raise CodecError(f"--points {word}: expected CODEC:VALUE,VALUE,...")
    parsed = tuple(_number(value) for value in values.split(","))
    for value in parsed:
        if isinstance(value, str) and value not in (LOSSLESS, "all"):
            raise CodecError(f"--points {word}: {value!r} is neither a number nor 'lossless' nor 'all'")
    return label, parsed


def _parse_option(word: str, part: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not key or not equals:
        raise CodecError(f"--codecs {word}: expected NAME:OPTION=VALUE, not {part!r}")
    return key, {"true": True, "false": False}.get(value.lower(), _number(value))


def _number(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
