"""What every test may use: real photos where they are, a tiny model, a synthetic photo."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffpress.codecs.diffc.calibrate import measure
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.networks.denoiser import Denoiser
from helpers import ROOT, synthetic_photo


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference figures beside the project; the test is skipped where it is absent."""
    folder = Path(os.environ.get("DIFFPRESS_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "kodak").is_dir():
        pytest.skip(f"needs the data in {folder} (set DIFFPRESS_SHARED)")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as the tests' run slower on several threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    return synthetic_photo(24, 40)


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an untrained network: its output layer is zero, so it denoises white Gaussian data."""
    folder = tmp_path_factory.mktemp("tiny-prior")
    torch.manual_seed(0)
    Denoiser((8, 16), blocks=1, embedding=16).save(folder)
    (folder / "prior.json").write_text(json.dumps({"log_snr": [13.0, -8.0]}))
    photos = [synthetic_photo(32, 32, seed) for seed in range(3)]
    levels = [600, 500, 420, 350, 300, 260]
    errors = measure(load_model(folder, device="cpu"), photos, [1000, *levels[:-1]])
    presets = [
        {"name": "default", "levels": levels, "mse": errors.mse.mean(0).tolist(), "bands": errors.bands.tolist()}
    ]
    (folder / "calibration.json").write_text(json.dumps({"presets": presets}))
    return folder
