"""The one evaluation loop: every codec on every image, under Lightning's Trainer, resumable.

The unit of work is one codec on one image; its record is written when it is done, so an interruption loses at most one.
Devices and nodes take the units in turn.  Rates and qualities come from measure.py, averages from results.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from ..codecs import Codec
from ..data import save_image, write_file
from ..data.batches import EveryNth
from ..data.datasets import NamedImages
from ..data.images import to_pil
from .measure import ExtraMetric, Measurement, Record, measure_image, progress_points, record_from_dict, sentence
from .points import CodecSpec, pairs
from .provenance import machine, versions

LONGEST = 16383  # pixels a side of a WebP
Tick = Callable[[str], None]


class EvaluationModule(lightning.LightningModule):
    """Works off (codec, image) units in `test_step`; the results are the records on disk.

    specs     the codecs
    data      named images
    out       output folder
    extra     further metrics by name
    pictures  how many of the first images have every decoded image kept for the report
    hypothetical  also measure what no file stands for
    keep_decoded  write every decoded image as ``decoded/CODEC/POINT/IMAGE.png``, for metrics of sets of images
    tick      called with a line of text after each unit
    summary   called on the first process when all units are done, with the logger's TensorBoard writer or None
    """

    def __init__(
        self,
        specs: Sequence[CodecSpec],
        data: NamedImages,
        out: Path,
        extra: dict[str, ExtraMetric] | None = None,
        pictures: int = 2,
        hypothetical: bool = False,
        keep_decoded: bool = False,
        tick: Tick = lambda line: None,
        summary: Callable[[Any], None] = lambda writer: None,
    ) -> None:
        super().__init__()
        self.specs, self.data, self.out = list(specs), data, out
        self.extra, self.pictures, self.hypothetical = extra or {}, pictures, hypothetical
        self.tick, self.summary, self.keep_decoded = tick, summary, keep_decoded
        self._codec: tuple[int, Codec] | None = None
        self._pixels: dict[int, str] = {}
        self._origin = {"versions": versions(), "machine": machine()}
        flags = [*sorted(self.extra), *["hypothetical"] * hypothetical, *["decoded"] * keep_decoded]
        suffix = "".join(f"+{flag}" for flag in flags)
        self._identities = [spec.identity() + suffix for spec in self.specs]

    def test_dataloader(self) -> DataLoader[tuple[int, int]]:
        units: Any = pairs(self.specs, len(self.data))  # any list is a map-style data set
        return DataLoader(units, batch_size=None, sampler=EveryNth(units))

    def test_step(self, unit: tuple[int, int], index: int) -> None:
        which, number = unit
        spec = self.specs[which]
        name = self.data.names[number]
        path = record_path(self.out, spec, name)
        if not self._holds(read_record(path), which, number):
            record = self._measure(which, number)
            write_file(path, json.dumps(record.as_dict(), indent=1).encode())
            failed = [point for point in record.points if point.error]
            for point in failed:
                self.tick(f"{spec.label} {name} {point.point}: {point.error}")
        self.tick("")

    def _holds(self, record: Record | None, which: int, number: int) -> bool:
        """Whether `record` need not be measured again: same codec, same pixels, its pictures are there."""
        if record is None or record.identity != self._identities[which]:
            return False
        if all(point.error for point in record.points):  # whatever failed altogether gets another try
            return False
        if number not in self._pixels:
            try:
                self._pixels[number] = digest(self.data[number][1])
            except Exception:  # measuring will say why
                return False
        if record.pixels != self._pixels[number]:
            return False
        if number >= self.pictures or max(record.height, record.width) > LONGEST:
            return True
        shown = [p for p in [*record.points, *record.progress] if not p.error and not p.hypothetical]
        return all(self._picture(which, number, point.point).is_file() for point in shown)

    def _picture(self, which: int, number: int, point: str) -> Path:
        return self.out / "pictures" / self.specs[which].slug / f"{self.data.names[number]}-{point}.webp"

    def on_test_end(self) -> None:
        self.trainer.strategy.barrier()  # the others' records belong to the summary
        if self.trainer.is_global_zero:
            logger = self.logger
            self.summary(logger.experiment if isinstance(logger, TensorBoardLogger) else None)

    def _measure(self, which: int, number: int) -> Record:
        spec, name = self.specs[which], self.data.names[number]
        try:
            _, image = self.data[number]
            codec = self._build(which)
        except Exception as error:  # whatever it is, the other images go on
            return Record(spec.label, name, 0, 0, points=[Measurement("all", error=sentence(error))])

        def keep(point: str, decoded: Tensor) -> None:
            if number < self.pictures:
                save_picture(decoded, self._picture(which, number, point))
            if self.keep_decoded:
                save_image(decoded, self.out / "decoded" / spec.slug / point / f"{name}.png")

        if self.keep_decoded:
            save_image(image, self.out / "decoded" / "original" / f"{name}.png")
        if number < self.pictures:
            save_picture(image, self.out / "pictures" / "original" / f"{name}.webp")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        record = measure_image(codec, spec, image, name, self.out, self.extra, keep, self.hypothetical)
        if number < self.pictures:
            try:
                record.progress = progress_points(codec, spec, record, image, self.out, keep)
            except Exception as error:
                record.points.append(Measurement("progressive decoding", error=sentence(error)))
        record.identity, record.pixels, record.load = self._identities[which], digest(image), load
        record.versions, record.machine = self._origin["versions"], self._origin["machine"]
        return record

    def _build(self, which: int) -> Codec:
        if self._codec is None or self._codec[0] != which:
            self._codec = None  # frees the previous model before the next is loaded
            codec = self.specs[which].build(self.device)
            _warm_up(codec, self.specs[which])
            self._codec = (which, codec)
        return self._codec[1]


def run(module: EvaluationModule, device: str = "auto", devices: int = 1, num_nodes: int = 1) -> None:
    """Work off all units of `module` under a Trainer, with TensorBoard logs in ``OUT/tensorboard``.

    device   "auto", "cpu" or "cuda"
    devices  processes on this node
    """
    _remove(module.out / "tensorboard")  # the summary logs everything anew
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device banners on every start
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
        trainer = lightning.Trainer(
            accelerator=device,
            devices=devices,
            num_nodes=num_nodes,
            logger=TensorBoardLogger(module.out, name="tensorboard", version="", default_hp_metric=False),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
        )
        trainer.test(module, verbose=False)


def record_path(out: Path, spec: CodecSpec, image: str) -> Path:
    """Where the record of one codec on one image is kept."""
    return out / "records" / spec.slug / f"{image}.json"


def read_record(path: Path) -> Record | None:
    """The record in `path`, None if there is none, or one whose files are gone."""
    try:
        record = record_from_dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    out = path.parents[2]
    sizes_hold = all(
        (out / point.file).is_file() and (out / point.file).stat().st_size == point.num_bytes
        for point in record.points
        if point.file
    )
    return record if sizes_hold else None


def digest(image: Tensor) -> str:
    """Of a uint8 image [3, H, W]: pixels and size."""
    hashed = hashlib.sha256(repr(tuple(image.shape)).encode())
    hashed.update(image.contiguous().numpy().data)
    return hashed.hexdigest()[:16]


@rank_zero_only
def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def save_picture(image: Tensor, path: Path) -> None:
    """Write a uint8 [3, H, W] image for the report's viewer: WebP at quality 92, a tenth of a PNG.

    An image beyond LONGEST pixels a side is left out.
    """
    if max(image.shape) > LONGEST:
        return
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "WEBP", quality=92, method=4)
    write_file(path, buffer.getvalue())


def _warm_up(codec: Codec, spec: CodecSpec) -> None:
    """One small image before the clock runs: imports, compiled kernels and lazily built tables are not coding time.

    Its failures are not reported, the same codec is about to fail on a real image.
    """
    image = (torch.arange(64 * 64 * 3) % 251).to(torch.uint8).reshape(3, 64, 64)
    with tempfile.TemporaryDirectory() as folder:
        measure_image(codec, spec, image, "warm-up", Path(folder))
