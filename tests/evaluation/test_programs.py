"""Metrics by programs: what is asked of them, what they say, and one line where they are not there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from diffpress.codecs.baselines import ffmpeg
from diffpress.evaluation.metrics.learned import load_metrics
from helpers import synthetic_photo


@pytest.fixture
def photo() -> torch.Tensor:
    return synthetic_photo(96, 128)


def noisy(photo: torch.Tensor, std: float) -> torch.Tensor:
    noise = std * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return (photo + noise).round().clamp(0, 255).byte()


def test_absent_programs_say_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg.ffmpeg.cache_clear()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", "")
    loaded = load_metrics(["vmaf", "psnr-hvs", "ssimulacra2", "butteraugli"])
    assert (loaded.image, loaded.sets) == ({}, {})
    assert [note.partition(":")[0] for note in loaded.notes] == ["vmaf", "psnr-hvs", "ssimulacra2", "butteraugli"]
    assert loaded.notes[0].endswith("need the package imageio-ffmpeg: pip install 'diffpress[compare]')")
    assert loaded.notes[3] == "butteraugli: absent (butteraugli_main is not on the PATH: apt install libjxl-devtools)"


def test_libvmaf(photo: torch.Tensor) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'diffpress[compare]'")
    loaded = load_metrics(["vmaf", "psnr-hvs"])
    metrics = loaded.image
    for name, exact in (("vmaf", 97), ("psnr-hvs", 60)):
        values = [metrics[name](noisy(photo, std), photo) for std in (0, 4, 12, 40)]
        assert loaded.notes == []
        assert values == sorted(values, reverse=True)
        assert values[0] > exact
        assert values[0] - values[3] > 10
        assert metrics[name](photo[:, :15], photo[:, :15]) is None
    odd = photo[:, :37, :51].contiguous()
    assert metrics["vmaf"](odd, odd) > 97


@pytest.mark.parametrize(("name", "program"), [("ssimulacra2", "ssimulacra2"), ("butteraugli", "butteraugli_main")])
def test_libjxl(name: str, program: str, photo: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that prints as libjxl's do: the original comes first, the last number counts, failures become notes."""
    script = tmp_path / program
    script.write_text("#!/bin/sh\n[ -s $1 ] && [ -s $2 ] || exit 1\ncase $1 in *original*) ;; *) exit 1;; esac\n"
                      "case $2 in *decoded*) ;; *) exit 1;; esac\nprintf '4.3558239937\\n3-norm: 2.162547\\n'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    loaded = load_metrics([name])
    assert loaded.image[name](photo, photo) == 2.162547
    script.write_text("#!/bin/sh\necho 'Could not decode' >&2; exit 1\n")
    assert loaded.image[name](photo, photo) is None
    assert loaded.notes == [f"{name}: failed, first on an image of (96, 128) ({program} failed (Could not decode))"]


@pytest.mark.skipif(not shutil.which("ssimulacra2"), reason="apt install libjxl-devtools (0.11)")
def test_programs_of_libjxl_say_that_noise_is_worse(photo: torch.Tensor) -> None:
    metrics = load_metrics(["ssimulacra2", "butteraugli"]).image
    similar = [metrics["ssimulacra2"](noisy(photo, std), photo) for std in (0, 4, 12)]
    distant = [metrics["butteraugli"](noisy(photo, std), photo) for std in (0, 4, 12)]
    assert similar == sorted(similar, reverse=True)
    assert similar[0] == 100
    assert distant == sorted(distant)
    assert distant[0] == 0
