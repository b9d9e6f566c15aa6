"""From records to mean curves: averages per rate point over images at equal settings; CSV and CompressAI's JSON.

Averages are plain means over images, of a point that every image reached; a point that some images failed at says so
and appears in no curve, because a mean over the others would flatter it.  Curves of single images are in per_image.py.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data import write_file
from .metrics import MAX_PSNR, bits_per_dimension
from .records import BOUND, Measurement, Record

HIGHER_IS_BETTER = {"lpips": False, "dists": False, "fid": False, "patch-fid": False}
TITLES = {
    "psnr-rgb": "PSNR (RGB, dB)",
    "ssim-rgb": "SSIM (RGB)",
    "ms-ssim-rgb": "MS-SSIM (RGB)",
    "lpips": "LPIPS",
    "dists": "DISTS",
    "fid": "FID",
    "patch-fid": "patch FID",
    "clip": "CLIP score",
    "qalign": "Q-Align",
}


@dataclass
class Point:
    """One rate point of one codec, averaged over images.

    images     how many images it was reached on; of `of`
    values     "bpp", "encoding_time", "decoding_time" (s), "peak_mib", and the quality metrics
    """

    point: str
    images: int
    of: int
    values: dict[str, float]
    lossless: bool = False
    hypothetical: bool = False

    @property
    def complete(self) -> bool:
        return self.images == self.of


@dataclass
class Curve:
    """A codec's mean points in the order of their rate.

    published  source of figures that were not measured here, else ""
    data       of published figures: their data set, "" where the source does not say
    """

    codec: str
    points: list[Point] = field(default_factory=list)
    published: str = ""
    fingerprint: str = ""
    data: str = ""

    def lossy(self, hypothetical: bool = False) -> list[Point]:
        """Complete points of the rate-distortion curve (or of the hypothetical one), by rate."""
        chosen = [
            p
            for p in self.points
            if p.complete and not p.lossless and p.hypothetical == hypothetical and p.point != BOUND
        ]
        return sorted(chosen, key=lambda p: p.values["bpp"])

    def series(self, metric: str, hypothetical: bool = False) -> tuple[list[float], list[float]]:
        """(bpp, metric) of the points that have both."""
        points = [p for p in self.lossy(hypothetical) if metric in p.values]
        return [p.values["bpp"] for p in points], [p.values[metric] for p in points]

    def bound(self, metric: str) -> float | None:
        """The quality that the codec's autoencoder alone reaches, where that was measured."""
        return next((p.values.get(metric) for p in self.points if p.point == BOUND and p.complete), None)

    @property
    def lossless_point(self) -> Point | None:
        """The point that restores every pixel, if every image reached it."""
        return next((p for p in self.points if p.lossless and p.complete and not p.hypothetical), None)


def average(records: Iterable[Record]) -> list[Curve]:
    """One curve per codec, codecs and points in the order of the records."""
    by_codec: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_codec[record.codec].append(record)
    curves = []
    for codec, group in by_codec.items():
        groups: dict[str, list[Measurement]] = defaultdict(list)
        for record in group:
            for measurement in record.points:
                if not measurement.error:
                    groups[measurement.point].append(measurement)
        points = [_average_point(name, measured, len(group)) for name, measured in groups.items()]
        fingerprint = next((record.fingerprint for record in group if record.fingerprint), "")
        curves.append(Curve(codec, points, fingerprint=fingerprint))
    return curves


def _average_point(name: str, measured: Sequence[Measurement], of: int) -> Point:
    values = {
        "bpp": fmean(m.bpp for m in measured),
        "encoding_time": fmean(m.encode_s for m in measured),
        "decoding_time": fmean(m.decode_s for m in measured),
    }
    peaks = [m.peak_mib for m in measured if m.peak_mib is not None]
    if peaks:
        values["peak_mib"] = max(peaks)
    for metric in measured[0].scores:
        scores = [m.scores.get(metric) for m in measured]
        if metric == "psnr-rgb":
            scores = [MAX_PSNR if score is None else min(score, MAX_PSNR) for score in scores]
        if all(score is not None and math.isfinite(score) for score in scores):
            values[metric] = fmean(score for score in scores if score is not None)
    return Point(name, len(measured), of, values, measured[0].lossless, measured[0].hypothetical)


def metrics_of(curves: Iterable[Curve]) -> list[str]:
    """Quality metrics that occur, in the order of TITLES."""
    found = {name for curve in curves for point in curve.points for name in point.values}
    return [name for name in TITLES if name in found]


def compressai_json(curve: Curve, description: str, data: str = "", hypothetical: bool = False) -> dict[str, Any]:
    """The lossy (or hypothetical) curve in CompressAI's form, readable by its plot tool; lists are ordered by rate.

    data  the data set, which the form does not have
    """
    points = curve.lossy(hypothetical)
    keys = [key for key in (points[0].values if points else {}) if all(key in p.values for p in points)]
    results = {key: [p.values[key] for p in points] for key in keys}
    flag = {"hypothetical": True} if hypothetical else {}
    return {"name": curve.codec, "description": description, "dataset": data, **flag, "results": results}


def write_csv(records: Iterable[Record], path: Path) -> None:
    """One line per image, codec and point, failures included."""
    rows = [(record, point) for record in records for point in record.points]
    scores = sorted({name for _, point in rows for name in point.scores}, key=lambda n: (n not in TITLES, n))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fixed = ["codec", "image", "height", "width", "point", "file", "bytes", "bpp", "bpd"]
    times = ["encode_s", "decode_s", "peak_mib", "segments", "lossless", "hypothetical", "error"]
    writer.writerow([*fixed, *scores, *times])
    for record, p in rows:
        head = [record.codec, record.image, record.height, record.width, p.point, p.file]
        rates = ["", "", ""] if p.error else [f"{p.num_bytes:g}", f"{p.bpp:.6f}", f"{bits_per_dimension(p.bpp):.6f}"]
        quality = [_score(p, name) for name in scores]
        seconds = [f"{p.encode_s:.4f}", f"{p.decode_s:.4f}", "" if p.peak_mib is None else f"{p.peak_mib:.1f}"]
        writer.writerow([*head, *rates, *quality, *seconds, p.segments, int(p.lossless), int(p.hypothetical), p.error])
    write_file(path, buffer.getvalue().encode())


def write_json(data: Any, path: Path) -> None:
    """`data` as indented JSON."""
    write_file(path, (json.dumps(data, indent=2) + "\n").encode())


def _score(point: Measurement, name: str) -> str:
    value = point.scores.get(name)
    if value is None:
        return "inf" if name == "psnr-rgb" and not point.error else ""
    return f"{value:.6f}"
