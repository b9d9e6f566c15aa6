"""A codec's points on each image, and their averages: each image's own curve is interpolated first, then averaged.

That gives 0.3 to 0.5 dB more than interpolating the curve of the mean points (Kodak, at 0.25 bpp), so the two are never
compared; mean curves are in results.py.  Kept as JSON, one image a line:

    {"codec": "avif", "data": "kodak", "command": "python evaluate.py ...", "images": [
     {"image": "kodim01", "bpp": [0.06, ...], "psnr-rgb": [22.9, ...], "ms-ssim-rgb": [...], "lossless_bpp": 9.1}, ...]}
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..data import ImageError, write_file
from .bd import bd_quality, bd_rate, overlap
from .metrics import bits_per_dimension
from .records import BOUND, Measurement, Record
from .results import METRICS

Columns = Mapping[str, Sequence[float | None]]  # "bpp" and metrics, one entry for each point, by rate
MEAN = "mean"  # what stands for the image in a mean curve
EQUAL = 1.1  # largest ratio of rates that are taken for the same one
OVERSHOOT = 1.01  # a file made for a rate is up to 1 % smaller, and counts as being of that rate


@dataclass(frozen=True)
class PerImage:
    """One codec on one data set.

    curves     by image: "bpp" and each metric's values, ordered by rate; empty where an image has no lossy point
    lossless   by image the bits per pixel of its lossless file
    published  source of figures that were not measured here, else ""
    """

    codec: str
    data: str
    command: str
    curves: Mapping[str, Columns]
    lossless: Mapping[str, float] = field(default_factory=dict)
    published: str = ""

    def of(self, images: Collection[str]) -> PerImage:
        """The same of these images alone; a missing one has no points, and counts where it is said of how many."""
        curves = {image: self.curves.get(image, {}) for image in images}
        return replace(self, curves=curves, lossless={k: v for k, v in self.lossless.items() if k in images})

    def metrics(self) -> list[str]:
        """Quality metrics that some image has."""
        return list(dict.fromkeys(key for columns in self.curves.values() for key in columns if key != "bpp"))

    def series(self, image: str, metric: str) -> tuple[list[float], list[float]]:
        """(bpp, metric) of an image's points that have both."""
        columns = self.curves.get(image, {})
        pairs = zip(columns["bpp"], columns[metric], strict=True) if metric in columns else ()
        both = [(rate, value) for rate, value in pairs if rate is not None and value is not None]
        return [rate for rate, _ in both], [value for _, value in both]


@dataclass(frozen=True)
class Mean:
    """A mean over images, and how many of the codec's images it is over."""

    value: float
    images: int
    of: int


def of_records(records: Iterable[Record], data: str, command: str) -> list[PerImage]:
    """What was measured, codec by codec; points for which no file exists as a codec "NAME (hypothetical)"."""
    found: dict[tuple[str, bool], dict[str, list[Measurement]]] = {}
    for record in records:
        for hypothetical in (False, True):
            points = [p for p in record.points if not p.error and p.point != BOUND and p.hypothetical == hypothetical]
            found.setdefault((record.codec, hypothetical), {})[record.image] = points
    result = []
    for (codec, hypothetical), images in found.items():
        lossless = {image: p.bpp for image, points in images.items() for p in points if p.lossless}
        curves = {image: _columns(points) for image, points in images.items()}
        if not hypothetical or any(images.values()):
            result.append(PerImage(codec + " (hypothetical)" * hypothetical, data, command, curves, lossless))
    return result


def _columns(points: Sequence[Measurement]) -> Columns:
    """Lossy points by rate; exact copies, whose PSNR is infinite, are no points of a curve."""
    lossy = sorted((p for p in points if not p.lossless and p.scores.get("psnr-rgb") is not None), key=lambda p: p.bpp)
    metrics = dict.fromkeys(name for p in lossy for name in p.scores)
    return {"bpp": [p.bpp for p in lossy]} | {name: [p.scores.get(name) for p in lossy] for name in metrics}


