"""``python compress.py photo.jpg``: images to files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from .command_line import CONFIG, JOBS, CommandLine
from .errors import NothingAsked, UsageError, run
from .options import RECONSTRUCTING, Option, codec_options, codec_places, loading_options, merged, model_options, route

CODEC = Option("codec", "str", "diffc")
TARGETS = ("bpp", "lossless", "psnr", "bytes", "quality")
RATES = (*TARGETS, "segments")  # options that say how large a file may be
DEFAULT_BPP = 1.0
FOCUS = Option("focus", "Path", help="image of the same size: white where bits matter, black where they do not")
COMMON = ("segments", "preset")  # of the codecs' own options, those that stand on top of the help
PROMPTED = ("captions", "caption_model", "focus")  # for codecs that take a prompt
PROMPTS = [
    Option("captions", "Path", help="a prompt for each image: a file of lines NAME<tab>TEXT, or of JSON"),
    Option("caption_model", "str", help="BLIP model, folder or hub id, that writes a prompt for each image"),
]


def parser() -> CommandLine:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = CommandLine("compress.py", "Compress images: files, folders or glob patterns.", [
        "compress.py photo.jpg --bpp 0.5                # writes photo.dfc beside it",
        "compress.py photos -o files --bpp 0.25         # a folder in, a folder out",
        "compress.py --codec uqdm --lossless photo.png  # every pixel comes back",
    ])  # fmt: skip
    p.add_argument("images", nargs="*", help="images, folders of images, glob patterns")
    sources = {name: _encoding(name) for name in codec_places()}
    learned = {name: own for name, own in sources.items() if codec_options(name).takes_model}
    others = {name: sources[name] for name in sorted(sources) if name not in learned}
    everything = {one.name: one for one in merged(learned | others | {"diffusers pipelines": loading_options()})}
    p.add_options("common options", [
        replace(CODEC, help=f"one of {', '.join([*learned, *others])}"),
        Option("out", "Path", help="folder for the files, or the file for one image; beside the input, if not given",
               aliases=("-o", "--output-dir")),
        *(_common(name, learned, others) for name in COMMON),
        *model_options("model folder, or hub id of a diffusers pipeline; the one shipped for the codec, if not given"),
        CONFIG,
        Option("force", "bool", help="overwrite existing files"),
    ])  # fmt: skip
    p.add_options("how good or how large: one of these", [_common(name, learned, others) for name in TARGETS])
    p.add_options("photographs", [
        Option("background", "str", help="composite transparency over this colour, a name or #rrggbb; if not given, "
               "files of our format keep it, and others have it over white"),
        Option("metadata", "str", help="keep: EXIF, XMP and colour profile go into the file; if not given, colours are "
               "converted to sRGB and the rest is left out", choices=("keep",)),
    ])  # fmt: skip
    p.add_options("folders", [
        JOBS,
        Option("resume", "bool", help="go on where a run into the same folder ended: files that are done are checked "
               "and skipped"),
        Option("verify", "bool", help="decode every file in a fresh process before it is written, and record its PSNR"),
        Option("shard", "str", help="I/N: of all files every N-th from the I-th on, for N machines with one folder"),
    ])  # fmt: skip
    for name, own in learned.items():
        p.add_options(name, [everything[key] for key in own] + ([FOCUS] if "prompt" in own else []))
        if "prompt" in own:
            p.add_options(f"{name}, a prompt for each image", PROMPTS)
    p.add_options("codecs for comparison", [everything[key] for own in others.values() for key in own])
    p.add_options("loading a model", loading_options().values())
    p.add_options("as in the published DiffC code", [Option("image_dir", "str", help="folder of images")])
    return p


def _encoding(codec: str) -> dict[str, Option]:
    """Options of a codec that an encoder uses and that are not called like one of the command itself."""
    own, others = codec_options(codec), ("config", *RECONSTRUCTING)
    return {name: one for name, one in (own.encode | own.constructor).items() if name not in others}


def _common(name: str, learned: dict[str, dict[str, Option]], others: dict[str, dict[str, Option]]) -> Option:
    """An option on top of the help: a line for each of our codecs, and for others only where they have a default."""
    telling = {codec: own for codec, own in others.items() if name in own and "(default" in own[name].description}
    (option,) = (one for one in merged(learned | telling) if one.name == name)
    rest = [codec for codec, own in others.items() if name in own and codec not in telling]
    also = [f"also for {', '.join(rest)}"] if rest else []
    default = [f"{CODEC.default} without any rate: {DEFAULT_BPP:g}"] if name == "bpp" else []
    return replace(option, help="\n".join([option.help, *default, *also]))


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if some images failed, 2 if nothing could be done."""
    return run(lambda: _command(vars(parser().parse_args(args))))


