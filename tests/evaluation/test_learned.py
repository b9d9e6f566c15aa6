"""Learned metrics are absent with one line, or used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffpress.codecs import CodecError
from diffpress.data import ImageFolder, list_images, read_image, save_image
from diffpress.evaluation.compare import evaluate
from diffpress.evaluation.metrics import learned as learned_metrics
from diffpress.evaluation.metrics.learned import LearnedMetrics, cut_patches, load_metrics
from diffpress.evaluation.points import parse_specs

pytestmark = pytest.mark.filterwarnings("ignore")


def test_absent_metrics_say_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(device: str) -> Any:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nCheck your internet connection")

    monkeypatch.setitem(sys.modules, "pyiqa", None)  # as if it were not installed
    monkeypatch.setitem(learned_metrics.LOADERS, "clip", no_network)
    loaded = load_metrics(["lpips", "fid", "clip"])
    assert (loaded.image, loaded.sets) == ({}, {})
    assert loaded.notes[0] == "lpips: absent (pyiqa is not installed: pip install 'diffpress[metrics]')"
    assert loaded.notes[2].startswith("clip: absent (weights cannot be had: We couldn't connect")
    assert not any("\n" in note for note in loaded.notes)
    with pytest.raises(CodecError, match="unknown metric 'gmsd'"):
        load_metrics(["gmsd"])


def test_pyiqa_is_called_with_images_between_0_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def create_metric(name: str, device: torch.device) -> Any:
            return lambda *images: sum(float(image.mean()) for image in images)

    monkeypatch.setitem(sys.modules, "pyiqa", Fake)
    white, black = torch.full((3, 8, 8), 255, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)
    loaded = load_metrics(["lpips", "qalign"])
    assert loaded.image["lpips"](white, black) == 1.0
    assert loaded.image["qalign"](white, black) == 1.0


def test_set_metrics_compare_folders(pictures: Path, tmp_path: Path) -> None:
    def gap(decoded: Path, original: Path) -> float:
        pairs = zip(list_images(decoded), list_images(original), strict=True)
        return float(np.mean([(read_image(a).float() - read_image(b).float()).abs().mean() for a, b in pairs]))

    learned = LearnedMetrics({"lpips": lambda a, b: 0.5}, {"fid": gap}, ["clip: absent"])
    specs = parse_specs(["jpeg"], ["jpeg:10,50,90"])
    result = evaluate(specs, ImageFolder(pictures), tmp_path / "out", device="cpu", learned=learned, pictures=0)
    points = result.curves[0].lossy()
    assert [p.values["lpips"] for p in points] == [0.5] * 3
    gaps = [p.values["fid"] for p in points]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] > 0
    assert "clip: absent" in (tmp_path / "out" / "tables.md").read_text()


def test_patches_are_whole(tmp_path: Path) -> None:
    save_image(torch.zeros(3, 130, 200, dtype=torch.uint8), tmp_path / "in" / "a.png")
    save_image(torch.zeros(3, 50, 200, dtype=torch.uint8), tmp_path / "in" / "b.png")
    assert cut_patches(tmp_path / "in", tmp_path / "out") == 2 * 3
    assert {tuple(read_image(path).shape) for path in list_images(tmp_path / "out")} == {(3, 64, 64)}
