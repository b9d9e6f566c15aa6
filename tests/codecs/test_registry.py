"""The registry: names, capabilities, and the codec that fits a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffpress.codecs import CodecError, Header, get_codec
from diffpress.codecs.base import Estimating, IdealCoding, Lossless, Progressive, SelfDelimiting
from diffpress.codecs.registry import MODEL_CODECS, codec_class, codec_for, codec_names, open_codec
from diffpress.lightning_modules import load_model
from helpers import ROOT

GOLDEN = ROOT / "tests" / "golden"
PROTOCOLS: list[type] = [Progressive, SelfDelimiting, Lossless, Estimating, IdealCoding]


@pytest.mark.parametrize(("name", "model", "capabilities"), [
    ("diffc", "diffc-model", [Progressive, SelfDelimiting, Lossless, IdealCoding]),
    ("uqdm", "uqdm-model", [Progressive, Lossless, Estimating]),
    ("bitsback", "diffc-model", [Lossless]),
])  # fmt: skip
def test_capabilities(name: str, model: str, capabilities: list[type]) -> None:
    codec: Any = get_codec(name, model=load_model(GOLDEN / model, device="cpu"))
    assert [one for one in PROTOCOLS if isinstance(codec, one)] == capabilities
    assert codec.name == name
    assert codec.lossless
    assert (ROOT / "checkpoints" / MODEL_CODECS[name].default_model).is_dir()


def test_numbers_in_files_are_unique() -> None:
    numbers = [entry.file_number for entry in MODEL_CODECS.values()]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(range(1, 16))
    assert set(MODEL_CODECS) <= set(codec_names())
    with pytest.raises(CodecError, match="unknown codec 'none'; available: avif"):
        codec_class("none")


@pytest.mark.parametrize("default", ["diffc-pixel", "uqdm-photo"])
def test_the_shipped_model_of_a_file_is_found(default: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is the codec's default or a neighbour of that."""
    monkeypatch.setitem(MODEL_CODECS, "bitsback", MODEL_CODECS["bitsback"]._replace(default_model=default))
    found = load_model("diffc-pixel", device="cpu").fingerprint
    codec: Any = codec_for(Header("bitsback", 8, 8, found, bytes(4)), None, "cpu", {})
    assert codec.fingerprint == found


def test_a_model_that_does_not_fit_is_named(tiny_prior: Path) -> None:
    header = Header("diffc", 8, 8, b"\1\2\3\4", bytes(2))
    own = load_model(tiny_prior, device="cpu").fingerprint.hex()
    with pytest.raises(CodecError, match=rf"written with model 01020304, but .* is model {own}$"):
        codec_for(header, str(tiny_prior), "cpu", {})
    with pytest.raises(CodecError, match=r"name the right one with --model$"):
        codec_for(header, None, "cpu", {})


@pytest.mark.parametrize(("name", "model", "options", "option"), [
    ("png", None, {"preset": "fast"}, "--preset"),
    ("png", "diffc-pixel", {}, "--model"),
    ("png", None, {"local_files_only": True}, "--local-files-only"),
    ("diffc", None, {"quality": 1}, "--quality"),
])  # fmt: skip
def test_foreign_options_are_refused(name: str, model: str | None, options: dict[str, Any], option: str) -> None:
    with pytest.raises(CodecError, match=f"^{option} does not apply to --codec {name}$"):
        open_codec(name, model, "cpu", options)
