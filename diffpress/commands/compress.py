"""``python compress.py photo.jpg``: images to files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .codec_options import ENDING, codec_options, loading_options, merged, model_options, route
from .command_line import CommandLine
from .errors import NothingAsked, UsageError, run
from .option import Option
from .signatures import codec_places

CODEC = Option("codec", "str", "diffc")
TARGETS = ("bpp", "lossless", "psnr", "bytes", "quality")
FOCUS = Option("focus", "Path", help="image of the same size: white where bits matter, black where they do not")
COMMON = ("segments", "preset")  # of the codecs' own options, those that stand on top of the help
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
        Option("out", "Path", help="folder for the files, or the file for one image; beside the input, if not given"),
        *(_common(name, learned, others) for name in COMMON),
        *model_options("model folder, or hub id of a diffusers pipeline; the one shipped for the codec, if not given"),
        Option("config", "Path", help="YAML file with any of these options; options on the command line override it"),
        Option("force", "bool", help="overwrite existing files"),
    ], {"out": ("-o", "--output-dir")})  # fmt: skip
    p.add_options("how good or how large: one of these", [_common(name, learned, others) for name in TARGETS])
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
    own = codec_options(codec)
    return {name: one for name, one in (own.encode | own.constructor).items() if name not in ("config", *ENDING)}


def _common(name: str, learned: dict[str, dict[str, Option]], others: dict[str, dict[str, Option]]) -> Option:
    """An option on top of the help: a line for each of our codecs, and for others only where they have a default."""
    telling = {codec: own for codec, own in others.items() if name in own and "(default" in own[name].description}
    (option,) = (one for one in merged(learned | telling) if one.name == name)
    rest = [codec for codec, own in others.items() if name in own and codec not in telling]
    return replace(option, help=f"{option.help}\nalso for {', '.join(rest)}") if rest else option


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if some images failed, 2 if nothing could be done."""
    return run(lambda: _command(vars(parser().parse_args(args))))


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
    prompts = [key for key in ("captions", "caption_model") if given[key] is not None]
    if prompts and "prompt" not in own.encode:
        raise UsageError(f"--{prompts[0].replace('_', '-')} does not apply to --codec {name}")
    mine = {"codec", "out", "model", "device", "config", "force", "image_dir", "images", "captions", "caption_model",
            "focus"}  # fmt: skip
    routed = route(name, given, [key for key in given if key not in mine])
    if given["model"] is not None and not own.takes_model:
        raise UsageError(f"--model does not apply to --codec {name}")
    if given["focus"] is not None and "prompt" not in own.encode:
        raise UsageError(f"--focus does not apply to --codec {name}")

    from ..codecs.registry import open_codec
    from ..codecs.targets import check_targets, read_focus
    from ..data import list_images
    from .captions import prompts_by, prompts_from
    from .files import compress, plan

    prompt_of = prompts_from(given["captions"]) if given["captions"] is not None else None
    jobs = plan(inputs, list_images, own.suffix, given["out"], bool(given["force"]))
    if given["caption_model"] is not None:
        prompt_of = prompts_by(given["caption_model"], given["device"], bool(given["local_files_only"]))
    check_targets(name, routed.encode)
    if given["focus"] is not None:
        routed.encode["focus"] = read_focus(given["focus"])
    codec = open_codec(name, given["model"], given["device"], routed.constructor, routed.loading)
    return compress(codec, jobs, routed.encode, prompt_of)
