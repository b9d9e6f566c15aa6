"""Figures that others have published, with their source; drawn as published, never as measured.

Read: CompressAI's JSON (a codec's ``results`` of bpp and metrics), YAML files of several codecs
(``name: {bpp: [...], psnr: [...], ...}``), and TSV of points image by image (per_image.py).  The first two are means
over a data set's images.  Which one a key ``dataset`` says, or a known name in the file's or its folder's name; beside
other images they mean nothing and are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..data import ImageError
from .per_image import MEAN, PerImage, read_published_points
from .results import METRICS

SUFFIXES = (".json", ".yml", ".yaml", ".tsv")
DATA_SETS = {"kodak": 24, "imagenet64": None, "clic20": None}  # known names; number of images where means are over all

_NAMES = {"psnr": "psnr-rgb", "ms-ssim": "ms-ssim-rgb"} | {name: name for name in METRICS}


def read_published(paths: Sequence[Path], data: str, images: Sequence[str]) -> tuple[list[PerImage], list[PerImage]]:
    """(points image by image, mean curves) of others on the data set `data` with these images.

    A folder's files of other data sets are left out.  Raises ImageError where a file, or all of a folder, is of others.
    """
    points: list[PerImage] = []
    curves: list[PerImage] = []
    for path in paths:
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
        found, refused = len(points) + len(curves), ""
        for file in files:
            try:
                if file.suffix == ".tsv":
                    points.append(_points_of(file, data, images))
                else:
                    curves += _means_of(file, data, len(images))
            except WrongData as error:
                refused = refused or str(error)
        if len(points) + len(curves) == found:
            raise ImageError(refused or f"{path}: no {', '.join(SUFFIXES)} files with published curves")
    return points, curves


class WrongData(ImageError):
    """Published figures of other images than those measured."""


def _points_of(path: Path, data: str, images: Sequence[str]) -> PerImage:
    one = read_published_points(path)
    if not set(one.curves) & set(images):
        raise WrongData(f"{path}: points of {one.data or 'other images'}, none of {data}")
    return one.of(images)


def _means_of(path: Path, data: str, images: int) -> list[PerImage]:
    curves = read_curves(path)
    for curve in curves:
        if curve.data != data:
            of = f"of {curve.data}" if curve.data else 'of a data set that it does not name (key "dataset")'
            raise WrongData(f"{path}: curves {of}, which cannot stand beside {data}")
        if images != (DATA_SETS.get(data) or images):
            raise WrongData(f"{path}: means over all {DATA_SETS[data]} images of {data}, not over {images}")
    return curves


def _data_set(path: Path, data: dict[str, Any]) -> str:
    if isinstance(data.get("dataset"), str):
        return str(data["dataset"])
    where = f"{path.resolve().parent.name} {path.name}".lower()
    return next((name for name in DATA_SETS if name in where), "")


def read_curves(path: Path) -> list[PerImage]:
    """The curves of a .json, .yml or .yaml file.  Raises ImageError in one sentence."""
    try:
        text = path.read_text()
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError):
        raise ImageError(f"{path}: neither JSON nor YAML") from None
    if not isinstance(data, dict):
        raise ImageError(f"{path}: holds no curves")
    if "results" in data:
        source = f"{path.name}: {data.get('description', '')}".rstrip(": ")
        named = {data.get("name", path.stem): data["results"]}
    else:
        source, named = path.name, {name: results for name, results in data.items() if name != "dataset"}
    columns = {str(name): _columns(path, str(name), results) for name, results in named.items()}
    where = _data_set(path, data)
    return [PerImage(f"{name} (published)", where, "", {MEAN: one}, published=source) for name, one in columns.items()]


def _columns(path: Path, name: str, results: Any) -> dict[str, list[float | None]]:
    """By rate: "bpp" and each known metric, None where it is not finite; raises ImageError."""
    if not isinstance(results, dict) or not isinstance(results.get("bpp"), list):
        raise ImageError(f"{path}: {name} has no list of bpp")
    order = sorted(range(len(results["bpp"])), key=lambda k: float(results["bpp"][k]))
    found: dict[str, list[float | None]] = {"bpp": [float(results["bpp"][k]) for k in order]}
    for key, column in results.items():
        if key in _NAMES and isinstance(column, list) and len(column) == len(order):
            values = [float(column[k]) for k in order]
            found[_NAMES[key]] = [value if math.isfinite(value) else None for value in values]
    return found
