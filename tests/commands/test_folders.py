"""Many files: trees, processes, what a killed run leaves and how the next one goes on, two runs at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffpress.commands.batch import run_batch
from diffpress.commands.compress import main as compress
from diffpress.commands.decompress import main as decompress
from diffpress.commands.manifest import Manifest, read_manifests
from diffpress.commands.train import main as train
from diffpress.data import read_image, save_image
from helpers import ROOT, EndsAtC, synthetic_photo

NAMES = ("a.png", "b.png", "b.bmp", "deep/er/c.png", "deep/d.png")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, name in enumerate((*NAMES, ".thumbnails/a.png")):
        save_image(synthetic_photo(24, 30 + number, number), tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def files(folder: Path) -> dict[str, bytes]:
    """Contents by name, without manifests."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.match("manifest*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def manifest(folder: Path) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


WEBP = ["photos", "--codec", "webp"]
WRITTEN = {"a.webp", "b.png.webp", "b.bmp.webp", "deep/er/c.webp", "deep/d.webp"}


def test_processes_and_shards_give_the_files_of_one_process(photos: Path, tiny_prior: Path) -> None:
    model = ["photos", "--bpp", "2", "--model", str(tiny_prior), "--device", "cpu"]
    assert compress([*model, "-o", "one", "--jobs", "1"]) == 0
    assert compress([*model, "-o", "two", "--jobs", "2"]) == 0
    for shard in ("1/2", "2/2"):
        assert compress([*model, "-o", "shards", "--shard", shard]) == 0
    assert set(files(Path("one"))) == {name.replace("webp", "dfc") for name in WRITTEN}
    assert files(Path("two")) == files(Path("one")) == files(Path("shards"))
    assert manifest(Path("two")) == manifest(Path("one"))
    assert [entry["file"] for entry in manifest(Path("one"))] == sorted(files(Path("one")))
    known = read_manifests(Path("shards"))
    assert {name: entry["sha256"] for name, entry in known.items()} == {
        one["file"]: one["sha256"] for one in manifest(Path("one"))
    }
    assert decompress(["two", "-o", "back", "--model", str(tiny_prior), "--device", "cpu", "--jobs", "1"]) == 0
    assert read_image("back/deep/er/c.png").shape == (3, 24, 33)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_lightning_gives_the_files_of_one_process(
    devices: int, tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder by `train.py predict`, over processes, and by compress.py, whole and in shards."""
    monkeypatch.chdir(tmp_path)  # where Lightning writes its settings
    for number in range(5):
        save_image(synthetic_photo(24, 30 + number, number), tmp_path / "photos" / f"{number}.png")
    words = [str(tmp_path / "photos"), "--bpp", "2", "--model", str(tiny_prior), "--device", "cpu"]
    assert compress([*words, "-o", str(tmp_path / "one"), "--jobs", "1"]) == 0
    for shard in ("1/3", "2/3", "3/3"):
        assert compress([*words, "-o", str(tmp_path / "shards"), "--shard", shard]) == 0
    predict = [
        "predict", "--model", "diffpress.lightning_modules.diffc.DiffCModule", "--data.test", str(tmp_path / "photos"),
        "--model.model", str(tiny_prior), "--model.out", str(tmp_path / "predicted"), "--model.bpp", "2",
        "--trainer.accelerator", "cpu", "--trainer.devices", str(devices), "--trainer.logger", "false",
    ]  # fmt: skip
    if devices == 1:
        threads = torch.get_num_threads()
        assert train(predict) == 0
        assert torch.get_num_threads() == threads
    else:
        run = subprocess.run([sys.executable, str(ROOT / "train.py"), *predict], capture_output=True, text=True,
                             cwd=tmp_path, check=False)  # fmt: skip
        assert run.returncode == 0, run.stderr
    assert set(files(tmp_path / "one")) == {f"{number}.dfc" for number in range(5)}
    assert files(tmp_path / "predicted") == files(tmp_path / "one") == files(tmp_path / "shards")


def test_resume_skips_what_is_done_and_redoes_what_is_not(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path("out")
    assert compress([*WEBP, "-o", "out"]) == 0
    whole, lines = files(out), manifest(out)
    assert set(whole) == WRITTEN
    assert compress([*WEBP, "-o", "out"]) == 2  # without --resume nothing that exists is touched
    before = (out / "a.webp").stat().st_mtime_ns
    (out / "deep/d.webp").unlink()  # as if killed before it was written, and with half a line in the manifest
    (out / "b.bmp.webp").write_bytes(b"rotten")
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"source": "photos/de')
    capsys.readouterr()
    assert compress([*WEBP, "-o", "out", "--resume"]) == 0
    said = capsys.readouterr().out
    assert said.count("there already") == 3
    assert files(out) == whole
    assert manifest(out) == lines
    assert (out / "a.webp").stat().st_mtime_ns == before
    save_image(synthetic_photo(24, 30, 77), photos / "a.png")  # another picture under the name
    assert compress([*WEBP, "-o", "out", "--resume"]) == 0
    assert files(out)["a.webp"] != whole["a.webp"]
    assert compress([*WEBP, "-o", "out", "--resume", "--quality", "30"]) == 0  # other settings: none is done
    assert all(files(out)[name] != whole[name] for name in whole)


def test_resume_leaves_a_file_alone_that_no_manifest_knows(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos.parent / "out").mkdir()
    Path("out/a.webp").write_bytes(b"somebody's own")
    assert compress([*WEBP, "-o", "out", "--resume"]) == 1
    assert "no manifest knows it" in capsys.readouterr().err
    assert Path("out/a.webp").read_bytes() == b"somebody's own"
    assert [one["status"] for one in manifest(Path("out"))] == ["failed", *["done"] * 4]
    assert compress([*WEBP, "-o", "out2"]) == 0
    os.remove("out2/manifest.jsonl")  # killed between a file and its line: the same bytes are as good as a line
    assert compress([*WEBP, "-o", "out2", "--resume"]) == 0


def test_failures_are_told_at_the_end_and_in_the_manifest(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "a.png").write_bytes(b"no picture")
    assert compress([*WEBP, "-o", "out"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("photos/a.png: not an image")
    assert "4 of 5 files" in said.out
    assert said.out.endswith("1 failed\n")
    assert "not an image" in str(manifest(Path("out"))[0]["error"])


def test_two_runs_into_one_folder_do_not_mix(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Manifest(Path("out"), ""):
        assert compress([*WEBP, "-o", "out"]) == 2
        assert "being written by another process" in capsys.readouterr().err
        assert compress([*WEBP, "-o", "out", "--shard", "1/2"]) == 0  # which has a manifest of its own
    assert compress([*WEBP, "-o", "out", "--resume"]) == 0


def test_a_process_that_dies_costs_its_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [(tmp_path / name, tmp_path / f"{name}.out") for name in "abcde"]
    assert run_batch(jobs, EndsAtC(), 2) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.out", "b.out", "d.out", "e.out"]
    assert (tmp_path / "e.out").read_text() == "e by one of 1 threads"
    assert "killed by signal 9" in capsys.readouterr().err


def test_verified_files_are_decoded_elsewhere_first(
    photos: Path, tiny_prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["photos/a.png", "--model", str(tiny_prior), "--device", "cpu", "--verify"]
    assert compress([*words, "--lossless"]) == 0
    assert "verified: every pixel" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["--shard", "3/2"], "--shard takes I/N"), (["--shard", "0/2"], "--shard takes I/N"),
    (["--jobs", "0"], "--jobs must be at least 1"), (["--background", "nocolour"], "is no colour"),
    (["--metadata", "keep"], "--metadata does not apply"), (["--metadata", "lose"], "--metadata must be one of keep"),
])  # fmt: skip
def test_wrong_options(photos: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress([*WEBP, "-o", "out", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out").exists()
