"""Rate-distortion curves as PNG or SVG files, from curves in memory or CompressAI-style JSON files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from ...data import ImageError, write_file
from ..published import read_curves
from ..results import TITLES, Curve, metrics_of

# Okabe and Ito's colours, told apart by most colour-blind readers; black comes last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#5B4EA3", "#7F7F7F", "#000000")
MARKERS = "osD^vP*X<>"


def draw(curves: Sequence[Curve], metric: str, title: str = "", log_rate: bool = False) -> Figure:
    """A figure of `metric` over bpp.  Solid: measured, from files; dotted: hypothetical; dashed: published."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for index, curve in enumerate(curves):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        for hypothetical in (False, True):
            rate, quality = curve.series(metric, hypothetical)
            if not rate:
                continue
            label = curve.codec + (" (hypothetical)" if hypothetical else "")
            style = "--" if curve.published else ":" if hypothetical else "-"
            width, size = (1.2, 0) if curve.published else (1.8, 5)
            axes.plot(rate, quality, style, color=colour, marker=marker, label=label, linewidth=width, markersize=size)
        bound = curve.bound(metric)
        if bound is not None:
            axes.axhline(bound, linestyle=":", color=colour, linewidth=1, label=f"{curve.codec}: autoencoder alone")
    axes.set_xlabel("bits per pixel, file header included")
    axes.set_ylabel(TITLES.get(metric, metric))
    if log_rate:
        axes.set_xscale("log")
    axes.grid(True, alpha=0.3)
    if title:
        axes.set_title(title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", framealpha=0.85, edgecolor="none")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` in the format of the suffix (.png, .svg, .pdf), the same bytes for the same curves."""
    buffer = io.BytesIO()
    kind = path.suffix.lstrip(".").lower() or "png"
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    try:
        with mpl.rc_context({"svg.hashsalt": "diffpress", "svg.fonttype": "none"}):
            figure.savefig(buffer, format=kind, dpi=150, metadata=stamp)
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from None
    write_file(path, buffer.getvalue())


def plot_files(files: Sequence[Path], out: Path, metric: str = "psnr-rgb", max_bpp: float | None = None) -> None:
    """Draw the curves of CompressAI-style JSON files to `out`, those that diffpress did not write as published.

    Raises ImageError, also when none has `metric`.
    max_bpp  where the rate axis ends; None: behind the last point
    """
    curves = [curve for file in files for curve in read_curves(file)]
    for curve in curves:
        if "diffpress" in curve.published:  # measured by us, as every file we write says
            curve.codec, curve.published = curve.codec.removesuffix(" (published)"), ""
    if metric not in metrics_of(curves):
        raise ImageError(f"no {metric} in these files; they have {', '.join(metrics_of(curves)) or 'no known metric'}")
    figure = draw(curves, metric)
    if max_bpp is not None:
        drawn = [c.series(metric, hypothetical) for c in curves for hypothetical in (False, True)]
        seen = [quality for curve in drawn for rate, quality in zip(*curve, strict=True) if rate <= max_bpp]
        if not seen:
            raise ImageError(f"no point of these files lies below {max_bpp} bpp")
        margin = 0.05 * (max(seen) - min(seen))
        figure.axes[0].set_xlim(0, max_bpp)
        figure.axes[0].set_ylim(min(seen) - margin, max(seen) + margin)
    save_figure(figure, out)
