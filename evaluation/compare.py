"""One command's worth of evaluation: run the loop, then write every output of it below one folder.

``records/`` and ``files/`` are the loop's.  Every run makes from them anew: ``results.csv``, ``results.json``,
``json/CODEC.json`` (mean curves in CompressAI's form), ``per-image/CODEC.json`` (per_image.py), ``tables.md`` and
``tables.json`` with the same figures, ``curves-METRIC.png`` and ``.svg``, and ``report.html``.
"""

from __future__ import annotations

import glob
import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..codecs import CodecError
from ..data import ImageError, read_image, write_file
from ..data.datasets import NamedImages
from .bd import MIN_POINTS
from .loop import EvaluationLoop, record_path, run
from .metrics.learned import LearnedMetrics
from .per_image import PerImage, mean_curve, of_records, read_per_image, write_per_image
from .points import CodecSpec, slug
from .published import read_published
from .records import Record, read_record, sentence
from .report.plots import draw, save_figure
from .results import (
    TITLES,
    Curve,
    average,
    compressai_json,
    metrics_of,
    write_csv,
    write_json,
)
from .tables import RATES, SECONDS, Summary, points_text, summarise, summary_text, tables, tables_text


@dataclass
class Comparison:
    """What one run knows at its end; the report is drawn from this.

    anchors    codecs that BD-rates refer to; the summary takes the first
    curves     mean points of what was measured; per_image: each image's own, published points of others among them
    published  mean curves of others, drawn as such
    pictured   names of the images that are shown
    notes      sentences about what is missing, e.g. metrics whose weights cannot be had
    """

    out: Path
    data: str
    command: str
    anchors: list[str]
    rates: Sequence[float]
    bd_range: tuple[float, float] | None
    specs: list[CodecSpec]
    records: list[Record]
    curves: list[Curve]
    per_image: list[PerImage]
    published: list[Curve]
    pictured: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def versions(self) -> dict[str, str]:
        """Of everything that coded; several where the records were measured with several."""
        return _merged([record.versions for record in self.records])

    @property
    def machine(self) -> dict[str, str]:
        """Where the records were measured, and beside how much other work."""
        merged = _merged([record.machine for record in self.records])
        loads = [record.load for record in self.records if record.load is not None]
        return merged | ({"load while measuring": f"{fmean(loads):.1f}"} if loads else {})

    @property
    def images(self) -> int:
        """How many images the averages are over."""
        return len({record.image for record in self.records})

    @property
    def failures(self) -> list[str]:
        """What could not be measured and why, a sentence each."""
        return [f"{r.codec} {r.image} {p.point}: {p.error}" for r in self.records for p in r.points if p.error]

    @property
    def anchor(self) -> str:
        """What the summary's BD-rates refer to, "" where no codec has a curve."""
        return self.anchors[0] if self.anchors else ""

    @property
    def drawn(self) -> list[Curve]:
        """Mean curves of what was measured and of what others published."""
        points = [mean_curve(one) for one in self.per_image if one.published]
        return [*self.curves, *(curve for curve in points if curve is not None), *self.published]

    def summary(self) -> list[Summary]:
        """A line for each codec that was measured, and for each with published points of these images."""
        published = [Curve(one.codec, published=one.published) for one in self.per_image if one.published]
        return summarise([*self.curves, *published], self.per_image, self.anchor)

    def tables(self) -> dict[str, Any]:
        """The figures of both tables of averages (tables.py), and of every mean point, with where they come from."""
        origin = {"data": self.data, "images": self.images, "command": self.command}
        figures = tables(
            self.per_image, self.published, rates=self.rates, anchors=self.anchors, bd_range=self.bd_range
        )
        keys = ("bpp", *metrics_of(self.curves), "encoding_time", "decoding_time", "peak_mib")
        points = [
            {"codec": curve.codec, "point": point.point, **{k: point.values[k] for k in keys if k in point.values}}
            | {"images": point.images, "of": point.of, "hypothetical": point.hypothetical}
            for curve in self.curves
            for point in curve.points
        ]
        summary = [asdict(line) for line in self.summary()]
        return {**origin, "versions": self.versions, "machine": self.machine, **figures} | {
            "summary": summary, "points": points,
        }


