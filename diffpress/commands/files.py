"""Files in, files out: what compress.py and decompress.py do once their arguments are parsed.

One file after the other, each written under a temporary name and renamed; a bad one is named and the rest goes on.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..codecs import CodecError, container
from ..codecs.base import Codec, Header
from ..codecs.registry import codec_class
from ..data import ImageError, list_images, read_image, save_image, write_file
from ..lightning_modules import ModelError, find_model, load_model
from ..lightning_modules.identity import fingerprint
from .memory import keep_freed_memory

DEFAULT_MODELS = {"diffc": "diffc-pixel", "uqdm": "uqdm-photo", "bitsback": "diffc-pixel"}
USER_ERRORS = (CodecError, ImageError, ModelError, OSError, MemoryError)


def build_codec(
    name: str, model: str | None, device: str | None, options: dict[str, Any], loading: dict[str, Any] | None = None
) -> Codec:
    """The codec with its model loaded; raises CodecError or ModelError, also for an option it does not have.

    options  of the codec; `loading` of load_model
    """
    factory = codec_class(name)
    known = inspect.signature(factory).parameters
    for option in options:
        if option not in known:
            raise CodecError(f"--{option.replace('_', '-')} does not apply to --codec {name}")
    if name not in DEFAULT_MODELS:
        if model is not None:
            raise CodecError(f"--model does not apply to --codec {name}")
        for option in loading or {}:
            raise CodecError(f"--{option.replace('_', '-')} does not apply to --codec {name}")
        return factory(**options)
    return factory(model=load_model(model or DEFAULT_MODELS[name], device=device, **(loading or {})), **options)


def output_paths(inputs: list[Path], out: Path, suffix: str | Callable[[Path], str], force: bool) -> list[Path]:
    """Where each input goes: into the folder `out`, or to `out` itself for one input when `out` has a suffix.

    Raises CodecError before anything is written if two inputs would share a name or a file exists without `force`.
    """
    suffix_of = suffix if callable(suffix) else lambda _: suffix
    if len(inputs) == 1 and out.suffix and not out.is_dir():
        paths = [out]
    else:
        paths = [out / (path.stem + suffix_of(path)) for path in inputs]
    seen: dict[Path, Path] = {}
    for source, path in zip(inputs, paths, strict=True):
        if path in seen:
            raise CodecError(f"{seen[path]} and {source} would both be written to {path}")
        seen[path] = source
        if path.exists() and not force:
            raise CodecError(f"{path} exists; use --force to overwrite it")
    return paths


def compress(
    codec: Codec, inputs: Iterable[str], out: Path, force: bool, options: dict[str, Any],
    prompt_of: Callable[[Path, Any], str] | None = None,
) -> int:
    """Compress images to files; prints a line per file and returns the number of failures.

    prompt_of  gives the prompt for (path, image), for codecs that take one
    """
    sources = list_images(inputs)
    paths = output_paths(sources, out, codec.suffix, force)
    known = inspect.signature(codec.encode).parameters

    def one(source: Path, path: Path, tick: Callable[[int, int], None]) -> str:
        image = read_image(source)
        extra: dict[str, Any] = {"progress": tick} if "progress" in known else {}
        start = time.perf_counter()
        if prompt_of is not None:
            extra["prompt"] = prompt_of(source, image)
        stream = codec.encode(image, **options, **extra)
        seconds = time.perf_counter() - start
        data = container.write(stream, codec)
        write_file(path, data)
        bpp = 8 * len(data) / (image.shape[1] * image.shape[2])
        return f"{source} -> {path}: {len(data)} bytes, {bpp:.4f} bpp, {bpp / 3:.4f} bpd, {seconds:.1f} s"

    for option in (*options, *(["prompt"] if prompt_of else [])):
        if option not in known:
            raise CodecError(f"--{option.replace('_', '-')} does not apply to --codec {codec.name}")
    return _each(sources, paths, one)


def decompress(
    inputs: list[Path],
    out: Path,
    *,
    segments: int | None,
    model: str | None,
    device: str | None,
    force: bool,
    recover: bool,
    max_pixels: int,
    image_format: str,
    options: dict[str, Any],
    loading: dict[str, Any] | None = None,
) -> int:
    """Decompress files to images; prints a line per file and returns the number of failures."""
    paths = output_paths(inputs, out, f".{image_format}", force)
    codecs: dict[tuple[str, bytes], Codec] = {}

    def one(source: Path, path: Path, tick: Callable[[int, int], None]) -> str:
        data = source.read_bytes()
        note = ""
        start = time.perf_counter()
        try:
            header, _, _ = container.peek(data, max_pixels=max_pixels)
        except container.NotOurFile:
            if segments is not None:
                raise CodecError("this is not a diffpress file, and only those have segments") from None
            image = _read_foreign(source)
        else:
            key = (header.codec, header.fingerprint)
            if key not in codecs:
                codecs[key] = _codec_for(header, model, device, options, loading or {})
            codec = codecs[key]
            try:
                stream = container.read(data, codec, max_pixels=max_pixels)
            except container.DamagedFile as error:
                if not recover or not error.stream.segments:
                    hint = "" if recover or not error.stream.segments else "; --recover decodes what is good"
                    raise CodecError(f"{error}{hint}") from error
                stream = error.stream
            note = stream.note
            extra = {"progress": tick} if "progress" in inspect.signature(codec.decode).parameters else {}
            image = codec.decode(stream, segments=segments, **extra)
        seconds = time.perf_counter() - start
        save_image(image, path)
        line = f"{source} -> {path}: {image.shape[2]} x {image.shape[1]}, {seconds:.1f} s"
        return f"{line} ({note})" if note else line

    return _each(inputs, paths, one)


def _read_foreign(source: Path) -> Any:
    try:
        return read_image(source)
    except ImageError:
        raise CodecError("this is neither a diffpress file nor an image that Pillow reads") from None


def _codec_for(
    header: Header, model: str | None, device: str | None, options: dict[str, Any], loading: dict[str, Any]
) -> Codec:
    """The codec that reads files with `header`: with the model given, else with the shipped one of that fingerprint."""
    folder = find_model(
        model or DEFAULT_MODELS[header.codec], loading.get("variant"), loading.get("local_files_only", False)
    )
    if (folder / "model_index.json").is_file() or "schedule" in options:
        # the fingerprint also depends on the schedule and the parts in use: the codec knows it, once it is built
        return build_codec(header.codec, str(folder), device, options, loading)
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
    return build_codec(header.codec, str(folder), device, options, loading)


def _each(sources: list[Path], paths: list[Path], one: Callable[[Path, Path, Callable[[int, int], None]], str]) -> int:
    failures = 0
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        files = bar.add_task("files", total=len(sources))
        for source, path in zip(sources, paths, strict=True):
            steps = bar.add_task(source.name, total=None)
            try:
                print(one(source, path, lambda done, total: bar.update(steps, completed=done, total=total)), flush=True)  # noqa: B023
            except USER_ERRORS as error:
                failures += 1
                said = _sentence(error)
                print(said if said.startswith(f"{source}: ") else f"{source}: {said}", file=sys.stderr)
            bar.remove_task(steps)
            bar.advance(files)
    return failures


def _sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return " ".join(str(error).split())


def run(action: Callable[[], int]) -> int:
    """Exit code of `action`, which returns a number of failures; its user errors become one line on stderr."""
    keep_freed_memory()
    try:
        return 1 if action() else 0
    except USER_ERRORS as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
