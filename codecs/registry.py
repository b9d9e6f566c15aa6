"""Which codecs there are: a new one is its file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from .base import Codec, CodecError

# name: "module:class"; a module with a dot in front is one of this package.  Imported on first use: some take seconds.
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


def codec_names() -> list[str]:
    """Names of all codecs, sorted."""
    return sorted(CODECS)


def codec_class(name: str) -> Callable[..., Any]:
    """The class of the codec called `name`; raises CodecError."""
    if name not in CODECS:
        raise CodecError(f"unknown codec {name!r}; available: {', '.join(codec_names())}")
    module, _, cls = CODECS[name].partition(":")
    return getattr(import_module(module, __package__), cls)


def get_codec(name: str, **options: Any) -> Codec:
    """The codec called `name`, built with `options` (e.g. ``model=load_model(folder)`` for diffc and uqdm)."""
    return codec_class(name)(**options)