def collect(
    specs: Sequence[CodecSpec],
    names: Sequence[str],
    out: Path,
    *,
    data: str,
    command: str,
    anchors: Sequence[str] = (),
    rates: Sequence[float] = RATES,
    bd_range: tuple[float, float] | None = None,
    published: tuple[Sequence[PerImage], Sequence[Curve]] = ((), ()),
    pictures: int = 2,
    notes: Sequence[str] = (),
) -> Comparison:
    """Read the records of `specs` on the images `names` and average them.

    anchors    codecs of the BD-rates; none: jpeg if it was measured, else the first codec with a curve
    published  points of others image by image, and mean curves of others
    """
    found = [read_record(record_path(out, spec, name)) for spec in specs for name in names]
    records = [record for record in found if record is not None]
    curves = average(records)
    labels = [curve.codec for curve in curves if len(curve.lossy()) >= MIN_POINTS]
    chosen = list(anchors) or (["jpeg"] if "jpeg" in labels else labels[:1])
    per_image = [*of_records(records, data, command), *published[0]]
    return Comparison(
        out, data, command, chosen, rates, bd_range, list(specs), records, curves, per_image, list(published[1]),
        list(names[:pictures]), list(notes),
    )  # fmt: skip


def _merged(origins: Sequence[dict[str, str]]) -> dict[str, str]:
    """By key the values that occur, each once, in the order of the records."""
    keys = dict.fromkeys(key for origin in origins for key in origin)
    return {key: " and ".join(dict.fromkeys(o[key] for o in origins if key in o)) for key in keys}


def write_outputs(comparison: Comparison) -> None:
    """Everything but the HTML report."""
    out, curves = comparison.out, comparison.curves
    write_csv(comparison.records, out / "results.csv")
    version = comparison.versions.get("diffpress", "")
    description = f"{comparison.data}, {comparison.images} images, diffpress {version}"
    for curve, spec in zip(curves, comparison.specs, strict=False):
        for hypothetical, name in ((False, spec.slug), (True, f"{spec.slug}-hypothetical")):
            if curve.lossy(hypothetical):
                written = compressai_json(curve, description, comparison.data, hypothetical)
                write_json(written, out / "json" / f"{name}.json")
    for one in comparison.per_image:
        if not one.published:
            write_per_image(one, out / "per-image" / f"{slug(one.codec)}.json")
    write_json(_everything(comparison), out / "results.json")
    write_json(comparison.tables(), out / "tables.json")
    write_tables(comparison, out / "tables.md")
    for metric in metrics_of(curves):
        figure = draw(comparison.drawn, metric, f"{comparison.data}, {comparison.images} images")
        for suffix in (".png", ".svg"):
            save_figure(figure, out / f"curves-{metric}{suffix}")


def write_tables(comparison: Comparison, path: Path) -> None:
    """The tables as Markdown, with command, versions and machine; tables.json beside it has the figures."""
    lines = [f"# {comparison.data}, {comparison.images} images", "", f"<!-- figures: {path.stem}.json -->", ""]
    lines += ["```", comparison.command, "```", ""]
    lines += [", ".join(f"{k} {v}" for k, v in comparison.machine.items()) + "  "]
    lines += [", ".join(f"{k} {v}" for k, v in comparison.versions.items()), ""]
    models = [f"{c.codec}: {c.fingerprint}" for c in comparison.curves if c.fingerprint]
    lines += [f"Model fingerprints: {', '.join(models)}", ""] if models else []
    lines += [tables_text(comparison.tables()), summary_text(comparison.summary(), comparison.anchor), "", SECONDS, ""]
    lines += ["Means over images at equal settings:", "", points_text(comparison.curves), ""]
    failures = comparison.failures
    notes = comparison.notes + ([f"{len(failures)} failures, first: {failures[0]}"] if failures else [])
    lines += [f"- {note}" for note in notes]
    write_file(path, ("\n".join(lines).rstrip() + "\n").encode())


def tensorboard(comparison: Comparison, writer: Any) -> None:
    """Curves as scalars (the step is the rate in millionths of a bit per pixel) and pictures, to a SummaryWriter."""
    for curve in comparison.curves:
        for metric, hypothetical in itertools.product(metrics_of([curve]), (False, True)):
            tag = f"{metric}/{curve.codec}{' (hypothetical)' if hypothetical else ''}"
            for rate, value in zip(*curve.series(metric, hypothetical), strict=True):
                writer.add_scalar(tag, value, round(1e6 * rate))
        lossless = curve.lossless_point
        if lossless is not None:
            writer.add_scalar(f"lossless_bpd/{curve.codec}", lossless.values["bpp"] / 3, 0)
    folder = comparison.out / "pictures"
    for name in comparison.pictured:
        own = [folder / "original" / f"{name}.webp"]
        for spec in comparison.specs:
            own += sorted((folder / spec.slug).glob(f"{glob.escape(name)}-*.webp"))
        for picture in filter(Path.is_file, own):
            writer.add_image(str(picture.relative_to(folder))[: -len(".webp")], read_image(picture), 0)


