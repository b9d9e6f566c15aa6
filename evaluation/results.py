"""From records to mean curves: averages per rate point over images at equal settings; the TSV of everything.

Averages are plain means over images, of a point that every image reached; a point that some images failed at says so
and appears in no curve, because a mean over the others would flatter it.  Curves of single images are in per_image.py.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ..data import write_file
from .metrics import MAX_PSNR, bits_per_dimension
from .records import Measurement, Record


class Scale(NamedTuple):
    """How a metric is shown: its name and unit, digits behind the point, and whether less of it is better."""

    title: str
    digits: int = 2
    falls: bool = False


METRICS = {
    "psnr-rgb": Scale("PSNR (RGB, dB)"),
    "ssim-rgb": Scale("SSIM (RGB)", 4),
    "ms-ssim-rgb": Scale("MS-SSIM (RGB)", 4),
    "ssimulacra2": Scale("SSIMULACRA 2"),
    "butteraugli": Scale("Butteraugli (3-norm)", 3, falls=True),
    "vmaf": Scale("VMAF"),
    "psnr-hvs": Scale("PSNR-HVS (dB)"),
    "lpips": Scale("LPIPS", 4, falls=True),
    "dists": Scale("DISTS", 4, falls=True),
    "fid": Scale("FID", falls=True),
    "patch-fid": Scale("patch FID", falls=True),
    "clip": Scale("CLIP score"),
    "qalign": Scale("Q-Align", 3),
}


@dataclass
class Point:
    """One rate point of one codec, averaged over images.

    images     how many images it was reached on; of `of`
    values     means of "bpp", "encoding_time", "decoding_time" (s), "encode_mib", "decode_mib", "megapixels", of files
               with several segments "first_bytes", and of the quality metrics; the largest "peak_mib"
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
    """A codec's mean points in the order of their rate."""

    codec: str
    points: list[Point] = field(default_factory=list)
    fingerprint: str = ""

    def lossy(self) -> list[Point]:
        """Complete points of the rate-distortion curve, by rate; those for which no file exists are none of it."""
        points = [p for p in self.points if p.complete and not p.lossless and not p.hypothetical]
        return sorted(points, key=lambda p: p.values["bpp"])

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
        groups: dict[str, list[tuple[Record, Measurement]]] = defaultdict(list)
        for record in group:
            for measurement in record.points:
                if not measurement.error:
                    groups[measurement.point].append((record, measurement))
        points = [_average_point(name, measured, len(group)) for name, measured in groups.items()]
        fingerprint = next((record.fingerprint for record in group if record.fingerprint), "")
        curves.append(Curve(codec, points, fingerprint=fingerprint))
    return curves


def _average_point(name: str, pairs: Sequence[tuple[Record, Measurement]], of: int) -> Point:
    measured = [m for _, m in pairs]
    values = {
        "bpp": fmean(m.bpp for m in measured),
        "encoding_time": fmean(m.encode_s for m in measured),
        "decoding_time": fmean(m.decode_s for m in measured),
        "megapixels": fmean(record.height * record.width / 1e6 for record, _ in pairs),
    }
    if any(m.segments > 1 for m in measured):
        values["first_bytes"] = fmean(m.first_bytes for m in measured)
    for key, together in (("encode_mib", fmean), ("decode_mib", fmean), ("peak_mib", max)):
        known = [mib for m in measured if (mib := getattr(m, key)) is not None]
        if len(known) == len(measured):
            values[key] = together(known)
    for metric in measured[0].scores:
        scores = [m.scores.get(metric) for m in measured]
        if metric == "psnr-rgb":
            scores = [MAX_PSNR if score is None else min(score, MAX_PSNR) for score in scores]
        if all(score is not None and math.isfinite(score) for score in scores):
            values[metric] = fmean(score for score in scores if score is not None)
    return Point(name, len(measured), of, values, measured[0].lossless, measured[0].hypothetical)


def metrics_of(curves: Iterable[Curve]) -> list[str]:
    """Quality metrics that occur, in the order of METRICS."""
    found = {name for curve in curves for point in curve.points for name in point.values}
    return [name for name in METRICS if name in found]


def write_tsv(records: Iterable[Record], path: Path) -> None:
    """One line per image, codec and point, failures included."""
    rows = [(record, point) for record in records for point in record.points]
    scores = [name for name in METRICS if any(name in point.scores for _, point in rows)]
    fixed = ["codec", "image", "height", "width", "point", "file", "bytes", "bpp", "bpd"]
    other = ["encode_s", "decode_s", "encode_mib", "decode_mib", "peak_mib", "first_bytes", "segments", "lossless",
             "hypothetical", "error"]  # fmt: skip
    lines = [[*fixed, *scores, *other]]
    for record, p in rows:
        head = [record.codec, record.image, str(record.height), str(record.width), p.point, p.file]
        rates = ["", "", ""] if p.error else [f"{p.num_bytes:g}", f"{p.bpp:.6f}", f"{bits_per_dimension(p.bpp):.6f}"]
        quality = [_score(p, name) for name in scores]
        memory = ["" if mib is None else f"{mib:.1f}" for mib in (p.encode_mib, p.decode_mib, p.peak_mib)]
        counts = [str(int(n)) for n in (p.first_bytes, p.segments, p.lossless, p.hypothetical)]
        times = [f"{p.encode_s:.4f}", f"{p.decode_s:.4f}"]
        lines.append([*head, *rates, *quality, *times, *memory, *counts, p.error.replace("\t", " ")])
    write_file(path, "".join("\t".join(line) + "\n" for line in lines).encode())


def write_json(data: Any, path: Path) -> None:
    """`data` as indented JSON."""
    write_file(path, (json.dumps(data, indent=2) + "\n").encode())


def _score(point: Measurement, name: str) -> str:
    value = point.scores.get(name)
    if value is None:
        return "inf" if name == "psnr-rgb" and not point.error else ""
    return f"{value:.6f}"
