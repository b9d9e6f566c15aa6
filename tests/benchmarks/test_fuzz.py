"""benchmarks/fuzz.py, a few hundred cases of each kind: nothing crashes, hangs, or is wrong without a word."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT


@pytest.fixture(scope="module")
def fuzz() -> Any:
    spec = util.spec_from_file_location("benchmark_fuzz", ROOT / "benchmarks" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["benchmark_fuzz"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("target", ["diffc", "lossless", "uqdm", "bitsback"])
def test_decoders(fuzz: Any, target: str) -> None:
    corpus, cases = fuzz.samples(target, 4), 100
    counts = Counter(fuzz.decode_case(corpus, 1, number) for number in range(cases))
    assert set(counts) <= {"refused", "refused, full length", "whole", "partly", "anything"}, counts
    assert counts["refused"] + counts["refused, full length"] > cases / 2


@pytest.mark.parametrize("reader", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_readers(fuzz: Any, reader: str) -> None:
    corpus = fuzz.images(reader)
    counts = Counter(fuzz.image_case(corpus, 1, number) for number in range(60))
    assert set(counts) <= {"refused", "read"}, counts
    assert min(counts.values()) > 2


def test_what_is_wrong_is_noticed(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (sample,) = fuzz.samples("uqdm", 1)[:1]
    monkeypatch.setattr(fuzz, "mutated", lambda data, other, rng: data)
    assert fuzz.decode_case([sample], 0, 1) == "whole"
    another = fuzz.replace(sample, image=sample.image ^ 1)
    assert fuzz.decode_case([another], 0, 1) == "WRONG: another picture without a note"


def test_results_go_on_where_they_were_stopped(fuzz: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def outcomes(target: str, seed: int, first: int, end: int) -> Iterator[tuple[int, str]]:
        asked.append((first, end))
        return ((number, "read" if number % 2 else "WRONG: a reason") for number in range(first, end))

    monkeypatch.setattr(fuzz, "outcomes", outcomes)
    for cases in (10, 30, 30):
        found = fuzz.run("PNG", 0, cases, tmp_path / "fuzz.json")
    assert asked == [(0, 10), (10, 30), (30, 30)]
    assert found["counts"] == {"WRONG": 15, "read": 15}
    assert found["wrong"][1] == [2, "WRONG: a reason"]
    assert fuzz.run("PNG", 1, 5, tmp_path / "fuzz.json")["cases"] == 5  # another seed starts anew
