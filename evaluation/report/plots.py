"""Rate-distortion curves as figures (.svg, .pdf, .png): per-image averages with error bands.

Mean curves, over equal settings, have no place beside them (per_image.py), and so are not drawn here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ...data import ImageError, write_file
from ..per_image import PerImage, common_rates, value_at
from ..results import METRICS
from .colours import colours, marker

STEPS = 40  # rates of a curve, evenly over the log rate
BAND = 1.96  # standard errors: a 95 % interval of the mean


def draw(curves: Sequence[PerImage], metric: str, title: str = "", max_bpp: float | None = None) -> Figure | None:
    """Means over images of `metric` at the bpp that all images reach, with the 95 % interval of each mean (normal
    approximation; most of it is the images' own difference).  None where there is nothing to draw.

    Solid: measured, from files; dotted: hypothetical; dashed: published.
    max_bpp  where the rate axis ends; None: behind the last point
    """
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    seen: list[float] = []
    for one, (colour, _) in zip(curves, colours([one.codec for one in curves]), strict=True):
        low, high = common_rates(one, metric) or (1.0, 0.0)
        high = min(high, max_bpp or high)
        if low >= high:
            continue
        rates = np.geomspace(low, high, STEPS)
        values = [[value_at(one, image, rate, metric) for image in one.curves] for rate in rates]
        mean, error = np.array([fmean(at) for at in values]), np.array([BAND * _standard_error(at) for at in values])
        style = "--" if one.published else ":" if one.codec.endswith("(hypothetical)") else "-"
        shape = marker(one.codec)
        axes.plot(rates, mean, style, color=colour, label=one.codec, marker=shape, markevery=6, markersize=4)
        axes.fill_between(rates, mean - error, mean + error, color=colour, alpha=0.12, linewidth=0)
        seen += [float(value) for value in mean]
    if not seen:
        return None
    margin = 0.05 * (max(seen) - min(seen))
    axes.set(title=title, xlabel="bits per pixel, file header included", ylabel=METRICS[metric].title)
    axes.set(xlim=(0, max_bpp), ylim=(min(seen) - margin, max(seen) + margin))
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize="small", framealpha=0.85, edgecolor="none")
    return figure


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


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
