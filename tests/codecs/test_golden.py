"""Bitstreams written once and kept: what decoded yesterday must decode today, on every machine (tests/golden/)."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch

from diffpress.codecs import container, get_codec
from diffpress.codecs.diffc.calibrate import measure
from diffpress.data import read_image, save_image
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.networks.denoiser import Denoiser
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.uqdm import UQDM
from helpers import ROOT, synthetic_photo

GOLDEN = ROOT / "tests" / "golden"
# file, codec and its options, options of encode
FILES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("trellis.dfc", "diffc", {"coder": "trellis"}, {"bpp": 2.0}),
    ("trellis-small.dfc", "diffc", {"coder": "trellis"}, {"segments": 2}),
    ("pfr.dfc", "diffc", {"coder": "pfr"}, {"segments": 3}),
    ("bands.dfc", "diffc", {"schedule": str(GOLDEN / "bands.json")}, {}),
    ("portable.uqdm", "uqdm", {"portable": True}, {"lossless": True}),
]


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def build(name: str, options: dict[str, Any], device: str = "cpu") -> Any:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    model = "uqdm-model" if name == "uqdm" else "diffc-model"
    if name == "diffc":
        options = options | {"reconstruction": "mse"}
    return get_codec(name, model=load_model(GOLDEN / model, device=device), **options)


@pytest.mark.skipif(not os.environ.get("DIFFPRESS_GOLDEN"), reason="writes the golden files: set DIFFPRESS_GOLDEN=1")
def test_refresh() -> None:
    torch.manual_seed(0)
    photo = synthetic_photo(24, 40)
    save_image(photo, GOLDEN / "photo.png")
    denoiser = Denoiser((8, 16), blocks=1, embedding=16)
    torch.nn.init.normal_(denoiser.head.weight, std=0.02)
    folder = GOLDEN / "diffc-model"
    denoiser.save(folder)
    (folder / "prior.json").write_text('{"log_snr": [13.0, -8.0]}\n')
    levels = [600, 500, 420, 350, 300, 260]
    errors = measure(load_model(folder, device="cpu"), [photo], [1000, *levels[:-1]])
    preset = {"name": "default", "levels": levels, "mse": [float(f"{m:.5g}") for m in errors.mse.mean(0)]}
    (folder / "calibration.json").write_text(json.dumps({"presets": [preset]}) + "\n")
    bands = [[float(f"{m:.4g}") for m in row] for row in errors.bands]
    (GOLDEN / "bands.json").write_text(json.dumps({"presets": [preset | {"bands": bands}]}) + "\n")
    network = ScoreNetConfig(
        embedding_dim=8, norm_groups=4, mid_attention=False, use_fourier_features=False, patch_size=2,
        preconditioned=True,
    )  # fmt: skip
    UQDM(network, ScheduleConfig(-12.0, 6.0), n_steps=3).save_folder(GOLDEN / "uqdm-model")
    for file, name, options, request in FILES:
        codec = build(name, options)
        stream = codec.encode(photo, **request)
        (GOLDEN / file).write_bytes(container.write(stream, codec))
        save_image(codec.decode(stream), (GOLDEN / file).with_suffix(".png"))
    larger = synthetic_photo(72, 80)  # which is more than the rows that bits-back coding sends as WebP
    save_image(larger, GOLDEN / "bitsback.png")
    bits_back = build("bitsback", {"preset": "best", "portable": True})  # bitsback.bb is from before levels were denser
    (GOLDEN / "bitsback-best.bb").write_bytes(container.write(bits_back.encode(larger), bits_back))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("file", "name", "options", "request_"), FILES)
def test_decodes(file: str, name: str, options: dict[str, Any], request_: dict[str, Any], device: str) -> None:
    codec = build(name, options, device)
    data = (GOLDEN / file).read_bytes()
    image = codec.decode(container.read(data, codec)).cpu()
    expected = read_image((GOLDEN / file).with_suffix(".png"))
    if request_.get("lossless"):
        assert torch.equal(image, read_image(GOLDEN / "photo.png"))
    assert int((image.int() - expected.int()).abs().max()) <= (0 if request_.get("lossless") else 2)
    # the encoder of today still writes what it wrote then, or at least no more
    assert len(container.write(codec.encode(read_image(GOLDEN / "photo.png"), **request_), codec)) <= len(data) + 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("file", "preset"), [("bitsback.bb", "fast"), ("bitsback-best.bb", "best")])
def test_bits_back_decodes(file: str, preset: str, device: str) -> None:
    codec = build("bitsback", {"preset": preset, "portable": True}, device)
    data = (GOLDEN / file).read_bytes()
    photo = read_image(GOLDEN / "bitsback.png")
    assert torch.equal(codec.decode(container.read(data, codec)).cpu(), photo)
    assert len(container.write(codec.encode(photo), codec)) <= len(data) + 8
