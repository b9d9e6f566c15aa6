"""Which codecs there are, and how one is opened with its model.

A new codec is its file and one line in CODECS; if it writes files of our format, one in MODEL_CODECS, too.
Codecs are imported on first use, because some take seconds.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, NamedTuple

import torch

from ..lightning_modules import LOADING, find_model, load_model
from ..lightning_modules.identity import fingerprint
from ..lightning_modules.loading import is_name
from .base import Codec, CodecError, Header

# name: "module:class"; a module with a dot in front is one of this package
CODECS = {
    "diffc": ".diffc.codec:DiffC",
    "uqdm": ".uqdm.codec:UQDMCodec",
    "bitsback": ".bitsback.codec:BitsBack",
    "jpeg": ".baselines.pillow:Jpeg",
    "jpeg2000": ".baselines.pillow:Jpeg2000",
    "webp": ".baselines.pillow:WebP",
    "avif": ".baselines.pillow:Avif",
    "jxl": ".baselines.pillow:JpegXl",
    "png": ".baselines.pillow:Png",
    "vvc": ".baselines.ffmpeg:Vvc",
    "hevc": ".baselines.ffmpeg:Hevc",
    "compressai": ".baselines.compressai:CompressAI",
}


class ModelCodec(NamedTuple):
    """What else belongs to a codec that works with a model and writes files of our format (docs/format.md).

    file_number      what a file calls the codec, 1 to 7
    parameter_bytes  length of Header.params
    default_model    shipped model that it takes unless told otherwise
    """

    file_number: int
    parameter_bytes: int
    default_model: str


MODEL_CODECS = {
    "diffc": ModelCodec(1, 2, "diffc-pixel-2"),
    "uqdm": ModelCodec(2, 1, "uqdm-photo"),
    "bitsback": ModelCodec(3, 4, "diffc-pixel"),
}


def codec_names() -> list[str]:
    """Names of all codecs, sorted."""
    return sorted(CODECS)


def codec_class(name: str) -> Any:
    """The class of the codec called `name`; raises CodecError."""
    if name not in CODECS:
        raise CodecError(f"unknown codec {name!r}; available: {', '.join(codec_names())}")
    module, _, cls = CODECS[name].partition(":")
    return getattr(import_module(module, __package__), cls)


def get_codec(name: str, **options: Any) -> Codec:
    """The codec called `name`, built with `options` (e.g. ``model=load_model(folder)`` for diffc and uqdm)."""
    return codec_class(name)(**options)


def open_codec(name: str, model: str | None, device: str | torch.device | None, options: dict[str, Any]) -> Codec:
    """The codec called `name` with its model loaded; raises CodecError or ModelError, also for unknown options.

    model    folder or name as of load_model; None: the codec's own
    device   "cpu", "cuda", ...; None: a GPU where there is one
    options  of the codec's constructor or else of load_model
    """
    factory, has_model = codec_class(name), name in MODEL_CODECS
    known = inspect.signature(factory).parameters
    loading = {option: value for option, value in options.items() if option not in known}
    foreign = [option for option in loading if not has_model or option not in LOADING]
    for option in [*foreign, *(["model"] if model is not None and not has_model else [])]:
        raise CodecError(f"--{option.replace('_', '-')} does not apply to --codec {name}")
    own = {option: value for option, value in options.items() if option in known}
    if not has_model:
        return factory(**own)
    return factory(model=load_model(model or MODEL_CODECS[name].default_model, device=device, **loading), **own)


def codec_for(header: Header, model: str | None, device: str | torch.device | None, options: dict[str, Any]) -> Codec:
    """The codec that decodes files with `header`, and the model that wrote them; arguments as of `open_codec`.

    Without `model`, all shipped models are searched for the one of the header's fingerprint.  A folder's fingerprint is
    compared before anything is loaded, except where it depends on more than the folder: on a schedule of DiffC, or on
    which parts of a pipeline are in use.  The codec then refuses the file itself.
    Raises CodecError naming both models, or ModelError.
    """
    name = model or MODEL_CODECS[header.codec].default_model
    if is_name(name):
        return open_codec(header.codec, name, device, options)
    folder = find_model(name, options.get("variant"), options.get("local_files_only", False))
    if not (folder / "model_index.json").is_file() and "schedule" not in options:
        found = fingerprint(folder)
        shipped = sorted(folder.parent.iterdir()) if model is None else []
        others = (other for other in shipped if other.is_dir() and fingerprint(other) == header.fingerprint)
        fitting = folder if found == header.fingerprint else next(others, None)
        if fitting is None:
            raise CodecError(
                f"the file was written with model {header.fingerprint.hex()}, but {folder} is model {found.hex()}"
                + ("" if model else "; name the right one with --model")
            )
        folder = fitting
    return open_codec(header.codec, str(folder), device, options)
