"""``python evaluate.py``: many codecs on one data set, from files on disk to one report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from ..codecs import CodecError
from ..data import load_data
from ..evaluation.compare import evaluate, tables_of_files
from ..evaluation.metrics.learned import load_metrics
from ..evaluation.points import parse_specs
from ..evaluation.report.page import write_report
from ..evaluation.report.plots import plot_files
from ..evaluation.tables import RATES, summary_text
from .errors import run


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="evaluate", exit_on_error=False, description="Measure codecs on a data set, or tabulate or plot results."
    )
    p.add_argument("--codecs", nargs="+", default=[],
                   help="NAME or NAME:OPTION=VALUE,...: model=FOLDER, options of the codec or of loading the model")
    p.add_argument("--data", default="kodak", help="kodak, imagenet64 or any folder of photos")
    p.add_argument("--data-dir", default="datasets", help="where kodak/ and imagenet64/ are")
    p.add_argument("--points", nargs="+", default=[], help="rate points, e.g. webp:10,50,90 diffc:0.1,0.25,lossless")
    p.add_argument("--anchors", nargs="+", default=[], help="codecs BD-rates refer to (default: jpeg, or the first)")
    p.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="bits per pixel of the tables' columns")
    p.add_argument("--bd-range", nargs=2, type=float, help="BD-rates only between these bits per pixel")
    p.add_argument("--published", nargs="+", type=Path, default=[],
                   help="files or folders of others' figures on this data: mean curves (.json, .yml), points of each "
                        "image (.tsv, as Cool-chic publishes)")
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where models run")
    p.add_argument("--devices", type=int, default=1, help="processes, each with its device")
    p.add_argument("--num-nodes", type=int, default=1, help="machines")
    p.add_argument("--limit", type=int | None, help="only the first so many images")
    p.add_argument("--pictures", type=int, default=2, help="images to show in the report")
    p.add_argument("--hypothetical", action="store_true", help="also ideal coders, estimates, bounds; marked as such")
    p.add_argument("--metrics", nargs="+", default=[], help="also lpips, dists, clip, qalign, fid, patch-fid")
    p.add_argument("--tables", nargs="+", type=Path,
                   help="only make -o FILE.md and FILE.json from such output folders, or their files in per-image/")
    p.add_argument("--plot", nargs="+", type=Path, help="only plot these JSON files to -o FIGURE")
    p.add_argument("--metric", default="psnr-rgb", help="metric of --plot")
    p.add_argument("--max-bpp", type=float | None, help="end of the rate axis of --plot")
    p.add_argument("-o", "--out", type=Path, required=True,
                   help="output folder; for --tables, FILE.md; for --plot, the figure")
    return p


def title(path: str, name: str) -> str:
    """What the data set is called: a folder named for its split has its parent's name in front, "photos/val"."""
    folder = Path(path).resolve()
    return f"{folder.parent.name}/{name}" if name == folder.name and name in ("train", "val", "valid", "test") else name


def main(args: list[str] | None = None) -> int:
    """Evaluate or plot; returns the exit status."""
    words = sys.argv[1:] if args is None else args
    try:
        a = parser().parse_args(words)
    except ArgumentError as error:  # one line, without the usage of thirty options
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    command = shlex.join(["python", "evaluate.py", *words])
    bd_range = tuple(a.bd_range) if a.bd_range else None

    def action() -> int:
        if a.plot:
            plot_files(a.plot, a.out, a.metric, a.max_bpp)
            print(a.out)
            return 0
        if a.tables:
            print(tables_of_files(a.tables, a.published, a.out, command, a.rates, a.anchors, bd_range))
            return 0
        if not a.codecs:
            raise CodecError("name codecs with --codecs, or result files with --tables or --plot")
        if (a.limit is not None and a.limit < 1) or a.pictures < 0:
            raise CodecError("--limit must be at least 1, --pictures at least 0")
        specs = parse_specs(a.codecs, a.points)
        data = load_data(a.data, a.data_dir)
        data.name = title(a.data, data.name)
        if a.limit is not None:
            data = data.first(a.limit)
        with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("evaluate", total=len(specs) * len(data))
            result = evaluate(
                specs,
                data,
                a.out,
                command=command,
                anchors=a.anchors,
                rates=a.rates,
                bd_range=bd_range,
                device=a.device,
                devices=a.devices,
                num_nodes=a.num_nodes,
                published=a.published,
                pictures=a.pictures,
                hypothetical=a.hypothetical,
                learned=load_metrics(a.metrics, a.device),
                tick=lambda line: bar.console.print(line, markup=False) if line else bar.advance(task),
            )
        if result is None:  # not the first of several processes
            return 0
        write_report(result, a.out / "report.html")
        print(summary_text(result.summary(), result.anchor))
        print(a.out / "report.html")
        return len(result.failures)

    return run(action)


if __name__ == "__main__":
    raise SystemExit(main())
