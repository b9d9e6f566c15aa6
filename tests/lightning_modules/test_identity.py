"""Test vectors for docs/format.md, "Model identity": computed by commit 7c573aa, before the recipes were one module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.identity import (
    ScheduleFacts,
    fingerprint,
    fingerprint_pipeline,
    of_module,
    of_raw_weights,
    schedules_text,
    weight_files,
    with_refiner,
    with_schedules,
)
from helpers import ROOT

MODEL = bytes.fromhex("01020304")
GOLDEN = ROOT / "tests" / "golden"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return write(tmp_path, {
        "model_index.json": "{}", "unet/config.json": "{1}", "unet/model.fp16.safetensors": "half",
        "unet/model.safetensors": "full", "unet/model.safetensors.index.json": "shards",
        "tokenizer/merges.txt": "m", "tokenizer/vocab.json": "v", "vae/config.json": "{2}",
    })  # fmt: skip


def test_model_folder(tmp_path: Path) -> None:
    files = {"config.json": "{}", "a/z.safetensors": "weights", "a-b.pt": "x", "notes.txt": "no"}
    assert fingerprint(write(tmp_path, files)).hex() == "0170afdd"  # a/z.safetensors comes before a-b.pt


@pytest.mark.parametrize(
    ("name", "expected"), [("diffc-model", "dda95795"), ("uqdm-model", "979f94cc"), ("white-model", "c82965f3")]
)
def test_golden_model(name: str, expected: str) -> None:
    assert load_model(GOLDEN / name, device="cpu").fingerprint.hex() == fingerprint(GOLDEN / name).hex() == expected


def test_pipeline(pipeline: Path) -> None:
    parts = ["unet", "tokenizer"]  # sorted by the recipe
    assert fingerprint_pipeline(pipeline, parts, None).hex() == "7f144812"
    assert fingerprint_pipeline(pipeline, parts, "fp16").hex() == "03bab799"
    (pipeline / "calibration.json").write_text("c")
    assert fingerprint_pipeline(pipeline, parts, None).hex() == "44bf247e"


def test_golden_pipeline() -> None:
    assert load_model(GOLDEN / "sd-model", device="cpu").fingerprint.hex() == "0d217de7"


def test_weights_of_a_variant(tmp_path: Path) -> None:
    names = ["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors", "m.safetensors", "m.bin"]
    write(tmp_path, dict.fromkeys(names, ""))
    assert sorted(path.name for path in weight_files(tmp_path, "fp16")) == names[:2]
    assert [path.name for path in weight_files(tmp_path, None)] == ["m.safetensors"]


def test_the_hubs_cache_names_large_files_by_their_digest(tmp_path: Path) -> None:
    blob = "00" * 32  # not the digest of what is inside: it is taken from the name, and nothing is read
    folder = write(tmp_path, {"snapshot/config.json": "{}", f"blobs/{blob}": "weights"}) / "snapshot"
    (folder / "model.safetensors").symlink_to(tmp_path / "blobs" / blob)
    assert fingerprint(folder).hex() == "84fb604e"


def test_refiner() -> None:
    assert with_refiner(MODEL, bytes.fromhex("ff00ff00")).hex() == "fe02fc04"


def test_raw_weights() -> None:
    assert of_raw_weights(MODEL).hex() == "e725f444"


def test_model_in_memory() -> None:
    config = {"_class_name": "UQDM", "é": 0.5, "a": [1, True, None]}
    tensors = {"w": torch.tensor([[1.0, -2.5], [0.1, 3e8]]), "b": torch.tensor([1, 2]).half()}
    assert of_module(config, tensors).hex() == "37f303cb"


# (schedules, their text, fingerprint of MODEL with them)
SCHEDULES: list[tuple[list[ScheduleFacts], str, str]] = [
    (
        [("default", (600, 500), (0.5, 1e-5), None)],
        "[Schedule(name='default', levels=(600, 500), mse=(0.5, 1e-05))]",
        "1458ec23",
    ),
    (
        [
            ("a", (7,), (1.0,), ((0.25, 3.0),)), ("b's", (9, 2), (1e16, 0.1), None),
            ("c", (3,), (0.0001,), ((0.5,),)),
        ],
        "[Schedule(name='a', levels=(7,), mse=(1.0,)), Schedule(name=\"b's\", levels=(9, 2), mse=(1e+16, 0.1)), "
        "Schedule(name='c', levels=(3,), mse=(0.0001,))][((0.25, 3.0),), ((0.5,),)]",
        "3d16c094",
    ),
    (
        [("it's \"q\"\\ é\n\x07\u200b\U000e0001", (1,), (2.0,), None)],
        r"""[Schedule(name='it\'s "q"\\ é\n\x07\u200b\U000e0001', levels=(1,), mse=(2.0,))]""",
        "1456cd5c",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("schedules", "text", "expected"), SCHEDULES)
def test_schedules(schedules: list[ScheduleFacts], text: str, expected: str) -> None:
    assert schedules_text(schedules) == text
    assert with_schedules(MODEL, schedules).hex() == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sd15", "ce643f91"), ("sd21", "db7932c0"), ("sdxl", "222585dd"), ("sd3", "a4b2e6f0"), ("flux", "a4b2e6f0")],
)
def test_shipped_schedules(name: str, expected: str) -> None:
    presets = json.loads((ROOT / "configs" / "diffc" / f"{name}.json").read_text())["presets"]
    facts = [(p["name"], p["levels"], p["mse"], p.get("bands")) for p in presets]
    assert with_schedules(MODEL, facts).hex() == expected


def test_the_text_is_what_files_written_until_7c573aa_hashed() -> None:
    @dataclass
    class Schedule:
        name: str
        levels: tuple[int, ...]
        mse: tuple[float, ...]

    rng = np.random.default_rng(0)
    for length in (1, 2, 40):
        values = 10.0 ** rng.uniform(-20, 20, 5 * length)
        facts = [(f"p{i}", tuple(range(length, 0, -1)), tuple(values[i::5].tolist()), None) for i in range(5)]
        assert schedules_text(facts) == repr([Schedule(*one[:3]) for one in facts]).replace(
            Schedule.__qualname__, "Schedule"
        )
