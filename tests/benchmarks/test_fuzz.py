"""benchmarks/fuzz.py, a few hundred cases of each kind: nothing crashes, hangs, or is wrong without a word."""

from __future__ import annotations

import sys
from collections import Counter
from importlib import util
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


@pytest.mark.parametrize(("codec", "cases"), [("diffc", 100), ("uqdm", 100), ("bitsback", 100)])
def test_decoders(fuzz: Any, codec: str, cases: int) -> None:
    corpus = fuzz.samples(codec, 4)
    counts = Counter(fuzz.decode_case(corpus, 1, number) for number in range(cases))
    assert set(counts) <= {"refused", "whole", "partly", "anything"}, counts
    assert counts["refused"] > cases / 2


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
