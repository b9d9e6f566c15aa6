"""Small pictures, and a progressive codec that takes no time, for tests of everything around the codecs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffpress.codecs import CodecError, Header, Stream
from diffpress.codecs.registry import CODECS
from diffpress.data import save_image

LEVELS = 4


class Autoencoder:
    """Stands for a latent prior: its autoencoder darkens every pixel by one grey level."""

    lossless = False

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image.float()

    def decode(self, x0: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return (x0[..., : size[0], : size[1]] - 1).clamp(min=0).byte()


class BitPlanes:
    """Four refinement steps of two bit planes each, the last one exact: progressive and lossless, and instantaneous.

    fail_on  raises for images of this width
    """

    name = "uqdm"  # the container knows how to write it
    suffix = ".uq"
    calls = 0

    def __init__(self, fail_on: int = 0) -> None:
        self.fail_on = fail_on

    def encode(self, image: torch.Tensor, *, lossless: bool = False) -> Stream:
        type(self).calls += 1
        if image.shape[2] == self.fail_on:
            raise CodecError("this width\nis refused")
        planes = [((image >> (6 - 2 * k)) & 3).numpy().tobytes() for k in range(LEVELS)]
        return Stream(Header("uqdm", image.shape[1], image.shape[2], b"abcd", b"\0"), tuple(planes))

    def decode(self, stream: Stream, *, segments: int | None = None) -> torch.Tensor:
        chosen = stream.segments[:segments]
        shape = (3, stream.header.height, stream.header.width)
        result = torch.zeros(shape, dtype=torch.uint8)
        for k, plane in enumerate(chosen):
            result |= torch.frombuffer(bytearray(plane), dtype=torch.uint8).reshape(shape) << (6 - 2 * k)
        return result + (0 if len(chosen) == LEVELS else 1 << (7 - 2 * len(chosen)))

    @property
    def prior(self) -> Autoencoder:
        return Autoencoder()

    def measure(self, image: torch.Tensor) -> tuple[Stream, list[float]]:
        return self.encode(image), [100.0] * LEVELS


@pytest.fixture
def bitplanes(monkeypatch: pytest.MonkeyPatch) -> type[BitPlanes]:
    """Registers :class:`BitPlanes` as "bitplanes" and gives it a grid of segments."""
    from diffpress.codecs import codec_names
    from diffpress.evaluation import points

    codec_names()
    monkeypatch.setitem(sys.modules, "bitplanes", SimpleNamespace(BitPlanes=BitPlanes))
    monkeypatch.setitem(CODECS, "bitplanes", "bitplanes:BitPlanes")
    monkeypatch.setitem(points.GRIDS, "bitplanes", points.Grid("segments", ("all", "lossless")))
    BitPlanes.calls = 0
    return BitPlanes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three smooth, noisy pictures of different sizes."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "pictures-in"
    for index, (height, width) in enumerate([(48, 64), (40, 72), (170, 180)]):
        coarse = torch.rand(1, 3, 5, 5, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
        noisy = smooth + 0.05 * torch.randn(3, height, width, generator=generator)
        save_image((noisy.clamp(0, 1) * 255).round().byte(), folder / f"photo{index}.png")
    return folder


@pytest.fixture
def reference(shared: Path) -> Path:
    """The shared folder of published figures; the test is skipped where there is none."""
    return shared / "reference"


def options(**changes: Any) -> dict[str, Any]:
    """Settings of `evaluate` that keep a test short."""
    return {"device": "cpu", "pictures": 1, "command": "python evaluate.py ..."} | changes
