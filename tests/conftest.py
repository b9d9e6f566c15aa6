"""What every test may use: real photos where they are, a tiny model, a synthetic photo."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffpress.evaluation.calibrate import calibrate
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.networks.denoiser import Denoiser

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference figures beside the project; the test is skipped where it is absent."""
    folder = Path(os.environ.get("DIFFPRESS_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "kodak").is_dir():
        pytest.skip(f"needs the data in {folder} (set DIFFPRESS_SHARED)")
    return folder


def synthetic_photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8 [3, height, width]: smooth colours, an edge and a little noise."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 3, width)[None, :]
    planes = [120 + 60 * torch.sin(x + k + y * (k + 1) / 2) + 30 * (x > 1.3) for k in range(3)]
    return (torch.stack(planes) + 3 * torch.randn(3, height, width, generator=rng)).round().clamp(0, 255).byte()


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    return synthetic_photo(64, 96)


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose network is untrained: its output layer is zero, so it is the denoiser of white Gaussian data."""
    folder = tmp_path_factory.mktemp("tiny-prior")
    torch.manual_seed(0)
    Denoiser((8, 16), blocks=1, embedding=16).save_pretrained(folder)
    (folder / "prior.json").write_text(json.dumps({"log_snr": [13.0, -8.0]}))
    photos = [synthetic_photo(32, 32, seed) for seed in range(3)]
    table = calibrate(load_model(folder, device="cpu"), photos, {"default": 4, "best": 8}, stride=25, last=200)
    (folder / "calibration.json").write_text(json.dumps(table))
    return folder
