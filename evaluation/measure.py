"""One codec on one image: every rate point through a real file on disk and a decode of that file.

Not for choosing points (points.py), going over a data set and scoring (loop.py), or points without files
(hypothetical.py).
"""

from __future__ import annotations

import bisect
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..codecs import Codec, CodecError, Header, Stream, container
from ..codecs.base import Lossless, Progressive
from ..data import write_file
from .metrics import bits_per_pixel
from .points import DEFAULT, LOSSLESS, CodecSpec, Value, point_name
from .records import Measurement, Record, sentence
from .watch import Watch

STEPS = 12  # positions of the report's slider
PREFIXES = 16  # at most so many prefixes of one file are points
Measured = tuple[Measurement, Tensor]  # a point and its decoded image, uint8 [3, H, W]
See = Callable[[Measurement, Tensor], None]


@dataclass(frozen=True)
class Encoding:
    """One call of `encode`, and the points that its stream serves.

    values   rate points: numbers, "all", "lossless", "default"
    option   what a number means: an option of `encode`, or "segments": a prefix of this many
    options  of `encode`
    """

    values: list[Value]
    option: str
    options: dict[str, Any]

    def prefixes(self, total: int, longest: int) -> list[tuple[Value, int | None]]:
        """(value, number of segments or None for the whole stream) of every point of a stream of `total` segments.

        longest  segments of the codec's longest streams: an image whose stream ends earlier has the others' points
        """
        found: list[tuple[Value, int | None]] = []
        stride = -(-longest // PREFIXES)
        for value in self.values:
            if value == "all":
                last = total - 1 if LOSSLESS in self.values else total
                found += [(k, k) for k in range(stride, last + 1, stride)]
            elif isinstance(value, int) and self.option == "segments":
                found.append((value, value))
            else:
                found.append((value, None))
        return found


@dataclass(frozen=True)
class _Coded:
    """An encoded image: its stream and whole file, what encoding took, and prefixes that are decoded already."""

    stream: Stream
    whole: bytes
    encoding: Watch
    decoding: Watch
    decoded: dict[int, tuple[Tensor, float]]


def measure_image(
    codec: Codec, spec: CodecSpec, image: Tensor, name: str, out: Path, see: See = lambda point, decoded: None
) -> Record:
    """Encode, write, read back and decode uint8 `image` [3, H, W] at every point of `spec`.

    A point that fails, in whatever way, is recorded with its error, and the others go on.
    out  output folder; files go to ``files/CODEC/`` below it
    see  called with every point and its decoded image, to score it
    """
    record = Record(spec.label, name, image.shape[1], image.shape[2])
    for encoding in encodings(codec, spec):
        try:
            coded, prefixes = _encode(codec, image, encoding)
        except Exception as error:  # codecs may break in any way; the other points and images go on
            names = [point_name(encoding.option, value) for value in encoding.values if value != "all"] or ["all"]
            record.points += [Measurement(point, error=sentence(error)) for point in names]
            continue
        record.fingerprint = coded.stream.header.fingerprint.hex()
        for value, segments in prefixes:
            point = point_name(encoding.option, value)
            file = Path("files") / spec.slug / f"{name}-{point}{codec.suffix}"
            try:
                data = coded.whole if segments is None else prefix(codec, coded.stream, segments)
                result, decoded = _decode(codec, coded, data, out / file, image.shape[1:])
                result.point, result.file, result.lossless = point, str(file), value == LOSSLESS
                if result.lossless and not torch.equal(decoded, image):
                    raise CodecError("the lossless file does not give the original pixels back")
                see(result, decoded)
            except Exception as error:
                result = Measurement(point, error=sentence(error))
            record.points.append(result)
    return record


def decode_again(codec: Codec, points: Sequence[Measurement], image: Tensor, out: Path) -> Iterator[Measured]:
    """(point, decoded image) of `points` of one image that were measured before, from their files below `out`.

    Prefixes of one file are decoded in one pass where the codec can; a lossless file was compared with the original.
    """
    size = image.shape[1:]
    rest = [point for point in points if not point.lossless]
    prefixes = sorted((p for p in rest if p.point.startswith("segments=")), key=lambda p: p.segments)
    yield from ((point, image) for point in points if point.lossless)
    if isinstance(codec, Progressive) and prefixes:
        stream = read_file(codec, (out / prefixes[-1].file).read_bytes(), *size)
        images = codec.decode_prefixes(stream, [point.segments for point in prefixes])
        yield from zip(prefixes, (one.cpu() for one in images), strict=True)
        rest = [point for point in rest if point not in prefixes]
    for point in rest:
        yield point, codec.decode(read_file(codec, (out / point.file).read_bytes(), *size)).cpu()


def encodings(codec: Codec, spec: CodecSpec) -> Iterator[Encoding]:
    """How the points of `spec` are made: one encoding for all prefixes, one for each other value."""
    values, option = list(spec.grid.values) or [DEFAULT], spec.grid.option
    parameters = inspect.signature(codec.encode).parameters.values()
    flag = any(p.name == LOSSLESS or p.kind is p.VAR_KEYWORD for p in parameters)  # png and bitsback know no other way
    if "all" in values and option != "segments" and not codec.prior.lossless:  # type: ignore[attr-defined]
        values = [value for value in values if value != LOSSLESS]  # a model on latents has no lossless end
    together = [v for v in values if v == "all" or option == "segments"]
    options: dict[str, Any] = {LOSSLESS: True} if LOSSLESS in together and flag else {}
    if isinstance(codec, Progressive) and isinstance(codec, Lossless):  # its lossless files have other segments
        together = [v for v in together if v != LOSSLESS]
        options = {"segments": codec.max_segments - codec.lossless}
    if together:
        yield Encoding(together, "segments", options)
    for value in values:
        if value in together:
            continue
        if value == LOSSLESS:
            yield Encoding([value], option, {LOSSLESS: True} if flag else {})
        else:
            yield Encoding([value], option, {} if value == DEFAULT else {option: value})


def _encode(codec: Codec, image: Tensor, encoding: Encoding) -> tuple[_Coded, list[tuple[Value, int | None]]]:
    """The encoded image and its points (value, segments); where the codec can, all prefixes are decoded in one pass."""
    with Watch() as watch:
        stream = codec.encode(image, **encoding.options)
        whole = container.write(stream, codec)
    total = len(stream.segments)
    prefixes = encoding.prefixes(total, codec.max_segments if isinstance(codec, Progressive) else total)
    decoded: dict[int, tuple[Tensor, float]] = {}
    with Watch() as decoding:
        if isinstance(codec, Progressive) and "all" in encoding.values:
            counts = sorted({total if k is None else k for _, k in prefixes})
            decoded = decode_prefixes(codec, read_file(codec, whole, *image.shape[1:]), counts)
    return _Coded(stream, whole, watch, decoding, decoded), prefixes


def decode_prefixes(codec: Progressive, stream: Stream, counts: Sequence[int]) -> dict[int, tuple[Tensor, float]]:
    """By number of segments the image (uint8 [3, H, W], on the CPU) and the seconds that decoding these alone takes.

    The images are what decoding each prefix's own file gives (tests/codecs/diffc/test_codec.py).
    """
    found, shared, start = {}, 0.0, _now()

    def progress(done: int, of: int) -> None:
        nonlocal shared, start
        now = _now()
        shared, start = shared + now - start, now

    for count, image in zip(counts, codec.decode_prefixes(stream, counts, progress), strict=True):
        found[count] = image.cpu(), shared + _now() - start
        start = _now()
    return found


def _now() -> float:
    """Seconds of the clock once a GPU has done what it was given."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def first_bytes(codec: Codec, data: bytes) -> int:
    """How many bytes of the file `data` give its first picture; of a foreign format, all."""

    def enough(count: int) -> bool:
        try:
            return bool(container.read(data[:count], codec).segments)
        except CodecError:
            return False

    return bisect.bisect_left(range(len(data)), True, key=enough)


def read_file(codec: Codec, data: bytes, height: int, width: int) -> Stream:
    """The stream in a file that `codec` wrote: ours through the container, a foreign format's as it is."""
    try:
        return container.read(data, codec)
    except container.NotOurFile:
        return Stream(Header(codec.name, height, width), (data,), native=True)


def prefix(codec: Codec, stream: Stream, segments: int) -> bytes:
    """The file that holds only the first `segments` segments.  Raises CodecError where there are fewer."""
    if not 1 <= segments <= len(stream.segments):
        raise CodecError(f"the stream has {len(stream.segments)} segments, not {segments}")
    if isinstance(codec, Progressive):
        return container.write(codec.prefix(stream, segments), codec)
    return container.write(Stream(stream.header, stream.segments[:segments], stream.native), codec)


def _decode(codec: Codec, coded: _Coded, data: bytes, path: Path, size: Sequence[int]) -> Measured:
    write_file(path, data)
    with Watch() as watch:
        stream = read_file(codec, path.read_bytes(), *size)
        if coded.decoded:
            decoded, seconds = coded.decoded[len(stream.segments)]
        else:
            decoded, seconds = codec.decode(stream).cpu(), None
    num_bytes = path.stat().st_size
    decoding = coded.decoding if coded.decoded else watch
    peaks = [peak for peak in (coded.encoding.peak_mib, decoding.peak_mib) if peak is not None]
    result = Measurement(
        "", num_bytes=num_bytes, bpp=bits_per_pixel(num_bytes, *size), segments=len(stream.segments),
        encode_s=coded.encoding.seconds, decode_s=watch.seconds if seconds is None else seconds,
        encode_mib=coded.encoding.added_mib, decode_mib=decoding.added_mib, peak_mib=max(peaks, default=None),
        first_bytes=num_bytes if len(stream.segments) == 1 else first_bytes(codec, data),
    )  # fmt: skip
    return result, decoded


def largest_lossy(record: Record, spec: CodecSpec) -> Measurement | None:
    """The point whose file the report's slider decodes step by step; None where there are no steps.

    A grid of segments has its prefixes among the points already.
    """
    lossy = [p for p in record.points if p.file and not p.lossless and p.segments > 1]
    return max(lossy, key=lambda p: p.num_bytes) if lossy and spec.grid.option != "segments" else None


def progress_points(codec: Codec, point: Measurement, image: Tensor, out: Path) -> Iterator[Measured]:
    """The file of `point` decoded from its first k segments, for at most STEPS k.

    The rate of a step is the size of the file that holds only these segments.
    """
    size = image.shape[1:]
    stream = read_file(codec, (out / point.file).read_bytes(), *size)
    total = len(stream.segments)
    for k in sorted({round(1 + (total - 1) * step / (STEPS - 1)) for step in range(STEPS)}):
        num_bytes = len(prefix(codec, stream, k))
        bpp = bits_per_pixel(num_bytes, *size)
        yield Measurement(f"first {k} of {total} segments", "", num_bytes, bpp, segments=k), codec.decode(
            stream, segments=k
        ).cpu()
