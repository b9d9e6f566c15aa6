"""One file after the other: an image compressed, a file decompressed, and what is said of it.

`Compressing` and `Decompressing` are settings that travel to another process; `open` loads the model there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .errors import UsageError, run_afresh
from .options import DECODING, Routed

Job = tuple[Path, Path]  # a file to read, and the one to write
Tick = Callable[[int, int], None]  # (steps done, steps in all)
Entry = dict[str, Any]  # a line of the manifest: docs/folders.md


@dataclass(frozen=True)
class Done:
    """What became of a file.

    line    for the user
    pixels  of the image
    bytes   of the compressed file
    cut     whether only a part of the picture could be written
    entry   for the manifest, without the names of the files
    """

    line: str
    pixels: int
    bytes: int
    cut: bool = False
    entry: Entry = field(default_factory=dict)


class Work(Protocol):
    """What a process does with a file to read and one to write."""

    @property
    def model(self) -> bytes:
        """Fingerprint of the model it computes with; b"" where there is none, or the files choose theirs."""
        ...

    def __call__(self, source: Path, target: Path, known: Entry | None, tick: Tick) -> Done:
        """`known` is what the manifest says of `target`.  Raises one of user_errors()."""
        ...


class Settings(Protocol):
    """Settings that a process turns into work."""

    def open(self) -> Work:
        """Loads what is needed; raises one of user_errors()."""
        ...


@dataclass(frozen=True)
class Compressing:
    """How images become files.

    options        of the codec, by the call that takes them
    captions       file of prompts
    caption_model  model that writes prompts
    background     colour over which transparency is composited; None: it is kept where the file can
    keep_metadata  whether EXIF, XMP and colour profile go into the file
    verify         decode every file in a fresh process before it is written
    resume         skip what `known` vouches for, and leave a file alone that no manifest knows
    force          overwrite whatever is there
    """

    codec: str
    model: str | None
    device: str | None
    options: Routed
    captions: Path | None = None
    caption_model: str | None = None
    background: str | None = None
    keep_metadata: bool = False
    verify: bool = False
    resume: bool = False
    force: bool = False

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits of SHA-256 over everything that decides what a file holds, but the image."""
        told = asdict(self)
        for name in ("device", "verify", "resume", "force"):
            del told[name]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=_as_json).encode()).hexdigest()[:12]

    def open(self) -> Work:
        """See Settings."""
        from ..codecs.registry import open_codec
        from .captions import prompts_by, prompts_from

        prompt_of = None
        if self.captions is not None:
            prompt_of = prompts_from(self.captions)
        elif self.caption_model is not None:
            local = bool(self.options.loading.get("local_files_only"))
            prompt_of = prompts_by(self.caption_model, self.device, local)
        codec = open_codec(self.codec, self.model, self.device, self.options.constructor | self.options.loading)
        return _Compressor(self, codec, prompt_of)


@dataclass
class _Compressor:
    settings: Compressing
    codec: Any
    prompt_of: Callable[[Path, Any], str] | None

    @property
    def model(self) -> bytes:
        """See Work."""
        from ..codecs.registry import MODEL_CODECS

        fingerprint: bytes = self.codec.fingerprint if self.settings.codec in MODEL_CODECS else b""
        return fingerprint

    def __call__(self, source: Path, target: Path, known: Entry | None, tick: Tick) -> Done:
        from ..codecs import attachments, container
        from ..codecs.registry import MODEL_CODECS
        from ..codecs.targets import encode_to
        from ..data.images import read_photo, write_file

        settings = self.settings
        ours = settings.codec in MODEL_CODECS
        background = settings.background or (None if ours else "white")
        photo = read_photo(source, background=background, keep_metadata=settings.keep_metadata)
        pixels, entry = photo.image.shape[1] * photo.image.shape[2], self._entry(photo)
        same = known is not None and all(known.get(key) == value for key, value in entry.items())
        if known is not None and same and _intact(known, target):
            return Done(f"{source} -> {target}: there already", pixels, known["bytes"], entry=known)
        encode = inspect.signature(self.codec.encode).parameters
        extra: dict[str, Any] = {"progress": tick} if "progress" in encode else {}
        start = time.perf_counter()
        if self.prompt_of is not None:
            extra["prompt"] = self.prompt_of(source, photo.image)
        stream = encode_to(self.codec, photo.image, **settings.options.encode, **extra)
        notes = [*photo.notes, *self._schedule()]
        if photo.alpha is not None or photo.metadata:
            stream = attachments.attach(stream, photo.alpha, photo.metadata)
            names = [name.upper() for name in photo.metadata]
            names += ["transparency"] if photo.alpha is not None else []
            notes.append(f"{', '.join(names)} kept in {sum(len(data) for _, data in stream.attachments)} bytes")
        data = container.write(stream, self.codec)
        seconds = time.perf_counter() - start
        bpp = 8 * len(data) / pixels
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "bpp": round(bpp, 6), "psnr": None,
                  "exact": None, "seconds": round(seconds, 2), "status": "done"}  # fmt: skip
        if settings.verify:
            entry |= _verified(data, photo, settings, self.codec.suffix)
            exact = "every pixel" if entry["exact"] else f"{entry['psnr']:.2f} dB"
            notes.append(f"verified: {exact}")
        if settings.resume and known is None and not settings.force and target.exists() and target.read_bytes() != data:
            raise UsageError(f"{target} exists, and no manifest knows it; overwrite it with --force")
        write_file(target, data)
        line = f"{source} -> {target}: {len(data)} bytes, {bpp:.4f} bpp, {bpp / 3:.4f} bpd, {seconds:.1f} s"
        return Done(line + _in_brackets(notes), pixels, len(data), entry=entry)

    def _schedule(self) -> list[str]:
        """Whether the model that was asked for is calibrated, or goes by signal-to-noise ratio."""
        from ..codecs.diffc.codec import DiffC

        asked = self.settings.model is not None and isinstance(self.codec, DiffC)
        return [f"schedule {self.codec.schedule_source}"] if asked else []

    def _entry(self, photo: Any) -> Entry:
        """What must be the same for a file to be the same."""
        digest = hashlib.sha256(repr(tuple(photo.image.shape)).encode() + photo.image.numpy().tobytes())
        if photo.alpha is not None:
            digest.update(photo.alpha.numpy().tobytes())
        for name, data in photo.metadata.items():
            digest.update(name.encode() + data)
        return {"pixels": digest.hexdigest(), "codec": self.settings.codec, "model": self.model.hex(),
                "settings": self.settings.identity}  # fmt: skip


