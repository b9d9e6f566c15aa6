"""The report: one HTML file that needs nothing else, no network included.

The page is page.html, page.css and page.js with the data as JSON, the pictures as data URLs and plotly.js from
the plotly package put in.  What the figures are is decided in results.py; here they are only laid out.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from ...data import write_file
from ..compare import Comparison
from ..per_image import MEAN, PerImage, mean_curve, pairs_of_deltas
from ..points import CodecSpec
from ..records import BOUND, Measurement, Record
from ..results import METRICS, Point, metrics_of
from ..tables import MEAN_CURVES, SECONDS
from .colours import colours

PICTURE_RATES = (0.1, 0.25, 0.5, 1.0, 2.0)  # bpp near which a codec's picture is embedded; all would be too many bytes
_BROWSER_TYPES = {".jpg": "image/jpeg", ".webp": "image/webp", ".avif": "image/avif", ".png": "image/png"}


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the HTML report of `comparison` to `path`."""
    title = f"{comparison.data}, {comparison.images} image" + "s" * (comparison.images != 1)
    page = _asset("page.html")
    parts = {
        "__TITLE__": html.escape(title),
        "__SECONDS__": html.escape(SECONDS),
        "__CSS__": _asset("page.css"),
        "__PLOTLY__": get_plotlyjs().replace("</script", "<\\/script"),
        "__DATA__": json.dumps(_data(comparison), allow_nan=False).replace("</", "<\\/"),
        "__JS__": _asset("page.js"),
    }
    for name, text in parts.items():
        page = page.replace(name, text)
    write_file(path, page.encode())


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()


def _data(comparison: Comparison) -> dict[str, Any]:
    metrics = metrics_of(comparison.curves)
    prints = {curve.codec: curve.fingerprint for curve in comparison.curves}
    means = [mean for mean in map(mean_curve, comparison.per_image) if mean is not None]
    others = [*(mean for mean in means if mean.published), *comparison.published]
    colour = dict(zip(names := [*prints, *(one.codec for one in others)], colours(names), strict=True))
    curves: list[dict[str, Any]] = [
        {"codec": curve.codec, "published": "", "fingerprint": curve.fingerprint, "mean_of_others": False,
         "points": [vars(point) for point in curve.points]} for curve in comparison.curves
    ]  # fmt: skip
    curves += [_of_others(one, one in comparison.published) for one in others]
    return {
        "command": comparison.command, "versions": comparison.versions, "machine": comparison.machine,
        "notes": comparison.notes + comparison.failures, "anchor": comparison.anchor, "bound": BOUND,
        "metrics": {name: METRICS[name]._asdict() for name in metrics},
        "curves": [
            one | dict(zip(("colour", "colour_dark"), colour[one["codec"]], strict=True)) for one in curves
        ],
        "summary": [asdict(line) | {"fingerprint": prints.get(line.codec, "")} for line in comparison.summary()],
        "bd": {metric: _deltas(comparison.per_image, metric) for metric in metrics},
        "mean_bd": {metric: _deltas([*means, *comparison.published], metric) for metric in metrics}
        if comparison.published else {},
        "mean_note": MEAN_CURVES,
        "pictures": _pictures(comparison),
    }  # fmt: skip


def _of_others(one: PerImage, mean_of_others: bool) -> dict[str, Any]:
    """A mean curve of published figures, its points in the form of results.Point."""
    columns = one.curves[MEAN]
    values = [{key: value for key, column in columns.items() if (value := column[k]) is not None}
              for k in range(len(columns["bpp"]))]  # fmt: skip
    return {"codec": one.codec, "published": one.published, "fingerprint": "", "mean_of_others": mean_of_others,
            "points": [vars(Point(f"published {k}", 1, 1, at)) for k, at in enumerate(values, 1)]}  # fmt: skip


def _deltas(curves: Sequence[PerImage], metric: str) -> dict[str, dict[str, Any]]:
    """[anchor][codec] -> Delta of every pair of curves."""
    found = pairs_of_deltas(curves, metric)
    return {anchor: {codec: vars(delta) for codec, delta in row.items()} for anchor, row in found.items()}


def _pictures(comparison: Comparison) -> list[dict[str, Any]]:
    """The embedded pictures, per image: the original, each codec near PICTURE_RATES, steps of progressive files."""
    folder = comparison.out / "pictures"
    chosen: list[dict[str, Any]] = []
    for name in comparison.pictured:
        records = [r for r in comparison.records if r.image == name]
        original = folder / "original" / f"{name}.webp"
        if not records or not original.is_file():
            continue
        chosen.append({"image": name, "codec": "original", "point": "", "bpp": 0, "psnr": None, "progress": False,
                       "src": _data_url(original)})  # fmt: skip
        for record in records:
            spec = next(spec for spec in comparison.specs if spec.label == record.codec)
            lossy = [p for p in record.points if not p.error and not p.hypothetical and not p.lossless]
            picked = _near(lossy, PICTURE_RATES)
            progress = record.progress or (lossy if spec.grid.option == "segments" else [])
            for point, is_step in [(p, False) for p in picked] + [(p, True) for p in progress]:
                source = _source(comparison.out, spec, record, point)
                if source is not None:
                    chosen.append({"image": name, "codec": record.codec, "point": point.point, "bpp": point.bpp,
                                   "psnr": point.scores.get("psnr-rgb"), "progress": is_step,
                                   "src": _data_url(source)})  # fmt: skip
    return chosen


def _near(points: list[Measurement], rates: tuple[float, ...]) -> list[Measurement]:
    """For each rate the point closest to it (by ratio), each once, by rate."""
    picked = {min(points, key=lambda p: max(p.bpp / rate, rate / max(p.bpp, 1e-9))).point for rate in rates if points}
    return sorted((p for p in points if p.point in picked), key=lambda p: p.bpp)


def _source(out: Path, spec: CodecSpec, record: Record, point: Measurement) -> Path | None:
    """The compressed file itself where browsers display it, else the picture kept of the decoded image."""
    file = out / point.file
    if point.file and file.suffix in _BROWSER_TYPES and file.is_file():
        return file
    picture = out / "pictures" / spec.slug / f"{record.image}-{point.point}.webp"
    return picture if picture.is_file() else None


def _data_url(path: Path) -> str:
    return f"data:{_BROWSER_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
