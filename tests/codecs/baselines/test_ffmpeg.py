"""VVC and HEVC through ffmpeg where imageio-ffmpeg is installed, else named in one sentence; the colours always."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from diffpress.codecs import CodecError, Header, Stream
from diffpress.codecs.baselines import ffmpeg
from diffpress.codecs.baselines.ffmpeg import FFmpegCodec, Hevc, Vvc, from_yuv, to_yuv
from diffpress.evaluation.metrics import psnr
from helpers import synthetic_photo


@pytest.fixture
def program() -> None:
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'diffpress[compare]'")


@pytest.mark.parametrize("codec_class", [Vvc, Hevc])
def test_missing_package_is_named(codec_class: type[Vvc] | type[Hevc], monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg.ffmpeg.cache_clear()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(CodecError, match=r"need the package imageio-ffmpeg: pip install 'diffpress\[compare\]'"):
        codec_class()


CODECS = [(Vvc, "faster"), (Hevc, "medium")]


@pytest.mark.parametrize(("codec_class", "preset"), CODECS)
def test_quality_reaches_what_the_colour_format_allows(
    program: None, codec_class: type[Vvc] | type[Hevc], preset: str
) -> None:
    image, codec = synthetic_photo(64, 96), codec_class(preset=preset)
    coarse, fine = (codec.encode(image, quality=quality) for quality in (40, 4))
    assert coarse.payload_bits < fine.payload_bits / 3
    assert not re.search(rb"[A-Za-z ]{12}", coarse.segments[0])  # no settings, no remarks of the encoder
    limit = psnr(from_yuv(to_yuv(image, codec.halved), (64, 96), codec.halved), image)
    assert min(limit, 47) - 2 < psnr(codec.decode(fine), image) <= limit
    assert psnr(codec.decode(coarse), image) < psnr(codec.decode(fine), image)
    assert codec.encode(image, quality=40).segments == coarse.segments


@pytest.mark.parametrize(("codec_class", "preset"), CODECS)
@pytest.mark.parametrize("size", [(1, 1), (37, 91), (9, 200)])
def test_odd_sizes(
    program: None, codec_class: type[Vvc] | type[Hevc], preset: str, size: tuple[int, int]
) -> None:
    image, codec = synthetic_photo(64, 200)[:, : size[0], : size[1]].contiguous(), codec_class(preset=preset)
    assert codec.decode(codec.encode(image)).shape == image.shape


@pytest.mark.parametrize("codec", [Vvc, Hevc])
def test_damage_is_one_sentence(program: None, codec: type[FFmpegCodec]) -> None:
    for data in (b"", b"garbage", bytes([37, 0, 91, 0, 1])):
        with pytest.raises(CodecError, match=codec.name) as caught:
            codec().decode(Stream(Header(codec.name, 37, 91), (data,), native=True))
        assert "\n" not in str(caught.value)
    with pytest.raises(CodecError, match=r"quality must be between 0 and \d+, got 99"):
        codec(quality=99)  # type: ignore[call-arg]


def test_yuv_conversion_is_its_own_inverse_up_to_chroma_resolution() -> None:
    image = synthetic_photo(64, 96)
    smooth = torch.nn.functional.avg_pool2d(image[None].float(), 9, 1, 4)[0].byte()
    data = to_yuv(smooth, halved=True)
    assert len(data) == 3 * 64 * 96
    assert (from_yuv(data, (64, 96), halved=True).int() - smooth.int()).abs().float().mean() < 2
    odd = image[:, :37, :91]
    assert int((from_yuv(to_yuv(odd, halved=False), (37, 91), halved=False).int() - odd.int()).abs().max()) <= 1
    for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (12, 200, 99)):
        flat = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 6)
        assert torch.equal(from_yuv(to_yuv(flat, halved=True), (4, 6), halved=True), flat)
    white = to_yuv(torch.full((3, 2, 2), 255, dtype=torch.uint8), halved=True)
    assert [int.from_bytes(white[i : i + 2], "little") for i in (0, 8, 10)] == [940, 512, 512]  # BT.709, limited range
