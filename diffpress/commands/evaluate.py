"""``python evaluate.py``: many codecs on one data set, from files on disk to one report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from .command_line import CONFIG, CommandLine
from .errors import NothingAsked, UsageError, run
from .options import Option, constant


def parser() -> CommandLine:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = CommandLine("evaluate.py", "Measure codecs on photos, or make tables or a figure of such results.", [
        "evaluate.py --codecs diffc:preset=fast webp jpeg --data photos -o results",
        "evaluate.py --codecs diffc:model=my-prior --points diffc:0.1,0.25,lossless --data kodak -o results",
        "evaluate.py --tables results -o table.md     # and table.json; or table.tex, table.tsv",
        "evaluate.py --plot results -o figure.svg",
    ])  # fmt: skip
    p.add_options("common options", [
        Option("codecs", "str", [],
               "NAME or NAME:OPTION=VALUE,...: model=FOLDER, options of the codec or of loading the model", words="+"),
        Option("data", "str", "kodak", "kodak, imagenet64 or any folder of photos"),
        Option("out", "Path", help="output folder; for --tables, FILE.md, .tex or .tsv (every point of every image); "
               "for --plot, the figure",
               aliases=("-o",)),
        Option("points", "str", [], "rate points, e.g. webp:10,50,90 diffc:0.1,0.25,lossless; if not given: those "
               "of each codec", words="+"),
        Option("limit", "int", help="only the first so many images", least=1),
        Option("device", "str", "auto", "where models run: auto, cpu or cuda", ("auto", "cpu", "cuda")),
        Option("data_dir", "str", "datasets", "where kodak/ and imagenet64/ are"),
        CONFIG,
    ])  # fmt: skip
    p.add_options("what is measured", [
        Option("metrics", "str", [], "also vmaf, psnr-hvs, ssimulacra2, butteraugli, lpips, dists, clip, qalign, fid, "
               "patch-fid; what is measured already stays, and only what is new is added", words="+"),
        Option("hypothetical", "bool", False, "also ideal coders, estimates, bounds; marked as such"),
        Option("devices", "int", 1, "processes, each with its device"),
        Option("num_nodes", "int", 1, "machines"),
    ])  # fmt: skip
    p.add_options("tables and figures", [
        Option("anchors", "str", [], "codecs that BD-rates refer to; if not given: jpeg, or the first", words="+"),
        Option("rates", "float", list(constant("evaluation/tables.py", "RATES")),
               "bits per pixel of the tables' columns", words="+"),
        Option("bd_range", "float", help="BD-rates only between these two rates, in bits per pixel", words=2),
        Option("published", "Path", [], "files or folders of others' figures on this data: mean curves (.json, .yml), "
               "points of each image (.tsv, as Cool-chic publishes)", words="+"),
        Option("pictures", "int", 2, "images to show in the report", least=0),
        Option("tables", "Path", [],
               "only make -o FILE from such output folders, or their files in per-image/", words="+"),
        Option("plot", "Path", [], "only plot such folders or files to -o FIGURE (.svg, .pdf, .png)", words="+"),
        Option("metric", "str", "psnr-rgb", "metric of --plot"),
        Option("max_bpp", "float", help="end of the rate axis of --plot"),
    ])  # fmt: skip
    return p


def title(path: str, name: str) -> str:
    """What the data set is called: a folder named for its split has its parent's name in front, "photos/val"."""
    folder = Path(path).resolve()
    return f"{folder.parent.name}/{name}" if name == folder.name and name in ("train", "val", "valid", "test") else name


def main(args: list[str] | None = None) -> int:
    """Exit code: 0, 1 if some images failed, 2 if nothing could be done."""
    words = sys.argv[1:] if args is None else args
    return run(lambda: _command(words))


def _command(words: list[str]) -> int:
    p, command = parser(), shlex.join(["python", "evaluate.py", *words])
    a = p.parse_args(words)
    for name, option in p.options.items():
        if getattr(a, name) is None:
            setattr(a, name, option.default)
    bd_range = tuple(a.bd_range) if a.bd_range else None
    if not (a.codecs or a.tables or a.plot):
        raise NothingAsked("\n".join(f"python {example}" for example in p.examples[::2]))
    if a.out is None:
        raise UsageError("-o must name the output folder, or the file for --tables and --plot")
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from ..data import load_data
    from ..evaluation.compare import evaluate
    from ..evaluation.kept import plot_of_files, tables_of_files
    from ..evaluation.markup import markdown
    from ..evaluation.metrics.learned import load_metrics
    from ..evaluation.points import parse_specs
    from ..evaluation.report.page import write_report
    from ..evaluation.tables import summary_table

    if a.plot:
        plot_of_files(a.plot, a.published, a.out, a.metric, a.max_bpp)
        print(a.out)
        return 0
    if a.tables:
        print(tables_of_files(a.tables, a.published, a.out, command, a.rates, a.anchors, bd_range))
        return 0
    specs = parse_specs(a.codecs, a.points)
    data = load_data(a.data, a.data_dir)
    data.name = title(a.data, data.name)
    data.names = data.names[: a.limit]
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("evaluate", total=len(specs) * len(data))
        same = ("anchors", "rates", "device", "devices", "num_nodes", "published", "pictures", "hypothetical")
        result = evaluate(
            specs, data, a.out, command=command, bd_range=bd_range, learned=load_metrics(a.metrics, a.device),
            tick=lambda line: bar.console.print(line, markup=False) if line else bar.advance(task),
            **{name: getattr(a, name) for name in same},
        )  # fmt: skip
    if result is None:  # not the first of several processes
        return 0
    write_report(result, a.out / "report.html")
    print(markdown([summary_table(result.summary(), result.anchor)]))
    print(a.out / "report.html")
    return 1 if result.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
