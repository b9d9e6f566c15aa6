"""``python decompress.py photo.dfc``: files back to images, whole or any prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .command_line import CONFIG, JOBS, CommandLine
from .errors import NothingAsked, run
from .options import DECODING, Option, codec_options, codec_places, constant, loading_options, merged, model_options

FORMAT = Option("format", "str", "png", "image format written", ("png", "webp", "bmp", "tiff"))


def parser() -> CommandLine:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = CommandLine("decompress.py", "Decompress files, folders of them or glob patterns to images.", [
        "decompress.py photo.dfc                        # writes photo.png beside it",
        "decompress.py files -o images                  # a folder in, a folder out",
        "decompress.py photo.dfc --segments 5 --force   # only the first five steps: coarser, sooner",
    ])  # fmt: skip
    p.add_argument("files", nargs="*", help="compressed files, folders, glob patterns")
    sources = {
        name: {key: one for key, one in codec_options(name).constructor.items() if key in DECODING}
        for name in codec_places() if codec_options(name).takes_model
    }  # fmt: skip
    options = {one.name: one for one in merged(sources)}
    p.add_options("common options", [
        Option("out", "Path", help="folder for the images, or the file for one; beside the input, if not given",
               aliases=("-o", "--output-dir")),
        Option("segments", "int", help="decode only this many refinement steps"),
        options.pop("reconstruction"),
        FORMAT,
        *model_options("model folder, or hub id of a diffusers pipeline; the shipped one that wrote the file, "
                       "if not given"),
        CONFIG,
        Option("recover", "bool", help="decode what there is of a damaged file, even if no checksum vouches for it"),
        Option("max_pixels", "int", constant("codecs/container.py", "MAX_PIXELS"),
               "refuse files that announce larger images"),
        Option("force", "bool", help="overwrite existing files"),
    ])  # fmt: skip
    for name, decoding in sources.items():
        if own := [options[key] for key in decoding if key in options]:
            p.add_options(name, own)
    p.add_options("folders", [JOBS])
    p.add_options("loading a model", loading_options().values())
    p.add_options("as in the published DiffC code", [Option("input_dir", "str", help="folder of files")])
    return p


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if some files failed, 2 if nothing could be done, 3 if some pictures are not whole."""
    return run(lambda: _command(vars(parser().parse_args(args))))


def _command(given: dict[str, Any]) -> int:
    inputs = [*given["files"], *([given["input_dir"]] if given["input_dir"] else [])]
    if not inputs:
        raise NothingAsked(
            "python decompress.py photo.dfc            # writes photo.png beside it\n"
            "python decompress.py files -o images      # a folder of files to a folder of images"
        )
    from .batch import default_processes, run_batch
    from .coding import Decompressing
    from .files import list_files, plan

    options = {name: given[name] for name in (*DECODING, *loading_options()) if given[name] is not None}
    planned = plan(inputs, list_files, f".{given['format'] or FORMAT.default}", given["out"], bool(given["force"]))
    settings = Decompressing(
        given["model"], given["device"], options, given["segments"], bool(given["recover"]),
        given["max_pixels"],
    )  # fmt: skip
    processes = given["jobs"] or default_processes(len(planned.jobs), True, given["device"])
    return run_batch(planned.jobs, settings, processes)
