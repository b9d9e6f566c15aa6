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
    assert compress.main([*words, "--bpp", "4"]) == 0
    decode = [sys.executable, str(ROOT / "decompress.py"), "0.dfc", "--model", "mine.py:denoise", "-o", "0.png"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(decode, cwd=visitor, env=environment, check=True)
    image = read_image(visitor / "photos" / "0.png")
    assert psnr(read_image(visitor / "0.png"), image) > 28
    (visitor / "mine.py").write_text(BLIND.replace("2.0", "3.0"))
    assert decompress.main([*decode[2:], "--force"]) == 1
    assert "make it with calibrate.py" in capsys.readouterr().err
