"""One codec on one image: every rate point through a real file on disk and a decode of that file.

Not for choosing points (points.py) or for going over a data set (loop.py).
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..codecs import Codec, CodecError, Header, Stream, container
from ..codecs.base import Estimating, IdealCoding, Lossless, Progressive
from ..codecs.diffc.ideal import autoencoder_bound
from ..data import ImageError, write_file
from ..lightning_modules import ModelError
from .metrics import bits_per_pixel, psnr, ssim_scores
from .points import DEFAULT, LOSSLESS, CodecSpec, point_name

SENTENCES = (CodecError, ImageError, ModelError, OSError)  # whose messages need no name of the error in front
BOUND = "autoencoder alone"
STEPS = 12
PREFIXES = 16
ExtraMetric = Callable[[Tensor, Tensor], float | None]


@dataclass
class Measurement:
    """One point of one image.

    file          path of the compressed file below the output folder, "" for hypothetical points
    num_bytes     its size on disk; hypothetical points: the bits that would be needed / 8
    scores        quality by CompressAI's names ("psnr-rgb", "ssim-rgb", "ms-ssim-rgb", ...); None where undefined
    encode_s      seconds from pixels to the file's bytes; for prefixes of one file, of the whole file
    decode_s      seconds from the file's bytes to pixels; for prefixes that were decoded on the way to the whole file,
                  of the whole file
    peak_mib      peak memory in MiB, the larger of encode and decode: resident memory of the whole process, libraries
                  included, or on a GPU the memory allocated there
    hypothetical  no such file exists: ideal coder, entropy estimate, VAE bound
    error         why there is no result, one sentence; every other field is then empty
    """

    point: str
    file: str = ""
    num_bytes: float = 0
    bpp: float = 0.0
    scores: dict[str, float | None] = field(default_factory=dict)
    encode_s: float = 0.0
    decode_s: float = 0.0
    peak_mib: float | None = None
    segments: int = 1
    lossless: bool = False
    hypothetical: bool = False
    error: str = ""


@dataclass
class Record:
    """All points of one codec on one image, as kept in ``records/CODEC/IMAGE.json``.

    progress  the first segments of one file, for the report's slider; only of images that are pictured there
    identity  digest of codec, options, points and model; pixels: of the image
    load      the machine's load average when the measurement began: above 0, seconds were taken beside other work
    versions  of everything that codes, and the machine, when this was measured (provenance.py)
    """

    codec: str
    image: str
    height: int
    width: int
    identity: str = ""
    pixels: str = ""
    fingerprint: str = ""
    points: list[Measurement] = field(default_factory=list)
    progress: list[Measurement] = field(default_factory=list)
    load: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; see :func:`record_from_dict`."""
        return asdict(self)


def record_from_dict(data: dict[str, Any]) -> Record:
    """The record that :meth:`Record.as_dict` wrote."""
    lists = {key: [Measurement(**point) for point in data[key]] for key in ("points", "progress")}
    return Record(**{**data, **lists})


def measure_image(
    codec: Codec,
    spec: CodecSpec,
    image: Tensor,
    name: str,
    out: Path,
    extra: dict[str, ExtraMetric] | None = None,
    keep: Callable[[str, Tensor], None] = lambda point, decoded: None,
    hypothetical: bool = False,
) -> Record:
    """Encode, write, read back, decode and score uint8 `image` [3, H, W] at every point of `spec`.

    A point that fails, in whatever way, is recorded with its error, and the others go on.
    out       output folder; files go to ``files/CODEC/`` below it
    extra     further metrics by name, each called with (decoded, original)
    keep      called with every decoded image, e.g. to save pictures for the report
    hypothetical  also what no file shows: an ideal coder, a UQDM's entropy estimates, an autoencoder's bound
    """
    record = Record(spec.label, name, image.shape[1], image.shape[2])
    accepted = inspect.signature(codec.encode).parameters
    for values, options in _encodings(spec):
        if "lossless" not in accepted and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            options.pop("lossless", None)  # a codec that is always lossless has no such option
        if "all" in values and spec.grid.option != "segments" and isinstance(codec, Lossless) and not codec.lossless:
            options.pop("lossless", None)  # a model on latents has no lossless end; its prefixes are worth having
            values = [value for value in values if value != LOSSLESS]
        option = "segments" if "all" in values else spec.grid.option
        points = [point_name(option, value) for value in values if value != "all"]
        try:
            with _Watch() as encoding:
                stream = codec.encode(image, **options)
                whole = container.write(stream, codec)
            longest = codec.max_segments if isinstance(codec, Progressive) else len(stream.segments)
            served = list(_prefixes(values, stream, option == "segments", longest))
            with _Watch() as decoding:
                shown = _all_prefixes(codec, whole, stream, [k for _, k in served]) if "all" in values else None
        except Exception as error:
            record.points += [Measurement(point, error=sentence(error)) for point in points or ["all"]]
            continue
        record.fingerprint = stream.header.fingerprint.hex()
        for value, segments in served:
            point = point_name(option, value)
            path = Path("files") / spec.slug / f"{name}-{point}{codec.suffix}"
            data = whole if segments is None else _prefix(stream, segments, codec)
            try:
                result, decoded = _decode_and_score(codec, data, out / path, image, extra or {}, shown)
                keep(point, decoded)
            except Exception as error:
                record.points.append(Measurement(point, error=sentence(error)))
                continue
            result.point, result.file, result.encode_s = point, str(path), encoding.seconds
            if shown:
                result.peak_mib = decoding.peak_mib
            result.peak_mib = _larger(result.peak_mib, encoding.peak_mib)
            result.lossless = value == LOSSLESS
            if result.lossless and not torch.equal(decoded, image):
                result = Measurement(point, error="the lossless file does not give the original pixels back")
            record.points.append(result)
    if hypothetical:
        record.points += hypothetical_points(codec, image, record.points, extra or {})
    return record


