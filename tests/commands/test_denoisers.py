"""Somebody else's denoiser in a file.py: calibrate, compress, and decompress in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffpress.commands import calibrate, compress, decompress
from diffpress.data import read_image, save_image
from diffpress.evaluation.metrics import psnr
from helpers import ROOT, synthetic_photo

TANH = """
import torch
from torch import nn

class Wiener(nn.Module):  # of images in [-1, 1]: what is left of a pixel's difference from its neighbours' mean
    sigma_range, value_range = (0.02, 1.0), (-1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.neighbours = nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate", groups=3, bias=False)
        nn.init.constant_(self.neighbours.weight, 1 / 9)

    def forward(self, y, sigma):
        mean = self.neighbours(y)
        return mean + (y - mean) * 0.01 / (0.01 + sigma**2)
"""

BLIND = """
import torch
from torch.nn import functional as F

sigma_range = (2.0, 50.0)
value_range = (0.0, 255.0)

def denoise(y):  # an average over 3 x 3 pixels, whatever the noise
    return F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)
"""


@pytest.fixture
def visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a denoiser, photos and an empty cache."""
    (tmp_path / "mine.py").write_text(BLIND)
    (tmp_path / "theirs.py").write_text(TANH)
    for number in range(2):
        save_image(synthetic_photo(32, 40, number), tmp_path / "photos" / f"{number}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_blind_denoiser_of_bytes_is_a_codec(
    visitor: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    small = ["--images", "2", "--size", "32", "--stride", "100", "--last", "100"]
    words = ["photos/0.png", "--model", "mine.py:denoise", "-o", "0.dfc"]
    assert compress.main(words) == 2
    assert "make it with calibrate.py" in capsys.readouterr().err
    assert calibrate.main(["--model", "mine.py:denoise", "--data", "photos", *small]) == 0
    assert len(list((visitor / "cache" / "diffpress").iterdir())) == 1
    capsys.readouterr()
    assert compress.main([*words, "--bpp", "4"]) == 0
    assert "schedule calibrated: " in capsys.readouterr().out
    decode = [sys.executable, str(ROOT / "decompress.py"), "0.dfc", "--model", "mine.py:denoise", "-o", "0.png"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(decode, cwd=visitor, env=environment, check=True)
    image = read_image(visitor / "photos" / "0.png")
    assert psnr(read_image(visitor / "0.png"), image) > 28
    (visitor / "mine.py").write_text(BLIND.replace("2.0", "3.0"))
    assert decompress.main([*decode[2:], "--force"]) == 1
    assert "make it with calibrate.py" in capsys.readouterr().err


def test_a_module_of_another_range(visitor: Path, capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    model = ["--model", "theirs.py:Wiener"]
    small = ["--images", "2", "--size", "32", "--stride", "100", "--last", "100", "-o", "own.json"]
    assert calibrate.main([*model, "--data", "photos", *small]) == 0
    model += ["--schedule", "own.json"]
    assert compress.main(["photos/0.png", "-o", "0.dfc", *model, "--bpp", "4"]) == 0
    assert "schedule calibrated: own.json" in capsys.readouterr().out
    assert decompress.main(["0.dfc", "-o", "0.png", *model]) == 0
    assert psnr(read_image(visitor / "0.png"), read_image(visitor / "photos" / "0.png")) > 25


@pytest.mark.parametrize(("model", "told"), [
    ("mine.py:absent", "mine.py has no 'absent'"),
    ("absent.py:denoise", "there is no file absent.py"),
    ("absent_package.models:net", "needs the package absent_package, which is not installed"),
    ("weightless.py:make", "weightless.py:make cannot be made here: no weights"),
    ("absent", "there is no model folder 'absent'"),
])  # fmt: skip
def test_what_cannot_be_loaded_is_said_in_a_line(
    visitor: Path, capsys: pytest.CaptureFixture[str], model: str, told: str
) -> None:
    (visitor / "weightless.py").write_text("def make():\n    raise OSError('no weights')\n")
    assert compress.main(["photos/0.png", "--model", model]) > 0
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
