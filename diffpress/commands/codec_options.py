"""Which options a command offers for its codecs, and which call of a codec takes each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from .errors import UsageError
from .option import Option
from .signatures import (
    class_constant,
    class_options,
    codec_places,
    constant,
    function_options,
    method_options,
    takes_model,
)

# What only a decoder uses of a constructor's options, and what both sides use.
ENDING = ("reconstruction", "flow_steps")
DECODING = (*ENDING, "schedule", "denoising_guidance")


@dataclass(frozen=True)
class CodecOptions:
    """What a codec takes, by the call that takes it.

    suffix       of the files it writes, dot included
    takes_model  whether a model must be loaded for it
    """

    suffix: str
    takes_model: bool
    constructor: dict[str, Option]
    encode: dict[str, Option]


@cache
def codec_options(name: str) -> CodecOptions:
    """Options of the codec called `name`; raises UsageError for an unknown one."""
    places = codec_places()
    if name not in places:
        raise UsageError(f"unknown codec {name!r}; available: {', '.join(sorted(places))}")
    place = places[name]
    encode = method_options(*place, "encode")
    if name in constant("codecs/targets.py", "CODECS_WITH_TARGETS"):
        encode |= function_options("codecs/targets.py", "encode_to")
    return CodecOptions(class_constant(*place, "suffix"), takes_model(*place), class_options(*place), encode)


@cache
def loading_options() -> dict[str, Option]:
    """Options of load_model beside the device: those of its pipelines, and where hub ids are looked up."""
    pipeline = class_options("lightning_modules/priors/latent.py", "LatentPrior")
    refiner = class_options("lightning_modules/priors/stable_diffusion.py", "SDXLPrior")["refiner"]
    options: dict[str, Option] = {name: one for name, one in pipeline.items() if name not in ("folder", "device")}
    options["refiner"] = replace(refiner, kind="str", help=f"SDXL: {refiner.help}")
    options["local_files_only"] = Option(
        "local_files_only", "bool", help="look hub ids up in the local cache alone (as HF_HUB_OFFLINE=1)"
    )
    return options


def model_options(help_text: str) -> list[Option]:
    """--model and --device, the same for every command."""
    return [
        Option("model", "str", help=help_text),
        Option("device", "str", help="cpu, cuda, cuda:1, ...; a GPU where there is one, if not given"),
    ]


def merged(sources: dict[str, dict[str, Option]]) -> list[Option]:
    """One option for each name in the options of several codecs; its help has a line per codec, or codecs alike."""
    result = []
    for name in dict.fromkeys(name for options in sources.values() for name in options):
        ones = {codec: options[name] for codec, options in sources.items() if name in options}
        alike: dict[str, list[str]] = {}
        for codec, one in ones.items():
            alike.setdefault(one.description, []).append(codec)
        lines = [f"{', '.join(codecs)}: {text}" for text, codecs in alike.items() if text]
        kinds, choices = {one.kind for one in ones.values()}, {one.choices for one in ones.values()}
        kind = kinds.pop() if len(kinds) == 1 else "number" if kinds == {"int", "float"} else "str"
        result.append(Option(name, kind, None, "\n".join(lines), choices.pop() if len(choices) == 1 else ()))
    return result


@dataclass
class Routed:
    """Options of one command line, by the call that takes them."""

    constructor: dict[str, Any] = field(default_factory=dict)
    encode: dict[str, Any] = field(default_factory=dict)
    loading: dict[str, Any] = field(default_factory=dict)


def route(codec: str, given: dict[str, Any], names: Iterable[str]) -> Routed:
    """The options `names` that were given, for `codec`; raises UsageError for one that it does not take."""
    own, routed = codec_options(codec), Routed()
    for name in names:
        value = given.get(name)
        if value is None:
            continue
        if name in own.encode:
            routed.encode[name] = value
        elif name in own.constructor:
            routed.constructor[name] = value
        elif own.takes_model and name in loading_options():
            routed.loading[name] = value
        else:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to --codec {codec}")
    return routed