def evaluate(
    specs: Sequence[CodecSpec],
    data: NamedImages,
    out: Path,
    *,
    command: str = "",
    anchors: Sequence[str] = (),
    rates: Sequence[float] = RATES,
    bd_range: tuple[float, float] | None = None,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    learned: LearnedMetrics | None = None,
    notes: Sequence[str] = (),
    published: Sequence[Path] = (),
    pictures: int = 2,
    hypothetical: bool = False,
    tick: Callable[[str], None] = lambda line: None,
) -> Comparison | None:
    """Measure `specs` on `data` and write all outputs; what is measured already is not measured again.

    None on every process but the first, which alone writes outputs.  Raises CodecError or ImageError before measuring
    when one of `anchors` is none of the curves, or `published` cannot be read or is of other images.
    """
    learned = learned or LearnedMetrics()
    others = read_published(published, data.name, data.names)
    known = [*(spec.label for spec in specs), *(one.codec for one in others[0]), *(one.codec for one in others[1])]
    for anchor in anchors:
        if anchor not in known:
            raise CodecError(f"--anchors {anchor}: no such curve among {', '.join(known)}")
    loop = EvaluationLoop(specs, data, out, learned.image, pictures, hypothetical, bool(learned.sets), tick)
    if not run(loop, device, devices, num_nodes):
        return None
    comparison = collect(
        specs,
        data.names,
        out,
        data=data.name,
        command=command,
        anchors=anchors,
        rates=rates,
        bd_range=bd_range,
        published=others,
        pictures=pictures,
        notes=[*notes, *learned.notes],
    )
    _add_set_metrics(comparison, learned)
    write_outputs(comparison)
    shutil.rmtree(out / "tensorboard", ignore_errors=True)  # everything is logged anew
    with SummaryWriter(str(out / "tensorboard")) as writer:
        tensorboard(comparison, writer)
    return comparison


def tables_of_files(
    paths: Sequence[Path], published: Sequence[Path], out: Path, command: str,
    rates: Sequence[float] = RATES, anchors: Sequence[str] = (), bd_range: tuple[float, float] | None = None,
) -> str:
    """The tables of per-image curves that were kept (per_image.py), written to `out` as FILE.md and FILE.json.

    Raises ImageError where the files are of several data sets, CodecError for an anchor that is none of them.
    """
    curves = [one for path in paths for one in read_per_image(path)]
    sets = sorted({one.data for one in curves})
    if len(sets) > 1:
        raise ImageError(f"--tables: curves of several data sets, {' and '.join(sets)}")
    images = list(dict.fromkeys(image for one in curves for image in one.curves))
    curves = [one.of(images) for one in curves]
    points, means = read_published(published, sets[0], images)
    known = [*(one.codec for one in [*curves, *points]), *(curve.codec for curve in means)]
    for anchor in anchors:
        if anchor not in known:
            raise CodecError(f"--anchors {anchor}: no such curve among {', '.join(known)}")
    figures = tables([*curves, *points], means, rates=rates, anchors=anchors, bd_range=bd_range)
    measured = {one.codec: one.command for one in curves}
    origin = {"data": sets[0], "images": len(images), "command": command, "measured_by": measured}
    write_json({**origin, **figures}, out.with_suffix(".json"))
    head = [f"# {sets[0]}, {len(images)} images", "", f"<!-- figures: {out.stem}.json -->", ""]
    text = "\n".join([*head, "```", command, "```", "", tables_text(figures)])
    write_file(out.with_suffix(".md"), (text.rstrip() + "\n").encode())
    return text


def _add_set_metrics(comparison: Comparison, learned: LearnedMetrics) -> None:
    """FID and its like, of every complete lossy point."""
    folder = comparison.out / "decoded"
    for curve, spec in zip(comparison.curves, comparison.specs, strict=False):
        for point in curve.lossy() if learned.sets else ():
            for name, metric in learned.sets.items():
                try:
                    value = metric(folder / spec.slug / point.point, folder / "original")
                except Exception as error:  # of packages that fail in many ways; the other figures stand
                    comparison.notes.append(f"{name}: absent for {curve.codec}, {point.point} ({sentence(error)})")
                else:
                    if math.isfinite(value):
                        point.values[name] = value


def _everything(comparison: Comparison) -> dict[str, Any]:
    return {
        "data": comparison.data,
        "images": comparison.images,
        "command": comparison.command,
        "versions": comparison.versions,
        "machine": comparison.machine,
        "anchor": comparison.anchor,
        "metrics": {name: TITLES[name] for name in metrics_of(comparison.curves)},
        "notes": comparison.notes,
        "codecs": [
            {
                "codec": curve.codec,
                "fingerprint": curve.fingerprint,
                "published": curve.published,
                "points": [vars(point) for point in curve.points],
            }
            for curve in comparison.drawn
        ],
        "summary": [asdict(line) for line in comparison.summary()],
    }
