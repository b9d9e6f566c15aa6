"""Tables and figures from per-image curves that were kept (per_image.py), without measuring anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..codecs import CodecError
from ..data import ImageError, write_file
from .markup import latex, markdown
from .per_image import PerImage, read_per_image, write_rows
from .published import read_published
from .report.plots import draw, save_figure
from .results import METRICS, write_json
from .tables import RATES, parts, tables


def tables_of_files(
    paths: Sequence[Path], published: Sequence[Path], out: Path, command: str,
    rates: Sequence[float] = RATES, anchors: Sequence[str] = (), bd_range: tuple[float, float] | None = None,
) -> str:
    """The tables of per-image curves that were kept (per_image.py), written to `out`: FILE.tsv has every point of every
    image; FILE.tex, and FILE.md for any other name, the averages, with a FILE.json of the same figures.

    Raises ImageError where the files are of several data sets, CodecError for an anchor that is none of them.
    """
    curves, points, means = _read(paths, published, "--tables")
    check_anchors(anchors, [*(one.codec for one in [*curves, *points]), *(curve.codec for curve in means)])
    data, images = curves[0].data, list(curves[0].curves)
    if out.suffix == ".tsv":
        write_rows([*curves, *points], out)
        return str(out)
    figures = tables([*curves, *points], means, rates, anchors, bd_range)
    measured = {one.codec: one.command for one in curves}
    origin = {"data": data, "images": len(images), "command": command, "measured_by": measured}
    write_json({**origin, **figures}, out.with_suffix(".json"))
    if out.suffix == ".tex":
        text = latex(parts(figures))
    else:
        out = out.with_suffix(".md")
        text = page_head(data, len(images), f"{out.stem}.json", command) + "\n" + markdown(parts(figures))
    write_file(out, text.encode())
    return text


def plot_of_files(
    paths: Sequence[Path], published: Sequence[Path], out: Path, metric: str = "psnr-rgb", max_bpp: float | None = None
) -> None:
    """Draw kept per-image curves, and points of others image by image, to `out` (.svg, .pdf or .png).

    Raises ImageError as tables_of_files, where `published` has mean curves, and where none has `metric`.
    """
    curves, points, means = _read(paths, published, "--plot")
    if means:
        raise ImageError(f"--plot: {means[0].codec} is a mean curve, which cannot be compared with per-image averages")
    known = [name for name in METRICS if any(name in one.metrics() for one in curves)]
    title = f"{curves[0].data}, {len(curves[0].curves)} images"
    figure = draw([*curves, *points], metric, title, max_bpp) if metric in known else None
    if figure is None:
        below = f" below {max_bpp:g} bpp" if max_bpp else ""
        raise ImageError(f"no {metric} that all images reach{below}; these files have {', '.join(known)}")
    save_figure(figure, out)


def _read(
    paths: Sequence[Path], published: Sequence[Path], option: str
) -> tuple[list[PerImage], list[PerImage], list[PerImage]]:
    """Per-image curves that were kept, of the same images each; others' points on these, and others' mean curves."""
    curves = [one for path in paths for one in read_per_image(path)]
    sets = sorted({one.data for one in curves})
    if len(sets) > 1:
        raise ImageError(f"{option}: curves of several data sets, {' and '.join(sets)}")
    images = list(dict.fromkeys(image for one in curves for image in one.curves))
    return [one.of(images) for one in curves], *read_published(published, sets[0], images)


def check_anchors(anchors: Sequence[str], known: Sequence[str]) -> None:
    for anchor in anchors:
        if anchor not in known:
            raise CodecError(f"--anchors {anchor}: no such curve among {', '.join(known)}")


def page_head(data: str, images: int, figures: str, command: str) -> str:
    """Title, file of the figures, and command of a Markdown page of tables."""
    return f"# {data}, {images} images\n\n<!-- figures: {figures} -->\n\n```\n{command}\n```\n"
