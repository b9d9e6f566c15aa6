"""One command's worth of evaluation: run the loop, then write every output of it below one folder.

``records/`` and ``files/`` are the loop's.  Every run makes from them anew: ``results.tsv`` (each point of each image),
``per-image/CODEC.json`` (per_image.py), ``tables.md``, ``tables.tex`` and ``tables.json`` with the same figures,
``curves-METRIC.svg`` and ``.pdf``, and ``report.html``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data import write_file
from ..data.datasets import NamedImages
from .bd import MIN_POINTS
from .kept import check_anchors, page_head
from .loop import EvaluationLoop, record_path, run
from .markup import Part, latex, markdown
from .metrics.learned import LearnedMetrics
from .per_image import PerImage, of_records, write_per_image
from .points import CodecSpec, slug
from .published import read_published
from .records import Measurement, Record, read_record, sentence
from .report.plots import draw, save_figure
from .results import Curve, average, metrics_of, write_json, write_tsv
from .tables import RATES, SECONDS, Summary, parts, points_table, summarise, summary_table, tables


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
    anchors: Sequence[str]
    rates: Sequence[float]
    bd_range: tuple[float, float] | None
    specs: Sequence[CodecSpec]
    records: list[Record]
    curves: list[Curve]
    per_image: list[PerImage]
    published: list[PerImage]
    pictured: Sequence[str]
    notes: list[str]

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

    def summary(self) -> list[Summary]:
        """A line for each codec that was measured, and for each with published points of these images."""
        others = [Curve(one.codec) for one in self.per_image if one.published]
        return summarise([*self.curves, *others], self.per_image, self.anchor)

    def tables(self) -> dict[str, Any]:
        """The figures of both tables of averages (tables.py), and of every mean point, with where they come from."""
        origin = {"data": self.data, "images": self.images, "command": self.command, "notes": self.notes}
        figures = tables(self.per_image, self.published, self.rates, self.anchors, self.bd_range)
        points = [
            {"codec": curve.codec, "point": point.point}
            | {key: point.values[key] for key in ("bpp", *metrics_of([curve]), *point.values) if key in point.values}
            | {"images": point.images, "of": point.of, "hypothetical": point.hypothetical}
            for curve in self.curves
            for point in curve.points
        ]
        summary = [asdict(line) for line in self.summary()]
        return {**origin, "versions": self.versions, "machine": self.machine, **figures} | {
            "summary": summary, "points": points,
        }


def _merged(origins: Sequence[dict[str, str]]) -> dict[str, str]:
    """By key the values that occur, each once, in the order of the records."""
    keys = dict.fromkeys(key for origin in origins for key in origin)
    return {key: " and ".join(dict.fromkeys(o[key] for o in origins if key in o)) for key in keys}


def write_outputs(comparison: Comparison) -> None:
    """Everything but the HTML report."""
    out, curves = comparison.out, comparison.curves
    write_tsv(comparison.records, out / "results.tsv")
    for one in comparison.per_image:
        if not one.published:
            write_per_image(one, out / "per-image" / f"{slug(one.codec)}.json")
    write_json(comparison.tables(), out / "tables.json")
    origin, found = _parts(comparison)
    write_file(out / "tables.md", (origin + markdown(found)).encode())
    write_file(out / "tables.tex", latex(found).encode())
    for metric in metrics_of(curves):
        figure = draw(comparison.per_image, metric, f"{comparison.data}, {comparison.images} images")
        if figure is not None:
            for suffix in (".svg", ".pdf"):
                save_figure(figure, out / f"curves-{metric}{suffix}")


def _parts(comparison: Comparison) -> tuple[str, list[Part]]:
    """Head of the Markdown page, with command, versions and machine; the tables, whose figures tables.json has."""
    models = [f"{c.codec}: {c.fingerprint}" for c in comparison.curves if c.fingerprint]
    lines = [
        page_head(comparison.data, comparison.images, "tables.json", comparison.command),
        ", ".join(f"{k} {v}" for k, v in comparison.machine.items()) + "  ",
        ", ".join(f"{k} {v}" for k, v in comparison.versions.items()) + "\n",
        *([f"Model fingerprints: {', '.join(models)}\n"] if models else []),
    ]
    failures = comparison.failures
    notes = comparison.notes + ([f"{len(failures)} failures, first: {failures[0]}"] if failures else [])
    summary = summary_table(comparison.summary(), comparison.anchor)
    found = [*parts(comparison.tables()), SECONDS, summary, "Means over images at equal settings:"]
    return "\n".join(lines) + "\n", [*found, points_table(comparison.curves), *notes]


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
    published: Sequence[Path] = (),
    pictures: int = 2,
    hypothetical: bool = False,
    tick: Callable[[str], None] = lambda line: None,
) -> Comparison | None:
    """Measure `specs` on `data` and write all outputs; what is measured already is not measured again.

    anchors    codecs of the BD-rates; none: jpeg if it was measured, else the first codec with a curve
    rates, bd_range  bpp of the tables' columns, and between which points count for BD-rates
    learned    further metrics
    published  files of others' figures
    Further arguments: see EvaluationLoop and `run`.  None on every process but the first, which alone writes outputs.
    Raises CodecError or ImageError before measuring when one of `anchors` is none of the curves, or `published` cannot
    be read or is of other images.
    """
    learned = learned or LearnedMetrics()
    points, means = read_published(published, data.name, data.names)
    others = [*(one.codec for one in points), *(curve.codec for curve in means)]
    check_anchors(anchors, [*(spec.label for spec in specs), *others])
    loop = EvaluationLoop(specs, data, out, learned.image, pictures, hypothetical, bool(learned.sets), tick)
    if not run(loop, device, devices, num_nodes):
        return None
    records = [_record(out, spec, name, hypothetical) for spec, name in itertools.product(specs, data.names)]
    curves = average(records)
    if not anchors:
        labels = [curve.codec for curve in curves if len(curve.lossy()) >= MIN_POINTS]
        anchors = ["jpeg"] if "jpeg" in labels else labels[:1]
    per_image = [*of_records(records, data.name, command), *points]
    comparison = Comparison(
        out, data.name, command, anchors, rates, bd_range, specs, records, curves, per_image, means,
        data.names[:pictures], learned.notes,
    )  # fmt: skip
    _add_set_metrics(comparison, learned)
    write_outputs(comparison)
    return comparison


def _record(out: Path, spec: CodecSpec, name: str, hypothetical: bool) -> Record:
    """What was measured; a missing record is a failure that is said, and no image less to average over."""
    record = read_record(record_path(out, spec, name))
    if record is None:
        record = Record(spec.label, name, 0, 0, points=[Measurement("all", error="its record or a file is missing")])
    record.points = [point for point in record.points if hypothetical or not point.hypothetical]
    return record


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
