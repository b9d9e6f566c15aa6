"""The figures of all tables as JSON, from which README and docs take theirs, and as tables for people (markup.py).

Two kinds that are never mixed: "per-image" interpolates each image's own curve and then averages; "mean curves" takes
the mean points over equal settings, all that most publications give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .markup import Part, Row
from .metrics import bits_per_dimension
from .per_image import Delta, PerImage, at_equal_rates, mean_at, mean_curve, mean_delta, mean_lossless, reaching
from .results import METRICS, Curve, Point, metrics_of

RATES = (0.1, 0.25, 0.5, 1.0)  # bpp
PER_IMAGE = (
    "Per-image averages: each image's own curve interpolated at the rate (linearly over log rate), then averaged; "
    "BD-rates of each image, then averaged, over points {range}, with the range of quality that both reach (each end a "
    "mean over images) and the number of images. A mean over fewer images than there are says so: it leaves out those "
    "whose smallest file is larger than the rate, the hard ones, or whose largest is smaller."
)
MEAN_CURVES = (
    "Mean curves: rates and qualities are means over images at equal settings, as published; that one curve is "
    "interpolated and compared. PSNR is 0.3 to 0.5 dB below per-image averages of the same files: the two are not "
    "compared."
)
SECONDS = (
    "Seconds and memory are means over images and points, divided by the megapixels of an image (MP). Memory is what "
    "was in use at the peak beyond what was before, libraries and model; unknown where another program codes. A prefix "
    "has the encoding time of its whole file. First picture: bytes of a file after which one can be decoded."
)


@dataclass
class Summary:
    """One line of the comparison of what was measured; None where there is nothing to say.

    delta         against the anchor, per image
    encode_s, decode_s, encode_mib, decode_mib  per megapixel
    first_bytes   after which a first picture can be decoded; None where all files are one segment
    """

    codec: str
    images: int
    delta: Delta | None
    encode_s: float | None
    decode_s: float | None
    encode_mib: float | None
    decode_mib: float | None
    first_bytes: float | None
    lossless_bpd: float | None
    published: str = ""


def summarise(curves: Sequence[Curve], per_image: Sequence[PerImage], anchor: str) -> list[Summary]:
    """A line for each of the mean `curves`; times and memory are means over its points, BD-rates over images."""
    known = {one.codec: one for one in per_image}
    lines = []
    for curve in curves:
        own, base = known.get(curve.codec), known.get(anchor)
        timed = [p for p in curve.points if p.complete and not p.hypothetical and "megapixels" in p.values]
        first = [p.values["first_bytes"] for p in timed if "first_bytes" in p.values]
        lossless = curve.lossless_point
        delta = mean_delta(base, own) if own and base and own is not base else None
        costs = [_per_megapixel(timed, key) for key in ("encoding_time", "decoding_time", "encode_mib", "decode_mib")]
        lines.append(Summary(
            curve.codec, len(own.curves) if own else 0, delta, costs[0], costs[1], costs[2], costs[3],
            min(first, default=None), bits_per_dimension(lossless.values["bpp"]) if lossless else None,
            own.published if own else "",
        ))  # fmt: skip
    return lines


def _per_megapixel(points: Sequence[Point], key: str) -> float | None:
    known = bool(points) and all(key in point.values for point in points)
    return fmean(point.values[key] / point.values["megapixels"] for point in points) if known else None


def average_rows(
    curves: Sequence[PerImage], rates: Sequence[float], anchors: Sequence[str], bd_range: tuple[float, float] | None
) -> list[dict[str, Any]]:
    """One row for each codec: by metric the quality at `rates` bpp and mean BD-rates against `anchors`; lossless bpd.

    Each with the number of images it is over; what there is not is left out.
    """
    known = {one.codec: one for one in curves}
    rows = []
    for one in curves:
        metrics = {}
        for metric in [name for name in METRICS if name in one.metrics()]:
            at = [(rate, mean_at(one, rate, metric)) for rate in rates]
            others = [known[name] for name in anchors if name in known and name != one.codec]
            deltas = [(other.codec, mean_delta(other, one, metric, bd_range)) for other in others]
            metrics[metric] = {
                "rates": [{"bpp": rate, "value": round(m.value, 4), "images": m.images} for rate, m in at if m],
                "bd_rate": [{"anchor": anchor, "percent": round(d.rate, 2), "over": [round(end, 4) for end in d.over],
                             "images": d.images} for anchor, d in deltas if d],
            }  # fmt: skip
        row: dict[str, Any] = {"codec": one.codec, "images": len(one.curves), "published": one.published}
        lossless = mean_lossless(one)
        exact = {"bpd": round(lossless.value, 4), "images": lossless.images} if lossless else {}
        rows.append({**row, "metrics": metrics, "lossless": exact})
    return rows


def like_for_like(curves: Sequence[PerImage], reference: str, rates: Sequence[float]) -> list[dict[str, Any]]:
    """At rates that a codec reaches on fewer images than `reference` does: both, on the same images."""
    known = {one.codec: one for one in curves}
    rows: list[dict[str, Any]] = []
    for one in curves if reference in known else ():
        for rate in rates:
            images = reaching(one, rate)
            if images and images < reaching(known[reference], rate):
                pair = [mean_at(one, rate, "psnr-rgb"), mean_at(known[reference], rate, "psnr-rgb", images)]
                values = [round(mean.value, 4) for mean in pair if mean]
                rows.append({"codec": one.codec, "bpp": rate, "images": len(images), "psnr-rgb": values[0]}
                            | {"reference": reference, "reference psnr-rgb": values[1]})
    return rows


def tables(
    curves: Sequence[PerImage], means: Sequence[PerImage], rates: Sequence[float] = RATES,
    anchors: Sequence[str] = (), bd_range: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """All figures of both kinds, for JSON and :func:`parts`.

    curves  per-image curves, measured and published
    means   mean curves of others; where there are none the second kind has nothing to compare and is empty
    """
    settings = [one for one in curves if not at_equal_rates(one)]
    own = [curve for curve in map(mean_curve, settings) if curve is not None]
    reached = [sum(len(reaching(one, rate)) for rate in rates) for one in curves]
    widest = curves[reached.index(max(reached))].codec if curves else ""
    return {
        "rates": list(rates),
        "anchors": list(anchors),
        "bd_range_bpp": list(bd_range) if bd_range else None,
        "per_image": average_rows(curves, rates, anchors, bd_range),
        "like_for_like": like_for_like(curves, widest, rates),
        "at_equal_rates": [one.codec for one in curves if at_equal_rates(one)] if means else [],
        "mean_curves": average_rows([*own, *means], rates, anchors, None) if means else [],
    }


def parts(data: dict[str, Any]) -> list[Part]:
    """The tables of :func:`tables` under the sentences that say how they were averaged."""
    low_high = data["bd_range_bpp"]
    span = f"between {low_high[0]:g} and {low_high[1]:g} bpp" if low_high else "of all rates"
    found: list[Part] = [PER_IMAGE.format(range=span), *_rate_tables(data["per_image"], data)]
    if data["like_for_like"]:
        found.append("PSNR on the same images, where a codec does not reach a rate on all of them:")
        found.append([["codec", "bpp", "images", "dB", "reference", "dB"]] + [
            [row["codec"], f"{row['bpp']:g}", str(row["images"]), f"{row['psnr-rgb']:.2f}", row["reference"],
             f"{row['reference psnr-rgb']:.2f}"] for row in data["like_for_like"]
        ])  # fmt: skip
    if data["mean_curves"]:
        left_out = f" Files made for a rate have no equal settings: {', '.join(data['at_equal_rates'])} left out."
        found.append(MEAN_CURVES + (left_out if data["at_equal_rates"] else ""))
        found += _rate_tables(data["mean_curves"], data)
    return found


def _rate_tables(rows: Sequence[dict[str, Any]], data: dict[str, Any]) -> list[Part]:
    """For each metric its values at the rates, for each anchor the BD-rates of all metrics, lossless rates."""
    found: list[Part] = []
    metrics = [name for name in METRICS if any(name in row["metrics"] for row in rows)]
    for metric in metrics:
        table = [["codec", *(f"{rate:g} bpp" for rate in data["rates"])]]
        for row in rows:
            at = {cell["bpp"]: cell for cell in row["metrics"].get(metric, {}).get("rates", ())}
            cells = [
                f"{at[rate]['value']:.{METRICS[metric].digits}f}{_few(at[rate], row)}" if rate in at else ""
                for rate in data["rates"]
            ]
            table += [[row["codec"], *cells]] if at else []
        found += [f"{METRICS[metric].title}:", table]
    for anchor in data["anchors"]:
        table = [["codec", *(METRICS[metric].title for metric in metrics)]]
        for row in rows:
            cells = [_percent(row, metric, anchor) for metric in metrics]
            table += [[row["codec"], *cells]] if any(cells) else []
        found += [f"BD-rate against {anchor}, in brackets the range of quality and the images:", table]
    exact = [[row["codec"], f"{row['lossless']['bpd']:.3f}{_few(row['lossless'], row)}"]
             for row in rows if row["lossless"]]  # fmt: skip
    return found + (["Lossless, bits per dimension:", [["codec", "bpd"], *exact]] if exact else [])


def _percent(row: dict[str, Any], metric: str, anchor: str) -> str:
    found = [one for one in row["metrics"].get(metric, {}).get("bd_rate", ()) if one["anchor"] == anchor]
    if not found:
        return ""
    (low, high), digits = found[0]["over"], max(METRICS[metric].digits - 1, 1)
    images = f", {found[0]['images']} of {row['images']}" if row["images"] > 1 else ""
    return f"{found[0]['percent']:+.1f} % ({low:.{digits}f} to {high:.{digits}f}{images})"


def _few(cell: dict[str, Any], row: dict[str, Any]) -> str:
    return f" ({cell['images']} of {row['images']} images)" if cell["images"] != row["images"] else ""


def summary_table(lines: Sequence[Summary], anchor: str) -> list[Row]:
    """The comparison of what was measured: per-image BD-rate where there is an anchor, seconds, memory."""
    delta = [f"BD-rate vs {anchor}", "over dB", "BD-PSNR"] if anchor else []
    costs = ["encode s/MP", "decode s/MP", "encode MiB/MP", "decode MiB/MP", "first picture, bytes", "lossless bpd"]
    rows = [["codec", "images", *delta, *costs]]
    for line in lines:
        own, cells = line.delta, ["anchor" if line.codec == anchor else "", "", ""]
        if own:
            few = "" if own.images == own.of else f" ({own.images} of {own.of} images)"
            cells = [f"{own.rate:+.1f} %{few}", f"{own.over[0]:.1f} to {own.over[1]:.1f}", f"{own.quality:+.2f} dB"]
        values = (line.encode_s, line.decode_s, line.encode_mib, line.decode_mib, line.first_bytes, line.lossless_bpd)
        forms = (".3f", ".3f", ".0f", ".0f", ".0f", ".3f")
        rows.append([line.codec, str(line.images), *cells[: len(delta)], *map(cell, values, forms)])
    return rows


def points_table(curves: Iterable[Curve]) -> list[Row]:
    """Every averaged point; hypothetical, incomplete and lossless ones are marked."""
    curves = list(curves)
    metrics = metrics_of(curves)
    rows = [["codec", "point", "bpp", *(METRICS[name].title for name in metrics), "encode s", "decode s"]]
    for curve in curves:
        for point in curve.points:
            marks = " (hypothetical)" if point.hypothetical else ""
            marks += "" if point.complete else f" ({point.images} of {point.of} images)"
            quality = [
                "exact" if point.lossless else cell(point.values.get(m), f".{METRICS[m].digits}f") for m in metrics
            ]
            times = [cell(point.values.get(key), ".3f") for key in ("encoding_time", "decoding_time")]
            rows.append([curve.codec, point.point + marks, f"{point.values['bpp']:.4f}", *quality, *times])
    return rows


def cell(value: float | None, form: str) -> str:
    """`value` in that form, "" for None."""
    return "" if value is None else format(value, form)
