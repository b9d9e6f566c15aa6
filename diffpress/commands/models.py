"""Which model a command uses: the one named, the one shipped for the codec, or the one that wrote a file."""

from __future__ import annotations

import inspect
from typing import Any

from ..codecs import Codec, CodecError, Header
from ..codecs.registry import codec_class
from ..lightning_modules import find_model, load_model
from ..lightning_modules.identity import fingerprint

DEFAULT_MODELS = {"diffc": "diffc-pixel", "uqdm": "uqdm-photo", "bitsback": "diffc-pixel"}


def open_codec(
    name: str, model: str | None, device: str | None, options: dict[str, Any], loading: dict[str, Any]
) -> Codec:
    """The codec with its model loaded; raises CodecError or ModelError, also for an option it does not have.

    options  of the codec; `loading` of load_model
    """
    factory = codec_class(name)
    known = inspect.signature(factory).parameters
    unknown = [option for option in options if option not in known]
    if name not in DEFAULT_MODELS:
        unknown += [*(["model"] if model is not None else []), *loading]
    if unknown:
        raise CodecError(f"--{unknown[0].replace('_', '-')} does not apply to --codec {name}")
    if name not in DEFAULT_MODELS:
        return factory(**options)
    return factory(model=load_model(model or DEFAULT_MODELS[name], device=device, **loading), **options)


def codec_for(
    header: Header, model: str | None, device: str | None, options: dict[str, Any], loading: dict[str, Any]
) -> Codec:
    """The codec that reads files with `header`: with the model given, else with the shipped one of that fingerprint."""
    folder = find_model(
        model or DEFAULT_MODELS[header.codec], loading.get("variant"), loading.get("local_files_only", False)
    )
    if (folder / "model_index.json").is_file() or "schedule" in options:
        # the fingerprint also depends on the schedule and the parts in use: the codec knows it, once it is built
        return open_codec(header.codec, str(folder), device, options, loading)
    found = fingerprint(folder)
    if found != header.fingerprint:
        for other in sorted(folder.parent.iterdir()) if model is None else []:
            if other.is_dir() and fingerprint(other) == header.fingerprint:
                folder = other
                break
        else:
            raise CodecError(
                f"the file was written with model {header.fingerprint.hex()}, but {folder} is model {found.hex()}"
                + ("" if model else "; name the right one with --model")
            )
    return open_codec(header.codec, str(folder), device, options, loading)
