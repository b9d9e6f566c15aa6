"""Learned metrics are absent with one line, or used; opinion scores are correlated as defined."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffpress.codecs import CodecError
from diffpress.commands.correlate import main as correlate_main
from diffpress.data import ImageError, ImageFolder, list_images, read_image, save_image
from diffpress.evaluation.compare import evaluate
from diffpress.evaluation.correlation import correlate, latent_distance, psnr_metric, read_opinions, spearman
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


@pytest.fixture
def pipal(tmp_path: Path) -> Path:
    """Two originals with four distortions each; the scores fall with the noise, save for one exchanged pair."""
    folder, generator = tmp_path / "pipal", torch.Generator().manual_seed(0)
    (folder / "Train_Label").mkdir(parents=True)
    for original in ("A0001", "A0002"):
        image = torch.randint(60, 196, (3, 24, 24), generator=generator).byte()
        save_image(image, folder / "Train_Ref" / f"{original}.bmp")
        lines = []
        for index, (noise, score) in enumerate([(2, 1700), (6, 1500), (15, 1550), (40, 1200)]):
            noisy = image + noise * torch.randn(image.shape, generator=generator)
            save_image(noisy.clamp(0, 255).byte(), folder / "Distortion_1" / f"{original}_00_{index:02d}.bmp")
            lines.append(f"{original}_00_{index:02d}.bmp,{score}.0")
        (folder / "Train_Label" / f"{original}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_correlation_with_opinions(pipal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opinions = read_opinions(pipal)
    assert len(opinions) == 8
    result = correlate(opinions, {"psnr": psnr_metric, "undefined": lambda a, b: None})
    assert set(result) == {"psnr"}
    assert 0.7 < result["psnr"] < 0.95
    assert correlate_main([str(pipal), "--metrics"]) == 0
    assert f"{result['psnr']:.4f}" in capsys.readouterr().out


def test_latent_distance() -> None:
    class HalfSize:
        def encode(self, image: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(image.float(), 2)

    white, black = torch.full((3, 8, 8), 4, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert latent_distance(HalfSize())(white, black) == 4.0


def test_spearman_by_hand() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(0.8)  # 1 - 6 * 4 / (5 * 24)
    assert spearman(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.9486833)
    assert spearman(a, np.ones(5)) == 0


def test_wrong_folders_are_explained(pipal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match="layout of PIPAL"):
        read_opinions(tmp_path)
    (pipal / "Train_Label" / "A0001.txt").write_text("A0001_00_00.bmp,good\n")
    with pytest.raises(ImageError, match="'good' is not a score"):
        read_opinions(pipal)
    (pipal / "Train_Label" / "A0001.txt").write_text("A0009_00_00.bmp,1\n")
    assert correlate_main([str(pipal)]) != 0
    assert "line 1: A0009_00_00.bmp" in capsys.readouterr().err
