"""Files in, files out: what goes where, and how one file after the other is coded.

Each file is written under a temporary name and renamed; a bad one is named and the rest goes on.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from ..codecs import CodecError, container
from ..codecs.base import Codec, Header
from ..codecs.targets import encode_to
from ..data import ImageError, read_image, save_image, write_file
from .errors import UsageError, sentence, user_errors

Job = tuple[Path, Path]  # a file to read, and the one to write
Tick = Callable[[int, int], None]  # (steps done, steps in all)


def list_files(entry: str) -> list[Path]:
    """The files that a path, a folder (its own files, sorted) or a glob pattern names; raises UsageError."""
    path = Path(entry)
    matches = [path] if path.is_file() else sorted(path.iterdir() if path.is_dir() else map(Path, glob(entry)))
    files = [match for match in matches if match.is_file() and not match.name.startswith(".")]
    if not files:
        raise UsageError(f"{entry}: no such file" if not path.is_dir() else f"{entry}: no files in this folder")
    return files


def plan(
    inputs: Sequence[str], listing: Callable[[str], list[Path]], suffix: str, out: Path | None, force: bool
) -> list[Job]:
    """What is read and where it goes.

    With `out`, everything goes into that folder; a single file goes to `out` itself if `out` has a suffix.  Without,
    PHOTO.jpg becomes PHOTO with `suffix` beside it, and a folder PHOTOS becomes a folder PHOTOS-dfc beside it, say.
    Sub-folders are not visited.

    listing  the files that one of the inputs names
    Raises UsageError before anything is written: for two inputs of one name, for a file that exists without `force`,
    and for one that would replace an input.
    """
    jobs: dict[Path, Path] = {}
    for entry in inputs:
        given = Path(entry)
        folder = out
        if folder is None and given.is_dir():
            whole = given if given.name not in ("", "..") else given.resolve()
            folder = whole.with_name(whole.name + suffix.replace(".", "-"))
        for source in listing(entry):
            jobs.setdefault(source, (folder or source.parent) / (source.stem + suffix))
    if out is not None and not out.is_dir():
        if len(jobs) == 1 and out.suffix and not Path(inputs[0]).is_dir():
            jobs = dict.fromkeys(jobs, out)
        elif out.exists():
            raise UsageError(f"{out} is a file, and this takes a folder")
    _check(jobs, force)
    return list(jobs.items())


def _check(jobs: dict[Path, Path], force: bool) -> None:
    inputs = {source.resolve() for source in jobs}
    seen: dict[Path, Path] = {}
    for source, target in jobs.items():
        if target in seen:
            raise UsageError(f"{seen[target]} and {source} would both be written to {target}")
        seen[target] = source
        if target.resolve() in inputs:
            raise UsageError(f"{target} is an input and is never overwritten; name another place with -o")
        if target.exists() and not force:
            raise UsageError(f"{target} exists; name another place with -o, or overwrite it with --force")


def compress(
    codec: Codec, jobs: Sequence[Job], options: dict[str, Any], prompt_of: Callable[[Path, Any], str] | None = None
) -> int:
    """Compress images to files; prints a line per file and returns the number of failures.

    options    of codecs.targets.encode_to
    prompt_of  gives the prompt for (path, image), for codecs that take one
    """
    reports = "progress" in inspect.signature(codec.encode).parameters

    def one(source: Path, target: Path, tick: Tick) -> str:
        image = read_image(source)
        extra: dict[str, Any] = {"progress": tick} if reports else {}
        start = time.perf_counter()
        if prompt_of is not None:
            extra["prompt"] = prompt_of(source, image)
        stream = encode_to(codec, image, **options, **extra)
        seconds = time.perf_counter() - start
        data = container.write(stream, codec)
        write_file(target, data)
        bpp = 8 * len(data) / (image.shape[1] * image.shape[2])
        return f"{source} -> {target}: {len(data)} bytes, {bpp:.4f} bpp, {bpp / 3:.4f} bpd, {seconds:.1f} s"

    return _each(jobs, one)


def decompress(
    jobs: Sequence[Job], codec_of: Callable[[Header], Codec], *, segments: int | None, recover: bool, max_pixels: int
) -> int:
    """Decompress files to images; prints a line per file and returns the number of failures.

    codec_of    gives the codec for the header of a file
    segments    decode only so many of each file
    recover     decode the good segments of a damaged file
    max_pixels  refuse files that announce more
    """
    codecs: dict[tuple[str, bytes], Codec] = {}

    def one(source: Path, target: Path, tick: Tick) -> str:
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
                codecs[key] = codec_of(header)
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
        save_image(image, target)
        line = f"{source} -> {target}: {image.shape[2]} x {image.shape[1]}, {seconds:.1f} s"
        return f"{line} ({note})" if note else line

    return _each(jobs, one)


def _read_foreign(source: Path) -> Any:
    try:
        return read_image(source)
    except ImageError:
        raise CodecError("this is neither a diffpress file nor an image that Pillow reads") from None


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _each(jobs: Sequence[Job], one: Callable[[Path, Path, Tick], str]) -> int:
    failures = 0
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        files = bar.add_task("files", total=len(jobs))
        for source, target in jobs:
            steps = bar.add_task(source.name, total=None)
            try:
                print(one(source, target, partial(_show, bar, steps)), flush=True)
            except user_errors() as error:
                failures += 1
                said = sentence(error)
                print(said if said.startswith(f"{source}: ") else f"{source}: {said}", file=sys.stderr)
            bar.remove_task(steps)
            bar.advance(files)
    return failures
