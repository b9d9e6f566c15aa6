"""benchmarks/gpu.py without a GPU: it says that there is none, and a part that fails does not stop the others."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from golden_files import GOLDEN

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_in_one_line(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert gpu.main() == 1
    assert capsys.readouterr() == ("there is no CUDA device, so nothing was run\n", "")


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
        "good": python("import sys; open(sys.argv[1], 'w').write('[{\"ms\": 1.2345}, {\"what\": \"x\"}]')"),
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
    assert "| ms | what |\n|---|---|\n| 1.23 |  |\n|  | x |\n" in text


def test_parts_run_on_the_cpu(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU in place of the GPU, small sizes and a small model: every part gives its figures."""
    monkeypatch.setattr(gpu, "KODAK", (16, 24))
    monkeypatch.setattr(gpu, "PHOTO_MODELS", [(GOLDEN / "diffc-model", {"dtype": t}) for t in ("float32", "bfloat16")])
    for name, value in (("BATCH", 2), ("CROP", 32), ("STEPS", 1), ("ESTIMATES", 1)):
        monkeypatch.setattr(gpu, name, value)
    exchanged = gpu.files("cpu", ["lossless.dfc"])
    assert [(row["good"], row["largest difference"]) for row in exchanged] == [(True, 0)] * 2
    for rows, speeds in ((gpu.photo("cpu"), ("encode s", "decode s")), (gpu.training("cpu"), ("images/s",))):
        assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
        assert all(row[speed] > 0 for row in rows for speed in speeds)
    engines = gpu.integers("cpu")
    assert [row["engine"] for row in engines] == ["int8 products", "float32"]
    assert all(row["good"] and row["ms"] > 0 for row in engines)


def test_the_page_is_empty_until_something_has_run(gpu: Any) -> None:
    kept, page = ROOT / "docs" / "results" / "gpu.json", (ROOT / "docs" / "results" / "gpu.md").read_text()
    assert kept.is_file() or page == gpu.page([])