def read_file(codec: Codec, data: bytes, height: int, width: int) -> Stream:
    """The stream in a file that `codec` wrote: ours through the container, a foreign format's as it is."""
    try:
        return container.read(data, codec)
    except container.NotOurFile:
        return Stream(Header(codec.name, height, width), (data,), native=True)


def _all_prefixes(
    codec: Codec, data: bytes, stream: Stream, segments: Iterable[int | None]
) -> dict[int, tuple[Tensor, float]] | None:
    """By number of segments the image and the seconds it takes, where the codec decodes prefixes in one pass.

    The images are what decoding each prefix's own file gives (tests/codecs/diffc/test_codec.py).  Their seconds leave
    the reconstructions of shorter prefixes out, each taken to last as long as that of the empty prefix, decoded first.
    """
    if not isinstance(codec, Progressive):
        return None
    counts = [0, *sorted({len(stream.segments) if k is None else k for k in segments})]
    mark, seconds, reconstruction = time.perf_counter(), 0.0, 0.0
    shown: dict[int, tuple[Tensor, float]] = {}
    images = codec.decode_prefixes(read_file(codec, data, stream.header.height, stream.header.width), counts)
    for count, image in zip(counts, images, strict=True):
        now = time.perf_counter()
        seconds += now - mark - reconstruction
        reconstruction = reconstruction or seconds
        shown[count], mark = (image, seconds), now
    return shown


def _decode_and_score(
    codec: Codec, data: bytes, path: Path, image: Tensor, extra: dict[str, ExtraMetric],
    shown: dict[int, tuple[Tensor, float]] | None = None,
) -> tuple[Measurement, Tensor]:
    write_file(path, data)
    height, width = image.shape[1:]
    with _Watch() as decoding:
        read = read_file(codec, path.read_bytes(), height, width)
        decoded, seconds = shown[len(read.segments)] if shown else (codec.decode(read).cpu(), None)
    num_bytes = path.stat().st_size
    result = Measurement(
        "",
        num_bytes=num_bytes,
        bpp=bits_per_pixel(num_bytes, height, width),
        scores=score(decoded, image, extra),
        decode_s=decoding.seconds if seconds is None else seconds,
        peak_mib=decoding.peak_mib,
        segments=len(read.segments),
    )
    return result, decoded


def score(decoded: Tensor, image: Tensor, extra: dict[str, ExtraMetric] | None = None) -> dict[str, float | None]:
    """All quality metrics of a decoded image; an exact copy has infinite PSNR, which JSON keeps as None."""
    ssim, ms_ssim = ssim_scores(decoded, image)
    value = psnr(decoded, image)
    scores: dict[str, float | None] = {
        "psnr-rgb": value if math.isfinite(value) else None,
        "ssim-rgb": ssim,
        "ms-ssim-rgb": ms_ssim,
    }
    return scores | {name: metric(decoded, image) for name, metric in (extra or {}).items()}


def _encodings(spec: CodecSpec) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """(values served, options of encode): one encoding for all prefixes, one per value otherwise."""
    grid = spec.grid
    if grid.option == "segments" or "all" in grid.values:
        together = [v for v in grid.values if v in ("all", LOSSLESS) or grid.option == "segments"]
        yield together, {"lossless": True} if LOSSLESS in together else {}
    else:
        together = []
    for value in grid.values:
        if value in together:
            continue
        yield [value], {LOSSLESS: True} if value == LOSSLESS else {grid.option: value}
    if not grid.values:
        yield [DEFAULT], {}


