"""Files of a named quality or size: what was asked for is what the decoded file has."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpress.codecs import CodecError, container, get_codec
from diffpress.codecs.base import Header, Stream
from diffpress.codecs.targets import encode_to, jpeg
from diffpress.commands import compress
from diffpress.data import read_image, save_image
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model
from helpers import synthetic_photo

IMAGE = synthetic_photo(48, 64)


@pytest.fixture(scope="module")
def diffc(one_thread: None) -> Any:
    return get_codec("diffc", model=load_model("diffc-pixel", device="cpu"), preset="fast")


@pytest.fixture(scope="module")
def uqdm(one_thread: None) -> Any:
    return get_codec("uqdm", model=load_model("uqdm-photo", device="cpu"))


def size_and_psnr(codec: Any, **target: Any) -> tuple[int, float]:
    stream = encode_to(codec, IMAGE, **target)
    data = container.write(stream, codec)
    return len(data), psnr(codec.decode(container.read(data, codec)), IMAGE)


class Smooth:
    """A codec whose files have the PSNR `curve` of their size in bytes, between the sizes `least` and `most`."""

    name, suffix = "diffc", ".dfc"

    def __init__(self, curve: Callable[[float], float], least: int = 50, most: int = 10**5) -> None:
        self.curve, self.least, self.most, self.encoded = curve, least, most, 0

    def encode(self, image: torch.Tensor, *, bpp: float) -> Stream:
        self.encoded += 1
        limit = int(bpp * image.shape[1] * image.shape[2] / 8)
        if limit < self.least:
            raise CodecError("too little for one step")
        header = Header("diffc", image.shape[1], image.shape[2], bytes(4), bytes(2))
        sizes = range(min(limit, self.most), 0, -1)
        streams = (Stream(header, (bytes(size),)) for size in sizes)
        return next(stream for stream in streams if len(container.write(stream)) <= limit)

    def decode(self, stream: Stream, *, segments: int | None = None) -> torch.Tensor:
        """IMAGE with as many samples changed by 16 as give that PSNR."""
        wanted = 255**2 / 10 ** (self.curve(len(container.write(stream))) / 10)
        changed = IMAGE.flatten().clone()
        changed[: round(wanted / 16**2 * len(changed))] ^= 16
        return changed.view(IMAGE.shape)


@pytest.mark.parametrize("slope", [1.5, 3.6, 8.0])
@pytest.mark.parametrize("offset", [-6.0, 0.0, 6.0])
def test_psnr_is_reached_by_little_whatever_the_curve(slope: float, offset: float) -> None:
    codec = Smooth(lambda size: 33 + offset + slope * math.log2(size / 5000))
    stream = encode_to(codec, IMAGE, psnr=33.0)
    assert 33 <= psnr(codec.decode(stream), IMAGE) <= 33.1
    assert codec.encoded <= 12


def test_psnr_where_files_jump_is_the_least_file_that_reaches_it() -> None:
    codec = Smooth(lambda size: 30.0 if size < 700 else 36.0)
    assert 700 <= len(container.write(encode_to(codec, IMAGE, psnr=33.0))) <= 705


@pytest.mark.slow
@pytest.mark.parametrize("target", [30.0, 34.0, 38.0])
def test_psnr_on_a_photo(shared: Path, target: float) -> None:
    image = read_image(shared / "data" / "kodak" / "kodim23.png")
    codec: Any = get_codec("diffc", model=load_model("diffc-pixel", device="cpu"))
    stream = encode_to(codec, image, psnr=target)
    assert target <= psnr(codec.decode(stream), image) <= target + 0.1
    smaller = round(0.98 * len(container.write(stream, codec)))
    assert psnr(codec.decode(encode_to(codec, image, bytes=smaller)), image) < target


def test_bytes_and_quality(diffc: Any, uqdm: Any) -> None:
    for limit in (400, 401):
        size, _ = size_and_psnr(diffc, bytes=limit)
        assert limit - 8 < size <= limit
    assert size_and_psnr(uqdm, bytes=3000)[0] <= 3000
    wanted = jpeg(IMAGE, 60)[1]
    size, reached = size_and_psnr(diffc, quality=60)
    assert reached >= wanted > size_and_psnr(diffc, bytes=round(0.98 * size))[1]  # a byte is up to 0.1 dB here


def test_segments_of_uqdm(uqdm: Any) -> None:
    whole = encode_to(uqdm, IMAGE, segments=3)
    quality = [psnr(uqdm.decode(whole, segments=k), IMAGE) for k in (1, 2, 3)]
    assert len(encode_to(uqdm, IMAGE, psnr=quality[1]).segments) == 2
    assert len(encode_to(uqdm, IMAGE, psnr=quality[1] + 0.01).segments) == 3
    exact = encode_to(uqdm, IMAGE, psnr=quality[2] + 12)  # 5 steps would take more bits than few and the pixels
    assert exact == encode_to(uqdm, IMAGE, lossless=True)


def test_unreachable_targets_say_what_can_be_reached(tiny_prior: Path) -> None:
    codec = get_codec("diffc", model=load_model(tiny_prior, device="cpu"))
    with pytest.raises(CodecError, match=r"at most \d+\.\d\d dB for this image, in \d+ bytes"):
        encode_to(codec, IMAGE, psnr=80.0)
    with pytest.raises(CodecError, match="too little for one step"):
        encode_to(codec, IMAGE, bytes=10)


def test_segments_of_uqdm_that_do_not_suffice_say_so(uqdm: Any) -> None:
    best = psnr(uqdm.decode(encode_to(uqdm, IMAGE, segments=2)), IMAGE)
    with pytest.raises(CodecError, match=f"the first 2 segments give at most {best:.2f} dB"):
        encode_to(uqdm, IMAGE, psnr=60.0, segments=2)


@pytest.mark.parametrize(("options", "told"), [
    ({"psnr": 30.0, "bpp": 1.0}, "--bpp and --psnr exclude each other"),
    ({"quality": 30, "lossless": True}, "--lossless and --quality exclude each other"),
    ({"psnr": 0.0}, "positive number of dB"),
    ({"bytes": 0}, "positive"),
    ({"quality": 101}, "between 1 and 100"),
])  # fmt: skip
def test_targets_that_make_no_sense(diffc: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(CodecError, match=told):
        encode_to(diffc, IMAGE, **options)
    with pytest.raises(CodecError, match="does not apply to --codec png"):
        encode_to(get_codec("png"), IMAGE, psnr=30.0)


def test_focus_moves_quality_into_the_mask(diffc: Any) -> None:
    focus = torch.zeros(IMAGE.shape[1:])
    focus[:, 32:] = 1
    plain, focused = (diffc.decode(encode_to(diffc, IMAGE, bytes=500, focus=mask)) for mask in (None, focus))
    inside, outside = (..., slice(32, None)), (..., slice(None, 32))
    assert psnr(focused[inside], IMAGE[inside]) > psnr(plain[inside], IMAGE[inside]) + 0.5
    assert psnr(focused[outside], IMAGE[outside]) < psnr(plain[outside], IMAGE[outside])
    with pytest.raises(CodecError, match="the focus has 32 x 48 pixels, and the image 64 x 48"):
        diffc.encode(IMAGE, focus=focus[:, 32:])
    with pytest.raises(CodecError, match="no sense for a lossless file"):
        diffc.encode(IMAGE, focus=focus, lossless=True)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_image(IMAGE, "photo.png")
    save_image(torch.full((3, 48, 64), 255, dtype=torch.uint8), "white.png")
    save_image(torch.zeros(3, 4, 4, dtype=torch.uint8), "small.png")
    assert compress.main(["photo.png", "--bytes", "400", "--preset", "fast", "--focus", "white.png"]) == 0
    assert 390 < Path("photo.dfc").stat().st_size <= 400
    for words, told in (
        (["--focus", "small.png"], "the focus has 4 x 4 pixels"),
        (["--focus", "white.png", "--codec", "png"], "--focus does not apply to --codec png"),
        (["--focus", "none.png"], "no such file"),
        (["--psnr", "30", "--bpp", "1"], "exclude each other"),
        (["--psnr", "30", "--codec", "jpeg"], "--psnr does not apply to --codec jpeg"),
    ):
        assert compress.main(["photo.png", "--force", *words]) > 0
        assert told in capsys.readouterr().err
