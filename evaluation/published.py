"""Figures that others have published, with their source; drawn as published, never as measured.

Read: CompressAI's JSON (a codec's ``results`` of bpp and metrics; ours says ``"hypothetical": true`` where no such
files exist), and YAML files of several codecs (``name: {bpp: [...], psnr: [...], ...}``).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from ..data import ImageError
from .results import TITLES, Curve, Point

_NAMES = {"psnr": "psnr-rgb", "ms-ssim": "ms-ssim-rgb"} | {name: name for name in TITLES}


def read_curves(path: Path) -> list[Curve]:
    """The curves of a file, or of every .json, .yml and .yaml in a folder.  Raises ImageError in one sentence."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".json", ".yml", ".yaml"))
        if not files:
            raise ImageError(f"{path}: no .json or .yml files with published curves")
        return [curve for file in files for curve in read_curves(file)]
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
        hypothetical = bool(data.get("hypothetical", False))
        return [_curve(path, str(data.get("name", path.stem)), data["results"], source, hypothetical)]
    return [_curve(path, str(name), results, path.name) for name, results in data.items()]


def _curve(path: Path, name: str, results: Any, source: str, hypothetical: bool = False) -> Curve:
    if not isinstance(results, dict) or not isinstance(results.get("bpp"), list):
        raise ImageError(f"{path}: {name} has no list of bpp")
    points = []
    for index, bpp in enumerate(results["bpp"]):
        values = {"bpp": float(bpp)}
        for key, column in results.items():
            if key in _NAMES and isinstance(column, list) and len(column) == len(results["bpp"]):
                value = float(column[index])
                if math.isfinite(value):
                    values[_NAMES[key]] = value
        points.append(Point(f"published {index + 1}", 1, 1, values, hypothetical=hypothetical))
    return Curve(f"{name} (published)", points, published=source)