def _prefixes(values: list[Any], stream: Stream, prefixes: bool, longest: int) -> Iterator[tuple[Any, int | None]]:
    """(value, number of segments or None for the whole stream) for every point that one stream serves.

    longest  segments of the codec's longest streams: an image whose stream ends earlier has the others' points
    """
    total = len(stream.segments)
    for value in values:
        if value == "all":
            stride = -(-longest // PREFIXES)
            yield from ((k, k) for k in range(stride, total if LOSSLESS in values else total + 1, stride))
        elif isinstance(value, int) and prefixes:
            yield value, value
        else:
            yield value, None


def _prefix(stream: Stream, segments: int, codec: Codec) -> bytes:
    """The file that holds only the first `segments` segments."""
    if not 1 <= segments <= len(stream.segments):
        raise CodecError(f"the stream has {len(stream.segments)} segments, not {segments}")
    if isinstance(codec, Progressive):
        return container.write(codec.prefix(stream, segments), codec)
    return container.write(Stream(stream.header, stream.segments[:segments], stream.native), codec)


def hypothetical_points(
    codec: Codec, image: Tensor, measured: Sequence[Measurement], extra: dict[str, ExtraMetric]
) -> list[Measurement]:
    """Points that no file stands for, from what the codec offers beside encode and decode.

    ``codec.ideal_curve``     what an ideal coder would need for the measured prefixes, and their quality then
    ``codec.measure(image)``  the bits its model's estimate gives each segment, at the measured prefixes' quality
    ``codec.prior``           of a latent model: the quality of its autoencoder alone, which no rate exceeds
    """
    points: list[Measurement] = []
    pixels = image.shape[1] * image.shape[2]
    try:
        if isinstance(codec, Estimating):
            bits = list(itertools.accumulate(codec.measure(image)[1]))
            for point in measured:
                if not point.error and 1 <= point.segments <= len(bits):
                    estimate = bits[point.segments - 1]
                    name = f"estimate for {point.point}"
                    points.append(
                        replace(point, point=name, file="", num_bytes=estimate / 8, bpp=estimate / pixels, encode_s=0.0)
                    )
        if isinstance(codec, IdealCoding):
            counts = sorted({point.segments for point in measured if not point.error and not point.lossless})
            exact = any(point.lossless for point in measured)
            for ideal in codec.ideal_curve(image, counts, lossless=exact) if counts else ():
                name, bpp = f"ideal coder, {ideal.segments} steps", ideal.bits / pixels
                scores = score(ideal.image, image, extra)
                points.append(Measurement(name, "", ideal.bits / 8, bpp, scores, segments=ideal.segments))
        prior = getattr(codec, "prior", None)
        if prior is not None and not prior.lossless:
            points.append(Measurement(BOUND, scores=score(autoencoder_bound(prior, image), image, extra)))
    except Exception as error:
        points.append(Measurement("hypothetical", error=sentence(error)))
    return [replace(point, hypothetical=True, decode_s=0.0, peak_mib=None) for point in points]


def progress_points(
    codec: Codec, spec: CodecSpec, record: Record, image: Tensor, out: Path, keep: Callable[[str, Tensor], None]
) -> list[Measurement]:
    """The record's largest lossy file decoded from its first k segments, for at most STEPS k; [] if it has but one.

    The rate of a step is the size of the file that holds only these segments.
    """
    lossy = [p for p in record.points if p.file and not p.lossless and p.segments > 1]
    if not lossy or spec.grid.option == "segments":  # a grid of segments has measured its prefixes already
        return []
    largest = max(lossy, key=lambda p: p.num_bytes)
    stream = read_file(codec, (out / largest.file).read_bytes(), *image.shape[1:])
    total = len(stream.segments)
    points = []
    for k in sorted({round(1 + (total - 1) * step / (STEPS - 1)) for step in range(STEPS)}):
        decoded = codec.decode(stream, segments=k).cpu()
        num_bytes = len(_prefix(stream, k, codec))
        name = f"first {k} of {total} segments"
        bpp = bits_per_pixel(num_bytes, *image.shape[1:])
        points.append(Measurement(name, "", num_bytes, bpp, score(decoded, image), segments=k))
        keep(name, decoded)
    return points


class _Watch:
    """Seconds and peak memory of a block: GPU memory where a GPU is in use, else the process's resident memory."""

    seconds = 0.0
    peak_mib: float | None = None

    def __enter__(self) -> _Watch:
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_peak()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start
        self.peak_mib = (torch.cuda.max_memory_allocated() if self._cuda else _peak()) / 2**20


def _reset_peak() -> None:
    """Make the peak start here where the system can (Linux); elsewhere it is that of the process so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Bytes that were resident at the peak."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _larger(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


def sentence(error: Exception) -> str:
    """What went wrong, on one line; errors that are not meant for users keep their name."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if text and isinstance(error, SENTENCES) else f"{name}: {text}" if text else name
