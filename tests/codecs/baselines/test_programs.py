"""Codecs that are programs: run where installed, else named in one sentence; VVC's colour conversion always."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest
import torch

from diffpress.codecs import CodecError, Header, Stream
from diffpress.codecs.baselines.pillow import NativeCodec
from diffpress.codecs.baselines.programs import AvifEnc, Bpg, Hm, Vtm, Vvc, from_yuv, to_yuv


def photo(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return (smooth.clamp(0, 1) * 255).round().byte()


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("codec_class", [AvifEnc, Bpg, Hm, Vtm, Vvc])
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
    data = to_yuv(image, halved=True)
    assert len(data) == 3 * 64 * 96
    assert (from_yuv(data, (64, 96), halved=True).int() - image.int()).abs().float().mean() < 2
    odd = image[:, :37, :91]
    assert int((from_yuv(to_yuv(odd, halved=False), (37, 91), halved=False).int() - odd.int()).abs().max()) <= 1
    for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (12, 200, 99)):
        flat = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 6)
        assert torch.equal(from_yuv(to_yuv(flat, halved=True), (4, 6), halved=True), flat)
    white = to_yuv(torch.full((3, 2, 2), 255, dtype=torch.uint8), halved=True)
    assert [int.from_bytes(white[i : i + 2], "little") for i in (0, 8, 10)] == [940, 512, 512]  # BT.709, limited range


# Stands in for the reference software: understands its options, and "codes" by storing samples without their low bits.
REFERENCE = """#!{python}
import sys
words = sys.argv[1:]
flags = [word for word in words if "=" in word]
words = [word for word in words if "=" not in word]
given = dict(zip(words[::2], words[1::2], strict=True))
samples = open(given.get("-i", given["-b"]), "rb").read()
if "-i" in given:
    assert open(given["-c"]).read() == "intra"
    assert "--InputChromaFormat=444" in flags and "--InputBitDepth=10" in flags and given["-f"] == "1"
    assert len(samples) == 6 * int(given["-wdt"]) * int(given["-hgt"])
    kept = 0xFF & ~((1 << int(given["-q"]) // 8) - 1)
    samples = bytes(b & kept if n % 2 == 0 else b for n, b in enumerate(samples))
    open(given["-b"], "wb").write(samples)
else:
    assert given["-d"] == "10"
    open(given["-o"], "wb").write(samples)
"""


@pytest.mark.parametrize("codec_class", [Hm, Vtm])
def test_reference_software(codec_class: type[Hm] | type[Vtm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for program in codec_class.programs:
        script = tmp_path / "bin" / program
        script.write_text(REFERENCE.replace("{python}", sys.executable))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    image, codec = photo(37, 91), codec_class()
    with pytest.raises(CodecError, match=f"there is no .*{codec.default_config}"):
        codec.encode(image)
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg" / codec.default_config).write_text("intra")
    fine, coarse = (codec.decode(codec.encode(image, quality=quality)).int() - image.int() for quality in (0, 48))
    assert int(fine.abs().max()) <= 1
    assert float(coarse.abs().float().mean()) > 2
    with pytest.raises(CodecError, match="wrong picture size"):
        codec.decode(Stream(Header(codec.name, 37, 91), (bytes([37, 0, 91, 0, 1]),), native=True))
    with pytest.raises(CodecError, match=r"0\D+\d+"):
        codec_class(quality=99)


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
