"""The one evaluation loop: every codec on every image, resumable, over any number of devices and nodes.

The unit of work is one codec on one image; its record is written when it is done, so an interruption loses at most one.
A record that lacks a metric, a picture or its hypothetical points is added to: its files are decoded, nothing is coded.
Lightning's Fabric starts the processes, which take the units in turn.  Rates and qualities come from measure.py,
averages from results.py and per_image.py.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from ..codecs import Codec
from ..data import save_image, write_file
from ..data.datasets import NamedImages
from ..data.images import to_pil
from .hypothetical import hypothetical_points
from .measure import decode_again, largest_lossy, measure_image, progress_points
from .metrics import ExtraMetric, score
from .points import CodecSpec
from .provenance import machine, versions
from .records import Measurement, Record, read_record, sentence, write_record

LONGEST = 16383  # pixels a side of a WebP
Tick = Callable[[str], None]


def run(loop: EvaluationLoop, device: str = "auto", devices: int = 1, num_nodes: int = 1) -> bool:
    """Work off all units of `loop`; True on the first process, where every process's records are then there.

    device   "auto", "cpu" or "cuda"
    devices  processes on this node, each with its device
    """
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes)
    fabric.launch()
    units = list(product(range(len(loop.specs)), range(len(loop.data))))  # by codec: one model at a time is enough
    with torch.inference_mode():
        for which, number in units[fabric.global_rank :: fabric.world_size]:
            loop.measure(which, number, fabric.device)
    fabric.barrier()  # the others' records belong to the averages
    return fabric.is_global_zero


class EvaluationLoop:
    """Measures units, a codec on an image each; the results are the records on disk.

    specs     the codecs
    data      named images
    out       output folder
    extra     further metrics by name
    pictures  how many of the first images have every decoded image kept for the report
    hypothetical  also measure what no file stands for
    keep_decoded  write every decoded image as ``decoded/CODEC/POINT/IMAGE.png``, for metrics of sets of images
    tick      called with a line of text for each failure, and with "" after each unit
    """

    def __init__(
        self,
        specs: Sequence[CodecSpec],
        data: NamedImages,
        out: Path,
        extra: Mapping[str, ExtraMetric] | None = None,
        pictures: int = 2,
        hypothetical: bool = False,
        keep_decoded: bool = False,
        tick: Tick = lambda line: None,
    ) -> None:
        self.specs, self.data, self.out = list(specs), data, out
        self.extra, self.pictures, self.hypothetical = extra or {}, pictures, hypothetical
        self.tick, self.keep_decoded = tick, keep_decoded
        self._codec: tuple[int, Codec] | None = None
        self._pixels: dict[int, str] = {}
        self._origin = {"versions": versions(), "machine": machine()}
        self._identities = [spec.identity() for spec in self.specs]

    def measure(self, which: int, number: int, device: torch.device) -> None:
        """Write the record of codec `which` on image `number`, or what its record lacks."""
        spec, name = self.specs[which], self.data.names[number]
        path = record_path(self.out, spec, name)
        record = read_record(path)
        if record is None or not self._holds(record, which, number):
            record = self._measure(which, number, device)
            write_record(record, path)
        elif self._add(record, which, number, device):
            write_record(record, path)
        for point in record.points:
            if point.error:
                self.tick(f"{spec.label} {name} {point.point}: {point.error}")
        self.tick("")

    def _holds(self, record: Record, which: int, number: int) -> bool:
        """Whether `record` need not be coded again: same codec, same pixels."""
        if record.identity != self._identities[which]:
            return False
        if all(point.error for point in record.points):  # whatever failed altogether gets another try
            return False
        if number not in self._pixels:
            try:
                self._pixels[number] = digest(self.data[number][1])
            except Exception:  # measuring will say why
                return False
        return record.pixels == self._pixels[number]

    def _measure(self, which: int, number: int, device: torch.device) -> Record:
        spec, name = self.specs[which], self.data.names[number]
        try:
            _, image = self.data[number]
            codec = self._build(which, device)
        except Exception as error:  # whatever it is, the other images go on
            return Record(spec.label, name, 0, 0, points=[Measurement("all", error=sentence(error))])
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        record = measure_image(codec, spec, image, name, self.out, partial(self._see, which, number, image))
        record.identity, record.pixels, record.load = self._identities[which], digest(image), load
        record.versions, record.machine = self._origin["versions"], self._origin["machine"]
        self._add(record, which, number, device)
        return record

    def _add(self, record: Record, which: int, number: int, device: torch.device) -> bool:
        """Complete `record` with metrics, pictures and points that it lacks; False where it lacked nothing."""
        spec, name = self.specs[which], self.data.names[number]
        measured = [p for p in record.points if not p.error and not p.hypothetical]
        lacking = [point for point in measured if self._lacks(which, number, point)]
        estimates = [p for p in record.points if p.hypothetical]
        estimate = self.hypothetical and (not estimates or any(map(self._unscored, estimates)))
        whole = largest_lossy(record, spec) if number < self.pictures else None
        shown = bool(record.progress) and all(self._picture(which, number, p.point).is_file() for p in record.progress)
        originals = [p for p in self._originals(number) if not p.is_file()]
        if not (lacking or estimate or originals or (whole and not shown)):
            return False
        try:
            _, image = self.data[number]
            for path in originals:
                (save_picture if path.suffix == ".webp" else save_image)(image, path)
            codec = self._build(which, device)
            for point, decoded in decode_again(codec, lacking, image, self.out):
                self._see(which, number, image, point, decoded)
            if estimate:
                points = hypothetical_points(codec, image, measured, self.extra)
                record.points = [p for p in record.points if not p.hypothetical] + points
            if whole and not shown:
                record.progress = []
                for point, decoded in progress_points(codec, whole, image, self.out):
                    point.scores = score(decoded, image)
                    save_picture(decoded, self._picture(which, number, point.point))
                    record.progress.append(point)
        except Exception as error:  # what was measured before stands
            self.tick(f"{spec.label} {name}: {sentence(error)}")
        return True

    def _see(self, which: int, number: int, image: Tensor, point: Measurement, decoded: Tensor) -> None:
        """Score `decoded` by what has not scored it yet, and keep it where pictures are wanted."""
        point.scores = point.scores or score(decoded, image)
        for metric in self._unscored(point):
            point.scores[metric] = self.extra[metric](decoded, image)
        for path in self._pictures(which, number, point):
            (save_picture if path.suffix == ".webp" else save_image)(decoded, path)

    def _unscored(self, point: Measurement) -> list[str]:
        return [metric for metric in self.extra if point.scores.get(metric) is None]

    def _lacks(self, which: int, number: int, point: Measurement) -> bool:
        pictures = self._pictures(which, number, point)
        return bool(self._unscored(point)) or not all(path.is_file() for path in pictures)

    def _picture(self, which: int, number: int, point: str) -> Path:
        return self.out / "pictures" / self.specs[which].slug / f"{self.data.names[number]}-{point}.webp"

    def _pictures(self, which: int, number: int, point: Measurement) -> list[Path]:
        """Where a decoded image is to be kept, for the report and for metrics of sets."""
        kept = self.out / "decoded" / self.specs[which].slug / point.point / f"{self.data.names[number]}.png"
        shown = [self._picture(which, number, point.point)] if number < self.pictures else []
        return shown + [kept] * self.keep_decoded

    def _originals(self, number: int) -> list[Path]:
        name = self.data.names[number]
        shown = [self.out / "pictures" / "original" / f"{name}.webp"] if number < self.pictures else []
        return shown + [self.out / "decoded" / "original" / f"{name}.png"] * self.keep_decoded

    def _build(self, which: int, device: torch.device) -> Codec:
        if self._codec is None or self._codec[0] != which:
            self._codec = None  # frees the previous model before the next is loaded
            codec = self.specs[which].build(device)
            _warm_up(codec, self.specs[which])
            self._codec = (which, codec)
        return self._codec[1]


def record_path(out: Path, spec: CodecSpec, image: str) -> Path:
    """Where the record of one codec on one image is kept."""
    return out / "records" / spec.slug / f"{image}.json"


def digest(image: Tensor) -> str:
    """Of a uint8 image [3, H, W]: pixels and size."""
    hashed = hashlib.sha256(repr(tuple(image.shape)).encode())
    hashed.update(image.contiguous().numpy().data)
    return hashed.hexdigest()[:16]


def save_picture(image: Tensor, path: Path) -> None:
    """Write a uint8 [3, H, W] image for the report's viewer: WebP at quality 92, a tenth of a PNG."""
    buffer, picture = io.BytesIO(), to_pil(image)
    picture.thumbnail((LONGEST, LONGEST))  # leaves smaller ones as they are
    picture.save(buffer, "WEBP", quality=92, method=4)
    write_file(path, buffer.getvalue())


def _warm_up(codec: Codec, spec: CodecSpec) -> None:
    """One small image before the clock runs: imports, compiled kernels and lazily built tables are not coding time.

    Its failures are not reported, the same codec is about to fail on a real image.
    """
    image = (torch.arange(64 * 64 * 3) % 251).to(torch.uint8).reshape(3, 64, 64)
    with tempfile.TemporaryDirectory() as folder:
        measure_image(codec, spec, image, "warm-up", Path(folder))