def _as_json(value: Any) -> str:
    """Paths as they are; a tensor (a focus) by its digest, since its text leaves most of it out."""
    return hashlib.sha256(value.numpy().tobytes()).hexdigest() if hasattr(value, "numpy") else str(value)


def _intact(known: Entry, target: Path) -> bool:
    """Whether `target` holds what the manifest says."""
    try:
        return known["status"] == "done" and hashlib.sha256(target.read_bytes()).hexdigest() == known["sha256"]
    except OSError:
        return False


def _verified(data: bytes, photo: Any, settings: Compressing, suffix: str) -> Entry:
    """PSNR of what decompress.py makes of `data`, null for every pixel; raises CodecError if it is not right."""
    import torch

    from ..codecs import CodecError
    from ..data.images import read_photo
    from ..evaluation.metrics import psnr

    options = {name: value for name, value in settings.options.constructor.items() if name in DECODING}
    options |= settings.options.loading | {"model": settings.model, "device": settings.device}
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
             if value is not None and value is not False]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file, picture = Path(folder) / f"file{suffix}", Path(folder) / "picture.png"
        file.write_bytes(data)
        said = run_afresh("decompress", file, "-o", picture, *words)
        if said:
            raise CodecError(f"what was compressed does not decode: {said.removeprefix(f'{file}: ')}")
        image = read_photo(picture, keep_metadata=True).image
    if image.shape != photo.image.shape:
        raise CodecError("what was compressed decodes to another size")
    exact = torch.equal(image, photo.image)
    if not exact and (settings.options.encode.get("lossless") or settings.codec in ("bitsback", "png")):
        raise CodecError("what was compressed without loss decodes to other pixels")
    return {"psnr": None if exact else round(float(psnr(image, photo.image)), 4), "exact": exact}


@dataclass(frozen=True)
class Decompressing:
    """How files become images.

    options     of the codec's constructor or of load_model
    segments    decode only so many of each file
    recover     decode what there is of a damaged file
    max_pixels  refuse files that announce more; None: the container's limit
    """

    model: str | None
    device: str | None
    options: dict[str, Any]
    segments: int | None = None
    recover: bool = False
    max_pixels: int | None = None

    def open(self) -> Work:
        """See Settings; models are loaded when the first file asks for them."""
        return _Decompressor(self)


@dataclass
class _Decompressor:
    settings: Decompressing
    codecs: dict[tuple[str, bytes], Any] = field(default_factory=dict)
    model: bytes = b""

    def __call__(self, source: Path, target: Path, known: Entry | None, tick: Tick) -> Done:
        from ..data.images import save_photo

        data = source.read_bytes()
        start = time.perf_counter()
        photo, note = self._decode(data, source, tick)
        seconds = time.perf_counter() - start
        notes = [*([note] if note else []), *photo.notes, *save_photo(photo, target)]
        height, width = photo.image.shape[1:]
        line = f"{source} -> {target}: {width} x {height}, {seconds:.1f} s"
        return Done(line + _in_brackets(notes), height * width, len(data), cut=bool(note))

    def _decode(self, data: bytes, source: Path, tick: Tick) -> tuple[Any, str]:
        """(Photo, what is missing of it) of the file `source`, which holds `data`."""
        from ..codecs import CodecError, container
        from ..codecs.attachments import alpha_of, metadata_of
        from ..codecs.registry import codec_for
        from ..data.images import ImageError, Photo, read_photo

        settings = self.settings
        limit = settings.max_pixels or container.MAX_PIXELS
        try:
            header, _, _ = container.peek(data, max_pixels=limit)
        except container.NotOurFile:
            if settings.segments is not None:
                raise CodecError("this is not a diffpress file, and only those have segments") from None
            try:
                return read_photo(source, keep_metadata=True), ""
            except ImageError:
                raise CodecError("this is neither a diffpress file nor an image that Pillow reads") from None
        key = (header.codec, header.fingerprint)
        if key not in self.codecs:
            self.codecs[key] = codec_for(header, settings.model, settings.device, settings.options)
        codec = self.codecs[key]
        try:
            stream = container.read(data, codec, max_pixels=limit)
        except container.DamagedFile as error:
            if not settings.recover or not error.stream.segments:
                hint = "" if settings.recover or not error.stream.segments else "; --recover decodes what is there"
                raise CodecError(f"{error}{hint}") from error
            stream = error.stream
        extra: dict[str, Any] = {"progress": tick} if "progress" in inspect.signature(codec.decode).parameters else {}
        image = codec.decode(stream, segments=settings.segments, **extra)
        return Photo(image.cpu(), alpha_of(stream), metadata_of(stream)), stream.note


def _in_brackets(notes: list[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""
