"""Files of a named quality or size: what was asked for is what the decoded file has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffpress.codecs import CodecError, container, get_codec
from diffpress.codecs.targets import encode_to, jpeg, psnr_of
from diffpress.commands import compress
from diffpress.data import save_image
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


def test_psnr_is_reached_by_little(diffc: Any) -> None:
    noise = 12 * torch.randn(IMAGE.shape, generator=torch.Generator().manual_seed(0))
    image = (IMAGE + noise).round().clamp(0, 255).byte()  # many bytes, so that one of them makes no difference
    stream = encode_to(diffc, image, psnr=34.0)
    assert 34 <= psnr(diffc.decode(stream), image) <= 34.1
    smaller = round(0.97 * len(container.write(stream, diffc)))
    assert psnr(diffc.decode(encode_to(diffc, image, bytes=smaller)), image) < 34


def test_bytes_and_quality(diffc: Any, uqdm: Any) -> None:
    for limit in (400, 401):
        size, _ = size_and_psnr(diffc, bytes=limit)
        assert limit - 8 < size <= limit
    assert size_and_psnr(uqdm, bytes=3000)[0] <= 3000
    wanted = jpeg(IMAGE, 60)[1]
    assert wanted <= size_and_psnr(diffc, quality=60)[1] <= wanted + 0.1
    assert psnr_of(IMAGE, IMAGE // 2) == pytest.approx(psnr(IMAGE, IMAGE // 2))


def test_segments_of_uqdm(uqdm: Any) -> None:
    whole = encode_to(uqdm, IMAGE)
    quality = [psnr(uqdm.decode(whole, segments=k), IMAGE) for k in (1, 2, 3)]
    assert len(encode_to(uqdm, IMAGE, psnr=quality[1]).segments) == 2
    assert len(encode_to(uqdm, IMAGE, psnr=quality[1] + 0.01).segments) == 3


def test_unreachable_targets_say_what_can_be_reached(tiny_prior: Path) -> None:
    codec = get_codec("diffc", model=load_model(tiny_prior, device="cpu"))
    with pytest.raises(CodecError, match=r"at most \d+\.\d\d dB for this image, in \d+ bytes"):
        encode_to(codec, IMAGE, psnr=80.0)
    with pytest.raises(CodecError, match="too little for one step"):
        encode_to(codec, IMAGE, bytes=10)


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