def _shard(given: str | None) -> tuple[int, int]:
    """(number from 0, number of shards) of I/N; raises UsageError."""
    first, _, count = (given or "1/1").partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise UsageError(f"--shard takes I/N with I from 1 to N, such as 1/4, not {given}")
    return int(first) - 1, int(count)


def _command(given: dict[str, Any]) -> int:
    name = given["codec"] or CODEC.default
    own = codec_options(name)
    inputs = [*given["images"], *([given["image_dir"]] if given["image_dir"] else [])]
    if not inputs:
        raise NothingAsked(
            f"python compress.py --codec {name} photo.png    # writes photo{own.suffix} beside it\n"
            f"python decompress.py photo{own.suffix} -o copy.png    # and back"
        )
    if sum(given[key] is not None for key in ("prompt", "captions", "caption_model")) > 1:
        raise UsageError("give one of --prompt, --captions and --caption-model")
    prompted = "prompt" in own.encode
    applies = {"model": own.takes_model, "metadata": own.takes_model} | dict.fromkeys(PROMPTED, prompted)
    for key in (key for key, good in applies.items() if given[key] is not None and not good):
        raise UsageError(f"--{key.replace('_', '-')} does not apply to --codec {name}")
    default_rate = name == CODEC.default and all(given.get(key) is None for key in RATES)
    if default_rate:
        given["bpp"] = DEFAULT_BPP
    names = {*loading_options()}.union(*map(_encoding, codec_places()))
    routed = route(name, given, [key for key in given if key in names])

    from ..codecs.targets import check_targets, read_focus
    from ..data import list_images
    from ..data.images import check_colour
    from .batch import default_processes, run_batch
    from .coding import Compressing
    from .files import plan, remove_leftovers
    from .manifest import Manifest

    check_targets(name, routed.encode)
    if given["focus"] is not None:
        routed.encode["focus"] = read_focus(given["focus"])
    if given["background"] is not None:
        check_colour(given["background"])
    settings = Compressing(
        name, given["model"], given["device"], routed, given["captions"], given["caption_model"], given["background"],
        bool(given["metadata"]), bool(given["verify"]), bool(given["resume"]), bool(given["force"]),
    )  # fmt: skip
    number, shards = _shard(given["shard"])
    planned = plan(inputs, partial(list_images, recursive=True), own.suffix, given["out"],
                   settings.force or settings.resume, (number, shards))  # fmt: skip
    jobs = planned.jobs
    if planned.folder is None and (settings.resume or shards > 1):
        raise UsageError("--resume and --shard are for several images into one folder; name it with -o")
    processes = given["jobs"] or default_processes(len(jobs), own.takes_model, given["device"])
    manifest = None
    if planned.folder is not None:
        manifest = Manifest(planned.folder, f"-{number + 1}-of-{shards}" if shards > 1 else "")
    with manifest or nullcontext():
        if manifest is not None and settings.resume:
            remove_leftovers([manifest.path, *(target for _, target in jobs)])
        code = run_batch(jobs, settings, processes, manifest, settings.resume)
    if default_rate and code == 0:
        print(f"at most {DEFAULT_BPP:g} bpp, as no rate was given; choose with --bpp, --psnr, --quality or --lossless")
    return code