def write_per_image(one: PerImage, path: Path) -> None:
    """Write `one` in the form above, values to five digits behind the point."""
    head = {"codec": one.codec, "data": one.data, "command": one.command}
    rows = []
    for image, columns in one.curves.items():
        row: dict[str, Any] = {"image": image}
        row |= {key: [None if v is None else round(v, 5) for v in values] for key, values in columns.items()}
        if image in one.lossless:
            row["lossless_bpp"] = round(one.lossless[image], 5)
        rows.append(json.dumps(row))
    text = json.dumps(head)[:-1] + ', "images": [\n ' + ",\n ".join(rows) + "\n]}\n"
    write_file(path, text.encode())


def write_rows(curves: Sequence[PerImage], path: Path) -> None:
    """Every point of every image as a TSV table: codec, image, bpp, the metrics; lossless files have bpp alone."""
    metrics = [name for name in METRICS if any(name in one.metrics() for one in curves)]
    lines = [["codec", "image", "bpp", *metrics]]
    for one in curves:
        for image, columns in one.curves.items():
            for k, rate in enumerate(columns.get("bpp", ())):
                values = [rate, *(columns[name][k] if name in columns else None for name in metrics)]
                lines.append([one.codec, image, *("" if v is None else f"{v:.5f}" for v in values)])
            if image in one.lossless:
                lines.append([one.codec, image, f"{one.lossless[image]:.5f}", *[""] * len(metrics)])
    write_file(path, "".join("\t".join(line) + "\n" for line in lines).encode())


def read_per_image(path: Path) -> list[PerImage]:
    """From a JSON file above, a folder of them, or an output folder of the loop.  Raises ImageError in one sentence."""
    if path.is_dir():
        folder = path / "per-image" if (path / "per-image").is_dir() else path
        files = sorted(folder.glob("*.json"))
        if not files:
            raise ImageError(f"{path}: no files of per-image curves, which evaluate.py writes to OUT/per-image/")
        return [one for file in files for one in read_per_image(file)]
    try:
        data = json.loads(path.read_text())
        curves = {row["image"]: {k: v for k, v in row.items() if isinstance(v, list)} for row in data["images"]}
        lossless = {row["image"]: row["lossless_bpp"] for row in data["images"] if "lossless_bpp" in row}
        return [PerImage(data["codec"], data["data"], data["command"], curves, lossless)]
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise ImageError(f"{path}: not a file of per-image curves") from None


