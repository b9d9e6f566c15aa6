"""The loop: real files, honest rates, flagged estimates, and an interrupted run that ends like any other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import diffpress
from diffpress.codecs import CodecError, get_codec
from diffpress.data import ImageError, ImageFolder, load_data, read_image, save_image
from diffpress.evaluation.compare import evaluate
from diffpress.evaluation.loop import record_path
from diffpress.evaluation.measure import read_file
from diffpress.evaluation.metrics import learned as learned_metrics
from diffpress.evaluation.metrics import psnr
from diffpress.evaluation.per_image import read_per_image
from diffpress.evaluation.points import parse_specs
from diffpress.evaluation.records import BOUND, write_record
from diffpress.evaluation.results import average
from helpers import ROOT, synthetic_photo

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's remarks on worker counts and missing GPUs

TIMES = ("encode_s", "decode_s", "encode_mib", "decode_mib", "peak_mib")


def run(folder: Path, out: Path, words: list[str], points: list[str] | None = None, **options: Any) -> Any:
    specs = parse_specs(words, points or [])
    return evaluate(specs, ImageFolder(folder), out, **{"device": "cpu", "command": "test", "pictures": 1, **options})


def series(curve: Any) -> tuple[list[float], list[float]]:
    """(bpp, PSNR) of a mean curve."""
    return [p.values["bpp"] for p in curve.lossy()], [p.values["psnr-rgb"] for p in curve.lossy()]


def table(out: Path) -> list[dict[str, str]]:
    """results.tsv without what a clock or the memory says."""
    head, *lines = [line.split("\t") for line in (out / "results.tsv").read_text().splitlines()]
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_every_point_is_a_file_of_that_size_that_decodes_to_that_quality(
    pictures: Path, tmp_path: Path, bitplanes: type
) -> None:
    out = tmp_path / "out"
    result = run(pictures, out, ["jpeg", "webp", "bitplanes"], ["jpeg:20,80", "webp:50,lossless"])
    names = {"jpeg": 2, "webp": 2, "bitplanes": 4}
    rows = table(out)
    assert len(rows) == 3 * sum(names.values())
    for row in rows:
        original = read_image(pictures / f"{row['image']}.png")
        data = (out / row["file"]).read_bytes()
        assert len(data) == int(row["bytes"])
        assert float(row["bpp"]) == pytest.approx(8 * len(data) / (original.shape[1] * original.shape[2]), abs=1e-6)
        assert float(row["bpd"]) == pytest.approx(float(row["bpp"]) / 3, abs=1e-6)
        codec = get_codec(row["codec"])
        decoded = codec.decode(read_file(codec, data, *original.shape[1:]))
        assert psnr(decoded, original) == pytest.approx(float(row["psnr-rgb"]), abs=1e-4)
        assert (row["ms-ssim-rgb"] == "") == (row["image"] != "photo2")  # the others are too small for it
    assert {curve.codec: len(curve.points) for curve in result.curves} == names


def test_prefixes_of_one_file_are_points(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    result = run(pictures, tmp_path / "out", ["bitplanes"])
    assert bitplanes.calls == 3 + 1  # one encoding an image, and the warm-up
    (curve,) = result.curves
    assert [p.point for p in curve.points] == ["segments=1", "segments=2", "segments=3", "lossless"]
    rates, qualities = series(curve)
    assert rates == sorted(rates)
    assert qualities == sorted(qualities)
    assert len(rates) == 3
    assert curve.lossless_point is not None
    assert curve.fingerprint == b"abcd".hex()


def test_a_failing_image_is_reported_and_the_rest_goes_on(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    lines: list[str] = []
    result = run(pictures, tmp_path / "out", ["bitplanes:fail_on=72", "png"], tick=lines.append)
    failures = [p for record in result.records for p in record.points if p.error]
    assert [p.error for p in failures] == ["this width is refused"] * len(failures)
    assert any("photo1" in line and "this width is refused" in line for line in lines)
    failed, good = result.curves
    assert failed.points[0].images == 2
    assert series(failed) == ([], [])  # a mean over the easy images is no result
    assert good.lossless_point is not None
    assert "2 of 3 images" in (tmp_path / "out" / "tables.md").read_text()


def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    pictures: Path, tmp_path: Path, bitplanes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["png", "bitplanes"]
    run(pictures, tmp_path / "whole", words)
    done: list[str] = []

    def interrupt(line: str) -> None:
        done.append(line)
        if len(done) == 5:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(pictures, tmp_path / "cut", words, tick=interrupt)
    assert len(list((tmp_path / "cut" / "records").rglob("*.json"))) == 5
    record_path(tmp_path / "cut", parse_specs(["png"])[0], "photo1").write_text("{half a rec")  # died while writing
    bitplanes.calls = 0
    run(pictures, tmp_path / "cut", words)
    assert bitplanes.calls == 1 + 1  # the one image that was missing, and the warm-up
    assert table(tmp_path / "cut") == table(tmp_path / "whole")
    bitplanes.calls = 0
    run(pictures, tmp_path / "cut", words)
    assert bitplanes.calls == 0


def test_a_killed_run_goes_on_with_any_number_of_processes(pictures: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "evaluate.py"), "--codecs", "jpeg", "webp", "png", "--data", str(pictures)]
    words += ["--points", "jpeg:20,50,80", "webp:20,80,lossless", "--device", "cpu"]

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*words, "-o", str(tmp_path / name), *more], stderr=subprocess.PIPE)

    killed = start("cut")
    while not list((tmp_path / "cut").glob("records/*/*.json")) and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    for process in (start("cut", "--devices", "2"), start("whole")):
        error = process.communicate()[1].decode()
        assert process.returncode == 0, error
    assert len(table(tmp_path / "whole")) == 3 * (3 + 3 + 1)
    assert table(tmp_path / "cut") == table(tmp_path / "whole")
    cut, whole = (json.loads((tmp_path / name / "tables.json").read_text()) for name in ("cut", "whole"))
    assert cut["per_image"] == whole["per_image"]


def test_other_options_and_damaged_files_are_measured_again(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pictures, out, ["jpeg"], ["jpeg:20"])
    first = table(out)
    file = out / first[0]["file"]
    file.write_bytes(file.read_bytes()[:-1])
    run(pictures, out, ["jpeg"], ["jpeg:20"])
    assert table(out) == first
    run(pictures, out, ["jpeg"], ["jpeg:30"])
    assert {row["point"] for row in table(out)} == {"quality=30"}


def test_other_images_of_the_same_name_are_measured_again(pictures: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    run(pictures, out, ["png"])
    for path in pictures.iterdir():
        save_image(255 - read_image(path), other / path.name)
    run(other, out, ["png"])
    mixed = table(out)
    run(other, tmp_path / "fresh", ["png"])
    assert mixed == table(tmp_path / "fresh")


def test_pictures_that_are_asked_for_later(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    out = tmp_path / "out"
    assert run(pictures, out, ["bitplanes"], pictures=0).pictured == []
    assert not (out / "pictures").exists()
    assert run(pictures, out, ["bitplanes"], pictures=2).pictured == ["photo0", "photo1"]
    assert (out / "pictures" / "bitplanes" / "photo1-segments=2.webp").is_file()
    bitplanes.calls = 0
    assert run(pictures, out, ["bitplanes"], pictures=1).pictured == ["photo0"]
    assert bitplanes.calls == 0


def test_a_codec_that_breaks_in_unforeseen_ways_stops_nothing(
    pictures: Path, tmp_path: Path, bitplanes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, stream: Any, *, segments: int | None = None) -> torch.Tensor:
        raise KeyError("scale")

    monkeypatch.setattr(bitplanes, "decode", broken)
    result = run(pictures, tmp_path / "out", ["bitplanes", "png"])
    errors = {p.error for record in result.records for p in record.points if p.error}
    assert errors == {"KeyError: 'scale'"}
    assert result.curves[-1].lossless_point is not None


def test_metrics_that_fail_take_nothing_else_with_them(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*images: Any) -> float:
        raise IndexError("out of range")

    for name in ("lpips", "fid"):
        monkeypatch.setitem(learned_metrics.LOADERS, name, lambda device: fails)
    learned = learned_metrics.load_metrics(["lpips", "fid"])
    result = run(pictures, tmp_path / "out", ["jpeg"], ["jpeg:20,50,80"], learned=learned)
    assert len(series(result.curves[0])[0]) == 3
    assert [note.partition(" ")[0] for note in result.notes] == ["lpips:", "fid:", "fid:", "fid:"]
    assert "IndexError: out of range" in result.notes[0]


def test_arguments_are_checked_before_anything_is_measured(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    with pytest.raises(CodecError, match="no such curve among bitplanes"):
        run(pictures, tmp_path / "out", ["bitplanes"], anchors=["jpg"])
    with pytest.raises(ImageError, match="nowhere"):
        run(pictures, tmp_path / "out", ["bitplanes"], published=[tmp_path / "nowhere"])
    assert bitplanes.calls == 0
    assert run(pictures, tmp_path / "out", ["png", "bitplanes"]).anchor == "bitplanes"  # png has no curve


def test_records_say_where_they_come_from(
    pictures: Path, tmp_path: Path, bitplanes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pictures, tmp_path / "out", ["png"])
    monkeypatch.setattr("diffpress.evaluation.loop.versions", lambda: {"diffpress": "9.9"})
    result = run(pictures, tmp_path / "out", ["png", "bitplanes"])
    assert result.versions["diffpress"] == f"{diffpress.__version__} and 9.9"
    assert result.machine["cores"]


def test_diffc_has_a_slider_and_an_ideal_coder(tmp_path: Path, tiny_prior: Path) -> None:
    save_image(synthetic_photo(24, 40), tmp_path / "in" / "photo.png")
    result = run(tmp_path / "in", tmp_path / "out", [f"diffc:model={tiny_prior}"], hypothetical=True)
    (record,) = result.records
    assert not any(point.error for point in record.points)
    assert [p.segments for p in record.progress] == list(range(1, len(record.progress) + 1))
    for point in record.progress:
        assert (tmp_path / "out" / "pictures" / result.specs[0].slug / f"photo-{point.point}.webp").is_file()
    measured = {p.segments: p for p in record.points if not p.hypothetical and not p.lossless}
    ideal = {p.segments: p for p in record.points if p.hypothetical}
    assert ideal.keys() == measured.keys()
    assert all(p.point == f"ideal coder, {k} steps" and p.file == "" for k, p in ideal.items())
    rates = [p.bpp for p in ideal.values()]
    assert rates == sorted(rates)
    for k, point in ideal.items():
        assert point.scores["psnr-rgb"] == pytest.approx(measured[k].scores["psnr-rgb"], abs=1)


def test_uqdm_has_every_step_and_a_lossless_file_of_few(tmp_path: Path) -> None:
    save_image(synthetic_photo(24, 40), tmp_path / "in" / "photo.png")
    codec = f"uqdm:model={ROOT / 'tests' / 'golden' / 'uqdm-model'}"
    result = run(tmp_path / "in", tmp_path / "out", [codec], hypothetical=True)
    (record,) = result.records
    names = [f"segments={k}" for k in (1, 2, 3)] + ["lossless"]
    assert [p.point for p in record.points] == names + [f"estimate for {name}" for name in names]
    assert [p.segments for p in record.points] == [1, 2, 3, 2, 1, 2, 3, 4]  # the estimate is that of all segments
    rates = [p.bpp for p in record.points]
    assert rates[3] < rates[7] == pytest.approx(max(rates))


def test_hypothetical_points_are_flagged_and_stay_out_of_the_curve(
    pictures: Path, tmp_path: Path, bitplanes: Any
) -> None:
    result = run(pictures, tmp_path / "out", ["bitplanes"], hypothetical=True)
    (curve,) = result.curves
    estimated = [p for p in curve.points if p.hypothetical]
    assert estimated[0].point == "estimate for segments=1"
    assert len(estimated) == 4 + 1
    (bound,) = [point for point in estimated if point.point == BOUND]
    assert bound.values["psnr-rgb"] == pytest.approx(48.13, abs=0.5)  # one grey level off
    assert len(series(curve)[0]) == 3
    assert len([p for p in estimated if p.point != BOUND and not p.lossless]) == 3
    assert all(row["file"] == "" for row in table(tmp_path / "out") if row["hypothetical"] == "1")
    assert "(hypothetical)" in (tmp_path / "out" / "tables.md").read_text()
    (_, written) = read_per_image(tmp_path / "out")
    assert written.codec == "bitplanes (hypothetical)"
    assert len(written.series("photo0", "psnr-rgb")[0]) == 3


def test_outputs_for_others(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pictures, out, ["jpeg"], ["jpeg:5,50,95"])
    assert (out / "tables.tex").read_text().count("\\toprule") >= 4
    assert (out / "curves-psnr-rgb.svg").read_text().lstrip().startswith("<?xml")
    assert (out / "curves-psnr-rgb.pdf").read_bytes().startswith(b"%PDF")
    everything = json.loads((out / "tables.json").read_text())
    assert everything["command"] == "test"
    assert everything["machine"]["cores"]
    assert float(everything["machine"]["load while measuring"]) >= 0


def test_lossless_that_is_not_is_an_error(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    def wrong(self: Any, stream: Any, *, segments: int | None = None) -> torch.Tensor:
        return torch.zeros(3, stream.header.height, stream.header.width, dtype=torch.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitplanes, "decode", wrong)
        result = run(pictures, tmp_path / "out", ["bitplanes"])
    assert result.curves[0].lossless_point is None
    assert any("original pixels" in p.error for record in result.records for p in record.points)


def test_words_of_the_command_line(bitplanes: Any) -> None:
    slow, fast = parse_specs(["avif", "avif:speed=9,tune=iq"], ["avif:10,20", "avif:speed=9,tune=iq:30"])
    assert (slow.name, slow.options, slow.grid.values) == ("avif", {}, (10, 20))
    assert (fast.label, fast.options, fast.grid.values) == ("avif:speed=9,tune=iq", {"speed": 9, "tune": "iq"}, (30,))
    assert parse_specs(["diffc"], ["diffc:0.1,lossless"])[0].model == "diffc-pixel-2"
    assert parse_specs(["diffc:model=other"])[0].model == "other"
    for words, points, message in [
        (["gif"], [], "unknown codec 'gif'"),
        (["jpeg:fast"], [], "expected NAME:OPTION=VALUE"),
        (["jpeg"], ["webp:10"], "no such codec"),
        (["jpeg"], ["jpeg"], "expected CODEC:VALUE"),
        (["jpeg"], ["jpeg:good"], "'good' is neither"),
        (["jpeg", "jpeg"], [], "same name"),
    ]:
        with pytest.raises(CodecError, match=message):
            parse_specs(words, points)
    with pytest.raises(CodecError, match="tempo"):
        parse_specs(["avif:tempo=9"])[0].build("cpu")


def test_a_missing_record_is_a_failure_and_no_image_less(pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("diffpress.evaluation.loop.write_record", lambda record, path: record.image == "photo1" or
                        write_record(record, path))  # fmt: skip
    result = run(pictures, tmp_path / "out", ["jpeg"], ["jpeg:20,50,80"])
    assert result.failures == ["jpeg photo1 all: its record or a file is missing"]
    assert [(point.images, point.of) for point in result.curves[0].points] == [(2, 3)] * 3
    assert len(result.per_image[0].curves) == 3


def test_averages_leave_out_points_that_images_failed_at() -> None:
    from diffpress.evaluation.records import Measurement, Record

    scores = {"psnr-rgb": 30.0}
    records = [
        Record("c", "a", 1, 1, "", points=[Measurement("p", bpp=1, scores=scores), Measurement("q", error="no")]),
        Record(
            "c", "b", 1, 1, "", points=[Measurement("p", bpp=3, scores={"psnr-rgb": None}), Measurement("q", bpp=1)]
        ),
    ]
    (curve,) = average(records)
    assert [(p.point, p.images, p.of) for p in curve.points] == [("p", 2, 2), ("q", 1, 2)]
    assert series(curve) == ([2.0], [65.0])  # an exact copy counts as 100 dB


def test_imagenet64_goes_through_the_loop(tmp_path: Path) -> None:
    import numpy as np

    values = np.random.default_rng(0).integers(0, 256, (3, 12288), dtype=np.uint8)
    np.savez(tmp_path / "val_data.npz", data=values)
    data = load_data("imagenet64", tmp_path)
    data.names = data.names[:2]
    result = evaluate(parse_specs(["png"]), data, tmp_path / "out", device="cpu", pictures=0)
    assert [record.image for record in result.records] == ["val00000", "val00001"]
    assert result.summary()[0].lossless_bpd == pytest.approx(8, rel=0.02)  # noise does not compress


def test_adding_a_metric_measures_that_metric_alone(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    asked: list[str] = []

    def grey(name: str) -> Any:
        def metric(decoded: torch.Tensor, original: torch.Tensor) -> float:
            asked.append(name)
            return float((decoded.float() - original.float()).mean())

        return metric

    def measure(*names: str, **options: Any) -> Any:
        asked.clear()
        learned = learned_metrics.LearnedMetrics({name: grey(name) for name in names})
        return run(pictures, tmp_path / "out", ["bitplanes", "jpeg"], ["jpeg:20,50,80"], learned=learned, **options)

    before = {record.codec + record.image: record for record in measure("grey").records}
    calls = bitplanes.calls
    result = measure("grey", "other", hypothetical=True)
    assert bitplanes.calls == calls + 1 + 3  # the warm-up, and an estimate for each image; nothing was coded
    assert asked.count("grey") == 3  # of the autoencoder alone, a hypothetical point
    assert asked.count("other") == 3 * (4 + 3) + 3
    for record in result.records:
        old = {point.point: point for point in before[record.codec + record.image].points}
        for point in record.points:
            if not point.hypothetical:
                assert point.scores.pop("other") == old[point.point].scores["grey"]
                assert point == old[point.point]
    assert measure("grey", "other", hypothetical=True).records
    assert asked == []
    assert not any(point.hypothetical for record in measure("grey").records for point in record.points)
