"""benchmarks/gpu.py without a GPU: it says that there is none, and a part that fails does not stop the others."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from golden_files import GOLDEN, Golden

from helpers import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> Any:
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_gpu"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


without_device = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@without_device
def test_without_a_device_it_says_so_in_one_line(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert gpu.main() == 3
    assert capsys.readouterr() == ("there is no CUDA device, so nothing was run\n", "")


@without_device
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_gpu_without_a_device_says_one_line_and_succeeds() -> None:
    make = ["make", "--no-print-directory", "--assume-old", ".venv/installed", "gpu", f"PY={sys.executable}"]
    ended = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "there is no CUDA device, so nothing was run\n", "")


def test_limits_add_up_to_nine_minutes(gpu: Any) -> None:
    assert max(part.limit for part in gpu.PARTS.values()) <= 120
    assert sum(part.limit for part in gpu.PARTS.values()) <= 540
    assert {name for name, part in gpu.PARTS.items() if not part.command} == set(gpu.FUNCTIONS)
    for part in gpu.PARTS.values():
        scripts = [word for word in part.command if word.endswith(".py") and not word.startswith("/")]
        assert all((ROOT / script).is_file() for script in scripts)


def test_a_part_passes_fails_is_stopped_or_skipped(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def python(code: str, limit: int = 60, needs: str | None = None) -> Any:
        return gpu.Part("a test", limit, (sys.executable, "-c", code, "RESULTS"), needs)

    parts = {
        "good": python("import sys; open(sys.argv[1], 'w').write('[{\"ms\": 1.2345}, {\"what\": \"x|\\\\ny\"}]')"),
        "bad": python("print('on the way'); raise SystemExit(3)"),
        "endless": python("import time; print('begun', flush=True); time.sleep(60)", limit=1),
        "absent": python("", needs="no-such-program"),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    outcomes = [gpu.run_part(name, part) for name, part in parts.items()]
    assert [one.status for one in outcomes] == ["passed", "failed", "stopped", "skipped"]
    assert [one.output for one in outcomes[:2]] == ["", "on the way\n"]
    assert outcomes[3].output == "no-such-program is not installed"
    text = gpu.page(outcomes)
    assert "| endless | a test | stopped | " in text
    assert "| ms | what |\n|---|---|\n| 1.23 |  |\n|  | x/ y |\n" in text


def test_parts_run_on_the_cpu(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU in place of the GPU, small sizes and a small model: every part gives its figures."""
    monkeypatch.setattr(gpu, "KODAK", (16, 24))
    monkeypatch.setattr(gpu, "PHOTO_MODELS", [(GOLDEN / "diffc-model", {"dtype": t}) for t in ("float32", "bfloat16")])
    for name, value in (("BATCH", 2), ("CROP", 32), ("STEPS", 1), ("ESTIMATES", 1)):
        monkeypatch.setattr(gpu, name, value)
    exchanged = gpu.files("cpu", ["lossless.dfc"])
    assert [(row["good"], row["largest difference"]) for row in exchanged] == [(True, 0)] * 2
    for part, speeds in ((gpu.photo, ("encode s", "decode s")), (gpu.training, ("images/s",))):
        rows = list(part("cpu"))
        assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
        assert all(row[speed] > 0 for row in rows for speed in speeds)
    engines = list(gpu.integers("cpu"))
    assert [row["engine"] for row in engines] == ["int8 products", "float32"]
    assert all(row["good"] and row["ms"] > 0 for row in engines)


def test_a_file_that_fails_does_not_stop_the_others(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(entry: Golden, folder: Path, device: str) -> None:
        raise RuntimeError(f"no {entry.file} on {device}")

    monkeypatch.setattr(Golden, "build", build)
    rows = list(gpu.files("cpu", ["pfr.dfc", "prefix.uqdm"]))
    assert [(row["error"], row["good"]) for row in rows[1:3]] == [
        ("RuntimeError: no pfr.dfc on cpu", False), ("RuntimeError: no prefix.uqdm on cpu", False),
    ]  # fmt: skip


def test_coders_are_timed_with_and_without_clusters(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import rcc_speed

    for module, name, value in (
        (gpu, "COORDINATES", (64, 32)), (gpu, "AIMS", {9: 2}),
        (rcc_speed, "CANDIDATES", 2048), (rcc_speed, "CHUNKS", 1), (rcc_speed, "BITS", 9.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    rows = list(gpu.coders("cpu"))
    assert all(row["ms"] > 0 for row in rows)
    told = [f"trellis, 9 bits, at most {blocks} blocks a trellis" for blocks in (8, 1)]
    assert [row["what"] for row in rows[-2:]] == told


@without_device
def test_versions_are_told_where_kernels_do_not_work(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = SimpleNamespace(name="H0", major=9, minor=0, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = {row["what"]: row["value"] for row in gpu.versions("cuda")}
    assert (told["compute capability"], told["memory, GiB"]) == ("9.0", 80.0)
    assert told["kernels"] == "none: the cuda backend needs a CUDA GPU, and torch finds none"


@without_device
def test_results_are_written_after_each_part(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a device that is gone when the parts begin: what they say is kept, and the next one runs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "photo", "memcheck", "-o", str(tmp_path)])
    monkeypatch.setattr(shutil, "which", lambda program: None)
    seen = list[list[str]]()
    monkeypatch.setattr(gpu, "page", lambda outcomes: seen.append([one.status for one in outcomes]) or "page")
    assert gpu.main() == 1
    assert seen == [["failed"], ["failed", "skipped"]]
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert [(one["part"], one["output"]) for one in kept] == [
        ("photo", "there is no CUDA device, so nothing was run\n"),
        ("memcheck", "compute-sanitizer is not installed"),
    ]
    assert "photo: failed" in capsys.readouterr().out


def test_the_page_is_empty_until_something_has_run(gpu: Any) -> None:
    kept, page = ROOT / "docs" / "results" / "gpu.json", (ROOT / "docs" / "results" / "gpu.md").read_text()
    assert kept.is_file() or page == gpu.page([])