def read_published_points(path: Path) -> PerImage:
    """Points of others, image by image: Cool-chic's TSV, with columns seq_name, rate_bpp and psnr_db at least.

    Cool-chic's file names, VERSION_image-DATA.tsv, give codec and data set.  Raises ImageError.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                points.setdefault(row["seq_name"], []).append((float(row["rate_bpp"]), float(row["psnr_db"])))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    except (KeyError, ValueError, TypeError):
        points = {}
    if not points:
        raise ImageError(f"{path}: not a table with columns seq_name, rate_bpp and psnr_db")
    named = re.fullmatch(r"v([\d.]+)_image-(.+)", path.stem)
    codec, data = (f"Cool-chic {named[1]}", named[2]) if named else (path.stem, "")
    curves = {image: dict(zip(("bpp", "psnr-rgb"), zip(*sorted(own), strict=True), strict=True))
              for image, own in points.items()}
    return PerImage(f"{codec} (published)", data, "", curves, published=path.name)


def mean_at(one: PerImage, rate: float, metric: str, images: Collection[str] | None = None) -> Mean | None:
    """The metric at `rate` bpp: each image's own curve interpolated linearly over log rate, then averaged.

    Over those of `images` (None: all) whose curve reaches the rate; None where none does.
    """
    chosen = sorted(reaching(one, rate, metric) & set(one.curves if images is None else images))
    values = [value_at(one, image, rate, metric) for image in chosen]
    return Mean(fmean(values), len(values), len(one.curves)) if values else None


def value_at(one: PerImage, image: str, rate: float, metric: str) -> float:
    """The metric of an image at `rate` bpp, within its curve."""
    rates, quality = one.series(image, metric)
    return float(np.interp(np.log(rate), np.log(rates), quality))


def reaching(one: PerImage, rate: float, metric: str = "psnr-rgb") -> set[str]:
    """Images whose curve spans `rate`."""
    spans = {image: one.series(image, metric)[0] for image in one.curves}
    return {image for image, rates in spans.items() if rates and rates[0] <= rate <= OVERSHOOT * rates[-1]}


def common_rates(one: PerImage, metric: str) -> tuple[float, float] | None:
    """Lowest and highest bpp that the curves of all images reach; None where there are none."""
    spans = [one.series(image, metric)[0] for image in one.curves]
    if not spans or not all(spans):
        return None
    low, high = max(rates[0] for rates in spans), min(rates[-1] for rates in spans)
    return (low, high) if low < high else None


@dataclass(frozen=True)
class Delta:
    """Mean over images of the Bjøntegaard deltas against an anchor.

    rate     in %, negative: smaller files;  quality: in the metric's unit, its own sign
    over     the range of quality, each end a mean over images
    """

    rate: float
    images: int
    of: int
    over: tuple[float, float]
    quality: float


def mean_delta(
    anchor: PerImage, one: PerImage, metric: str = "psnr-rgb", rates: tuple[float, float] | None = None
) -> Delta | None:
    """BD-rate and BD-quality of every image that both have, averaged; None where no image has both.

    rates  only points between these bpp count; None: all
    """
    sign = -1.0 if METRICS[metric].falls else 1.0
    low, high = rates or (0.0, float("inf"))
    found = []
    for image in one.curves:
        both = []
        for curve in (anchor, one):
            points = [(r, sign * q) for r, q in zip(*curve.series(image, metric), strict=True) if low <= r <= high]
            both += [[r for r, _ in points], [q for _, q in points]]
        rate = bd_rate(*both) if both[0] and both[2] else None
        quality = None if rate is None else bd_quality(*both)
        shared = None if rate is None else overlap(both[1], both[3])
        if rate is not None and quality is not None and shared is not None:
            found.append((rate, sign * quality, *sorted(sign * end for end in shared)))
    if not found:
        return None
    rate, quality, bottom, top = (fmean(column) for column in zip(*found, strict=True))
    return Delta(rate, len(found), len(one.curves), (bottom, top), quality)


def mean_lossless(one: PerImage) -> Mean | None:
    """Bits per dimension of the lossless files."""
    if not one.lossless:
        return None
    return Mean(bits_per_dimension(fmean(one.lossless.values())), len(one.lossless), len(one.curves))


def mean_curve(one: PerImage) -> PerImage | None:
    """The curve of the mean points as that of one image, MEAN, where all images have the same number of them, as with
    equal settings: to be interpolated and compared alike, with its own kind alone.

    None otherwise: a mean over other images at each point would be no curve.
    """
    counts = {len(columns.get("bpp", ())) for columns in one.curves.values()}
    if len(counts) != 1 or counts == {0}:
        return None
    curves = list(one.curves.values())
    columns: dict[str, list[float | None]] = {}
    for key in ("bpp", *one.metrics()):
        if all(key in curve for curve in curves):
            points = [[v for v in values if v is not None] for values in zip(*(c[key] for c in curves), strict=True)]
            columns[key] = [fmean(values) if len(values) == len(curves) else None for values in points]
    return PerImage(one.codec, one.data, "", {MEAN: columns}, published=one.published)


def at_equal_rates(one: PerImage) -> bool:
    """Whether each point has the same rate in all images, as files made for a rate have, and not the same settings.

    The mean of such points is a per-image average, and does not belong beside mean curves over equal settings.
    """
    columns = [curve["bpp"] for curve in one.curves.values() if curve.get("bpp")]
    points = [[rate for rate in rates if rate is not None] for rates in zip(*columns, strict=False)]
    return len(columns) > 1 and all(max(rates) <= EQUAL * min(rates) for rates in points)


def pairs_of_deltas(curves: Sequence[PerImage], metric: str) -> dict[str, dict[str, Delta]]:
    """[anchor][codec] of every pair of curves that has one."""
    found: dict[str, dict[str, Delta]] = {}
    for anchor in curves:
        for one in curves:
            value = None if one is anchor else mean_delta(anchor, one, metric)
            if value is not None:
                found.setdefault(anchor.codec, {})[one.codec] = value
    return found
