"""Tables as Markdown for people, and the same figures as JSON, from which README and docs take theirs.

Two kinds that are never mixed: "per-image" interpolates each image's own curve and then averages; "mean curves" takes
the mean points over equal settings, all that most publications give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from .bd import bd_rate
from .metrics import bits_per_dimension
from .per_image import Delta, PerImage, at_equal_rates, mean_at, mean_curve, mean_delta, mean_lossless, reaching
from .results import Curve, metrics_of

RATES = (0.1, 0.25, 0.5, 1.0)  # bpp
COLUMNS = ("psnr-rgb", "ms-ssim-rgb")
PER_IMAGE = (
    "Per-image averages: PSNR in dB / MS-SSIM of each image's own curve, interpolated at the rate (linearly over log "
    "rate), then averaged; BD-rate and BD-PSNR of each image, then averaged; points {range}. A mean over fewer images "
    "than there are says so: it leaves out those whose smallest file is larger than the rate, the hard ones, or whose "
    "largest is smaller."
)
MEAN_CURVES = (
    "Mean curves: rates and qualities are means over images at equal settings, as published; PSNR in dB / MS-SSIM of "
    "that one curve interpolated at the rate, and its BD-rate. 0.3 to 0.5 dB below per-image averages of the same "
    "files, so not to be compared with those."
)
SECONDS = (
    "Seconds are means over images and points, memory is the largest peak of the process. Where points are prefixes of "
    "one file, each has the encoding time of the whole file."
)


@dataclass
class Summary:
    """One line of the comparison of what was measured; None where there is nothing to say.

    delta       against the anchor, per image
    incomplete  rate points that not every image reached
    """

    codec: str
    images: int
    delta: Delta | None
    encode_s: float | None
    decode_s: float | None
    peak_mib: float | None
    lossless_bpd: float | None
    published: str = ""
    incomplete: list[str] = field(default_factory=list)


def summarise(curves: Sequence[Curve], per_image: Sequence[PerImage], anchor: str) -> list[Summary]:
    """A line for each of the mean `curves`; times are means over its points, BD-rates over images."""
    known = {one.codec: one for one in per_image}
    lines = []
    for curve in curves:
        own, base = known.get(curve.codec), known.get(anchor)
        timed = [p for p in curve.points if p.complete and not p.hypothetical and "encoding_time" in p.values]
        lossless = curve.lossless_point
        lines.append(
            Summary(
                curve.codec,
                len(own.curves) if own else 0,
                mean_delta(base, own) if own and base and own is not base else None,
                fmean(p.values["encoding_time"] for p in timed) if timed else None,
                fmean(p.values["decoding_time"] for p in timed) if timed else None,
                max((p.values["peak_mib"] for p in timed if "peak_mib" in p.values), default=None),
                bits_per_dimension(lossless.values["bpp"]) if lossless else None,
                curve.published,
                [f"{p.point}: {p.images} of {p.of} images" for p in curve.points if not p.complete],
            )
        )
    return lines


def per_image_rows(
    curves: Sequence[PerImage], rates: Sequence[float], anchors: Sequence[str], bd_range: tuple[float, float] | None
) -> list[dict[str, Any]]:
    """One row for each codec: quality at `rates` bpp, mean BD-rates against `anchors`, lossless bpd, each with the
    number of images it is over."""
    known = {one.codec: one for one in curves}
    rows = []
    for one in curves:
        row: dict[str, Any] = {"codec": one.codec, "images": len(one.curves), "published": one.published, "rates": []}
        for rate in rates:
            means = {metric: mean_at(one, rate, metric) for metric in COLUMNS}
            count = max((mean.images for mean in means.values() if mean), default=0)
            values = {metric: round(mean.value, 4) for metric, mean in means.items() if mean}
            row["rates"].append({"bpp": rate, **values, "images": count})
        row["bd_rate"] = []
        for name in anchors:
            delta = None if name == one.codec or name not in known else mean_delta(known[name], one, rates=bd_range)
            if delta is not None:
                row["bd_rate"].append({"anchor": name, "percent": round(delta.rate, 2), "images": delta.images})
        lossless = mean_lossless(one)
        row["lossless"] = {"bpd": round(lossless.value, 4), "images": lossless.images} if lossless else {}
        rows.append(row)
    return rows


def like_for_like(curves: Sequence[PerImage], reference: str, rates: Sequence[float]) -> list[dict[str, Any]]:
    """At rates that a codec reaches on fewer images than `reference` does: both, on the same images."""
    known = {one.codec: one for one in curves}
    rows: list[dict[str, Any]] = []
    for one in curves if reference in known else ():
        for rate in rates:
            images = reaching(one, rate)
            if images and images < reaching(known[reference], rate):
                pair = [mean_at(known[reference], rate, "psnr-rgb", images), mean_at(one, rate, "psnr-rgb")]
                values = [round(mean.value, 4) for mean in pair if mean]
                rows.append({"codec": one.codec, "reference": reference, "bpp": rate, "images": len(images)}
                            | {"reference psnr-rgb": values[0], "psnr-rgb": values[1]})
    return rows


def mean_curve_rows(curves: Sequence[Curve], rates: Sequence[float], anchors: Sequence[str]) -> list[dict[str, Any]]:
    """The same of mean curves, measured and published."""
    series = {curve.codec: curve.series("psnr-rgb") for curve in curves}
    rows = []
    for curve in curves:
        row: dict[str, Any] = {"codec": curve.codec, "published": curve.published, "rates": []}
        for rate in rates:
            values = {}
            for metric in COLUMNS:
                bpp, quality = curve.series(metric)
                if bpp and bpp[0] <= rate <= bpp[-1]:
                    values[metric] = round(float(np.interp(np.log(rate), np.log(bpp), quality)), 4)
            row["rates"].append({"bpp": rate, **values})
        row["bd_rate"] = []
        for name in anchors:
            delta = bd_rate(*series[name], *series[curve.codec]) if name in series and name != curve.codec else None
            if delta is not None:
                row["bd_rate"].append({"anchor": name, "percent": round(delta, 2)})
        rows.append(row)
    return rows


def tables(
    curves: Sequence[PerImage], means: Sequence[Curve], *, rates: Sequence[float] = RATES,
    anchors: Sequence[str] = (), bd_range: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """All figures of both tables, for JSON and :func:`tables_text`.

    curves  per-image curves, measured and published
    means   mean curves of others; where there are none the second table has nothing to compare and is empty
    """
    settings = [one for one in curves if not at_equal_rates(one)]
    own = [curve for curve in map(mean_curve, settings) if curve is not None]
    reached = [sum(len(reaching(one, rate)) for rate in rates) for one in curves]
    widest = curves[reached.index(max(reached))].codec if curves else ""
    return {
        "rates": list(rates),
        "anchors": list(anchors),
        "bd_range_bpp": list(bd_range) if bd_range else None,
        "per_image": per_image_rows(curves, rates, anchors, bd_range),
        "like_for_like": like_for_like(curves, widest, rates),
        "at_equal_rates": [one.codec for one in curves if at_equal_rates(one)] if means else [],
        "mean_curves": mean_curve_rows([*own, *means], rates, anchors) if means else [],
    }


def tables_text(data: dict[str, Any]) -> str:
    """The tables of :func:`tables` as Markdown, each under the sentence that says how it was averaged."""
    low_high = data["bd_range_bpp"]
    span = f"between {low_high[0]:g} and {low_high[1]:g} bpp" if low_high else "of all rates"
    lines = [PER_IMAGE.format(range=span), "", _rate_table(data["per_image"], data["rates"], data["anchors"], True), ""]
    if data["like_for_like"]:
        lines += ["The same images:", ""]
        lines += [
            f"- {row['bpp']:g} bpp, images that {row['codec']} reaches ({row['images']}): {row['reference']} "
            f"{row['reference psnr-rgb']:.2f} dB, {row['codec']} {row['psnr-rgb']:.2f} dB"
            for row in data["like_for_like"]
        ]
        lines.append("")
    if data["mean_curves"]:
        lines += [MEAN_CURVES]
        if data["at_equal_rates"]:
            lines[-1] += f" Files made for a rate have no equal settings: {', '.join(data['at_equal_rates'])} left out."
        lines += ["", _rate_table(data["mean_curves"], data["rates"], data["anchors"], False), ""]
    return "\n".join(lines)


def _rate_table(rows: Sequence[dict[str, Any]], rates: Sequence[float], anchors: Sequence[str], lossless: bool) -> str:
    head = ["codec", *(f"{rate:g} bpp" for rate in rates), *(f"BD-rate vs {name}" for name in anchors)]
    lines = [head + ["lossless bpd"] * lossless]
    for row in rows:
        of = row.get("images", 0)
        cells = [row["codec"]]
        for at in row["rates"]:
            pair = [f"{at[m]:.{digits}f}" for m, digits in zip(COLUMNS, (2, 4), strict=True) if m in at]
            cells.append(" / ".join(pair) + (_few(at["images"], of) if pair and of else ""))
        percent = {delta["anchor"]: delta for delta in row["bd_rate"]}
        for name in anchors:
            delta = percent.get(name)
            text = f"{delta['percent']:+.1f} %" + (_few(delta["images"], of) if of else "") if delta else ""
            cells.append("anchor" if name == row["codec"] else text)
        if lossless:
            one = row["lossless"]
            cells.append(f"{one['bpd']:.3f}{_few(one['images'], of)}" if one else "")
        lines.append(cells)
    return _markdown(lines)


def _few(images: int, of: int) -> str:
    return "" if images == of else f" ({images} of {of} images)"


def summary_text(lines: Sequence[Summary], anchor: str) -> str:
    """The comparison of what was measured: per-image BD-rate, seconds, memory."""
    head = [
        "codec", "images", f"BD-rate vs {anchor}", "over dB", "BD-PSNR", "encode s", "decode s", "peak MiB",
        "lossless bpd",
    ]  # fmt: skip
    rows = [head]
    for line in lines:
        delta = line.delta
        rows.append(
            [
                line.codec,
                str(line.images),
                "anchor" if line.codec == anchor else
                f"{delta.rate:+.1f} %{_few(delta.images, delta.of)}" if delta else "",
                f"{delta.over[0]:.1f} to {delta.over[1]:.1f}" if delta else "",
                f"{delta.quality:+.2f} dB" if delta else "",
                cell(line.encode_s, ".3f"),
                cell(line.decode_s, ".3f"),
                cell(line.peak_mib, ".0f"),
                cell(line.lossless_bpd, ".3f"),
            ]
        )
    return _markdown(rows)


def points_text(curves: Iterable[Curve]) -> str:
    """Every averaged point as a Markdown table; hypothetical, incomplete and lossless ones are marked."""
    curves = list(curves)
    metrics = metrics_of(curves)
    rows = [["codec", "point", "bpp", *metrics, "encode s", "decode s"]]
    for curve in curves:
        for point in curve.points:
            marks = " (hypothetical)" if point.hypothetical else ""
            marks += _few(point.images, point.of)
            quality = ["exact" if point.lossless else cell(point.values.get(m), ".4g") for m in metrics]
            times = [cell(point.values.get(key), ".3f") for key in ("encoding_time", "decoding_time")]
            rows.append([curve.codec, point.point + marks, f"{point.values['bpp']:.4f}", *quality, *times])
    return _markdown(rows)


def cell(value: float | None, form: str) -> str:
    """`value` in that form, "" for None."""
    return "" if value is None else format(value, form)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    ruled = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)
