"""Codecs that are programs: run where installed, else named in one sentence; VVC's colour conversion always."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
import torch

from diffpress.codecs import CodecError, Header, Stream
from diffpress.codecs.classical import NativeCodec
from diffpress.codecs.external import AvifEnc, Bpg, Vvc, from_yuv420, to_yuv420


def photo(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return (smooth.clamp(0, 1) * 255).round().byte()


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("codec_class", [AvifEnc, Bpg, Vvc])
def test_missing_programs_are_named(codec_class: type[NativeCodec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CodecError, match=r"needs the program \w+, which is not on the PATH"):
        codec_class()


def test_avif_is_lossless() -> None:
    need("avifenc", "avifdec")
    image = photo(37, 91)
    codec = AvifEnc(lossless=True, speed=8)
    assert torch.equal(codec.decode(codec.encode(image)), image)


def test_avif_quality() -> None:
    need("avifenc", "avifdec")
    image, codec = photo(64, 96), AvifEnc(speed=8)
    small, large = codec.encode(image, quality=30), codec.encode(image, quality=90)
    assert small.payload_bits < large.payload_bits
    assert (codec.decode(large).int() - image.int()).abs().float().mean() < 3


def test_bpg() -> None:
    need("bpgenc", "bpgdec")
    image = photo(37, 91)
    assert torch.equal(Bpg().decode(Bpg().encode(image, lossless=True)), image)


def test_vvc() -> None:
    need("vvencapp", "vvdecapp")
    image, codec = photo(37, 91), Vvc(preset="faster")
    assert (codec.decode(codec.encode(image, quality=20)).int() - image.int()).abs().float().mean() < 4


def test_yuv_conversion_is_its_own_inverse_up_to_chroma_resolution() -> None:
    image = photo(64, 96)
    data = to_yuv420(image)
    assert len(data) == 3 * 64 * 96
    assert (from_yuv420(data, (64, 96)).int() - image.int()).abs().float().mean() < 2
    for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (12, 200, 99)):
        flat = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 6)
        assert torch.equal(from_yuv420(to_yuv420(flat), (4, 6)), flat)
    white = to_yuv420(torch.full((3, 2, 2), 255, dtype=torch.uint8))
    assert [int.from_bytes(white[i : i + 2], "little") for i in (0, 8, 10)] == [940, 512, 512]  # BT.709, limited range


def test_what_a_failing_program_says_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("bpgenc", "bpgdec"):
        script = tmp_path / program
        script.write_text("#!/bin/sh\necho one >&2\necho 'it is broken' >&2\nexit 3\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(CodecError, match="bpgenc failed: it is broken"):
        Bpg().encode(photo(8, 8))
    stream = Stream(Header("bpg", 8, 8), (b"x",), native=True)
    with pytest.raises(CodecError, match="bpgdec failed: it is broken"):
        Bpg().decode(stream)
