"""CompressAI's models as codecs: with random weights where the package is installed; its absence in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from diffpress.codecs import CodecError, Header, Stream
from diffpress.codecs.baselines.compressai import CompressAI
from helpers import synthetic_photo


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compressai", None)
    with pytest.raises(CodecError, match="needs the package compressai"):
        CompressAI()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean"])
def test_random_weights_come_back_from_the_file(architecture: str, tmp_path: Path) -> None:
    zoo = pytest.importorskip("compressai.zoo.image")
    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = zoo.model_architectures[architecture](8, 12)
        network.update()
        files.append(str(tmp_path / f"{seed}.pth"))
        torch.save(network.state_dict(), files[-1])
    image = synthetic_photo(37, 91)
    codec, other = (CompressAI(architecture, weights=file) for file in files)
    stream = codec.encode(image)
    decoded = codec.decode(stream)
    assert decoded.shape == image.shape
    with torch.inference_mode():  # what the model's own forward pass reconstructs, without a file
        padded = torch.nn.functional.pad(image[None].float() / 255, (0, 128 - 91, 0, 64 - 37), mode="replicate")
        expected = codec._network(padded)["x_hat"][0, :, :37, :91]
    assert (decoded.float() / 255 - expected.clamp(0, 1)).abs().max() < 0.01
    with pytest.raises(CodecError, match="other weights"):
        other.decode(stream)
    with pytest.raises(CodecError, match="not a file of"):
        CompressAI(architecture, 5, weights=files[0]).decode(stream)
    with pytest.raises(CodecError, match="cut"):
        codec.decode(Stream(Header("compressai", 37, 91), (stream.segments[0][:9],), native=True))
    with pytest.raises(CodecError, match="could not be loaded"):
        CompressAI(architecture, weights=str(tmp_path / "absent.pth")).encode(image)
