"""One command's worth of evaluation: run the loop, then write every output of it below one folder.

``records/`` and ``files/`` are the loop's; ``results.csv``, ``json/CODEC.json`` (CompressAI's form), ``results.json``,
``tables.md``, ``curves-METRIC.png`` and ``.svg`` and ``report.html`` are made from them anew by every run.
"""

from __future__ import annotations

import glob
import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..codecs import CodecError
from ..data import read_image, write_file
from ..data.datasets import NamedImages
from .bd import MIN_POINTS
from .loop import EvaluationLoop, record_path, run
from .metrics.learned import LearnedMetrics
from .points import CodecSpec
from .published import read_curves
from .records import Record, read_record, sentence
from .report.plots import draw, save_figure
from .results import (
    TITLES,
    Curve,
    Summary,
    average,
    compressai_json,
    metrics_of,
    points_text,
    summarise,
    table_text,
    write_csv,
    write_json,
)

SECONDS = (
    "Seconds are means over images and points, memory is the largest peak of the process. Where points are prefixes of "
    "one file, each has the encoding time of the whole file."
)


@dataclass
class Comparison:
    """What one run knows at its end; the report is drawn from this.

    published  curves of others, drawn as such
    pictured   names of the images that are shown
    notes      sentences about what is missing, e.g. metrics whose weights cannot be had
    """

    out: Path
    data: str
    command: str
    anchor: str
    specs: list[CodecSpec]
    records: list[Record]
    curves: list[Curve]
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

    def summary(self) -> list[Summary]:
        """The comparison table, measured codecs first."""
        return summarise([*self.curves, *self.published], self.anchor)


def collect(
    specs: Sequence[CodecSpec],
    names: Sequence[str],
    out: Path,
    *,
    data: str,
    command: str,
    anchor: str = "",
    published: Sequence[Curve] = (),
    pictures: int = 2,
    notes: Sequence[str] = (),
) -> Comparison:
    """Read the records of `specs` on the images `names` and average them.

    anchor  codec of the BD-rates; "" takes jpeg if it was measured, else the first codec with a curve
    """
    found = [read_record(record_path(out, spec, name)) for spec in specs for name in names]
    records = [record for record in found if record is not None]
    curves = average(records)
    labels = [curve.codec for curve in curves if len(curve.lossy()) >= MIN_POINTS]
    chosen = anchor or ("jpeg" if "jpeg" in labels else labels[0] if labels else "")
    shown = list(names[:pictures])
    return Comparison(out, data, command, chosen, list(specs), records, curves, list(published), shown, list(notes))


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
                write_json(compressai_json(curve, description, hypothetical), out / "json" / f"{name}.json")
    write_json(_everything(comparison), out / "results.json")
    write_tables(comparison, out / "tables.md")
    for metric in metrics_of(curves):
        figure = draw([*curves, *comparison.published], metric, f"{comparison.data}, {comparison.images} images")
        for suffix in (".png", ".svg"):
            save_figure(figure, out / f"curves-{metric}{suffix}")


def write_tables(comparison: Comparison, path: Path) -> None:
    """The tables as Markdown, with command, versions and machine."""
    lines = [f"# {comparison.data}, {comparison.images} images", "", "```", comparison.command, "```", ""]
    lines += [", ".join(f"{k} {v}" for k, v in comparison.machine.items()) + "  "]
    lines += [", ".join(f"{k} {v}" for k, v in comparison.versions.items()), ""]
    models = [f"{c.codec}: {c.fingerprint}" for c in comparison.curves if c.fingerprint]
    lines += [f"Model fingerprints: {', '.join(models)}", ""] if models else []
    lines += [table_text(comparison.summary(), comparison.anchor), "", SECONDS, ""]
    lines += [points_text(comparison.curves), ""]
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
    anchor: str = "",
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
    when `anchor` is none of the curves or `published` cannot be read.
    """
    learned = learned or LearnedMetrics()
    curves = [curve for path in published for curve in read_curves(path)]
    known = [*(spec.label for spec in specs), *(curve.codec for curve in curves)]
    if anchor and anchor not in known:
        raise CodecError(f"--anchor {anchor}: no such curve among {', '.join(known)}")
    loop = EvaluationLoop(specs, data, out, learned.image, pictures, hypothetical, bool(learned.sets), tick)
    if not run(loop, device, devices, num_nodes):
        return None
    comparison = collect(
        specs,
        data.names,
        out,
        data=data.name,
        command=command,
        anchor=anchor,
        published=curves,
        pictures=pictures,
        notes=[*notes, *learned.notes],
    )
    _add_set_metrics(comparison, learned)
    write_outputs(comparison)
    shutil.rmtree(out / "tensorboard", ignore_errors=True)  # everything is logged anew
    with SummaryWriter(str(out / "tensorboard")) as writer:
        tensorboard(comparison, writer)
    return comparison


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
            for curve in [*comparison.curves, *comparison.published]
        ],
        "summary": [vars(line) for line in comparison.summary()],
    }
