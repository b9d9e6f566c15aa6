"""The classical codecs are the formats' own files, and behave like every other codec."""

import io

import pytest
import torch
from PIL import Image

from diffpress.codecs import Codec, CodecError, Stream
from diffpress.codecs.baselines.pillow import Avif, Jpeg, Jpeg2000, JpegXl, NativeCodec, Png, WebP
from diffpress.evaluation.metrics import psnr

LOSSY: list[type[NativeCodec]] = [Jpeg, Jpeg2000, WebP, Avif, JpegXl]
LOSSLESS: list[type[NativeCodec]] = [Jpeg2000, WebP, JpegXl, Png]


def photo(height: int = 96, width: int = 144) -> torch.Tensor:
    """A smooth uint8 [3, H, W] picture with some detail, the same every time."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return ((smooth + 0.04 * torch.randn(3, height, width, generator=generator)).clamp(0, 1) * 255).round().byte()


@pytest.mark.parametrize("codec_class", LOSSY)
def test_more_quality_is_more_bits_and_a_better_image(codec_class: type[NativeCodec]) -> None:
    image, codec = photo(), codec_class()
    assert isinstance(codec, Codec)
    low, high = (32, 40) if codec_class is Jpeg2000 else (30, 90)
    small, large = codec.encode(image, quality=low), codec.encode(image, quality=high)
    assert small.native
    assert small.header.codec == codec.name
    assert (small.header.height, small.header.width) == (96, 144)
    assert small.payload_bits < large.payload_bits
    assert 20 < psnr(codec.decode(small), image) < psnr(codec.decode(large), image)
    assert codec.encode(image, quality=low).segments == small.segments  # same input, same file


@pytest.mark.parametrize("codec_class", LOSSLESS)
@pytest.mark.parametrize("size", [(1, 1), (37, 91), (65, 64), (500, 5)])
def test_lossless_returns_every_pixel(codec_class: type[NativeCodec], size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    codec = codec_class(lossless=True)
    assert torch.equal(codec.decode(codec.encode(image)), image)


@pytest.mark.parametrize("codec_class", LOSSY)
@pytest.mark.parametrize("size", [(1, 1), (37, 91), (600, 4)])
def test_odd_sizes(codec_class: type[NativeCodec], size: tuple[int, int]) -> None:
    image, codec = photo(*size), codec_class()
    assert codec.decode(codec.encode(image)).shape == image.shape


@pytest.mark.parametrize(
    ("codec_class", "pillow_format"),
    [(Jpeg, "JPEG"), (Jpeg2000, "JPEG2000"), (WebP, "WEBP"), (Avif, "AVIF"), (JpegXl, "JXL"), (Png, "PNG")],
)
def test_the_stream_is_an_ordinary_file(codec_class: type[NativeCodec], pillow_format: str) -> None:
    with Image.open(io.BytesIO(codec_class().encode(photo()).segments[0])) as file:
        assert file.format == pillow_format
        assert file.size == (144, 96)
        assert "exif" not in file.info


def test_jpeg2000_meets_the_rate_it_is_given() -> None:
    image = photo(256, 256)
    bpp = Jpeg2000(bpp=0.5).encode(image).payload_bits / 256**2
    assert 0.45 < bpp <= 0.5


@pytest.mark.parametrize("codec_class", [*LOSSY, Png])
def test_damaged_files_are_reported(codec_class: type[NativeCodec]) -> None:
    codec = codec_class()
    stream = codec.encode(photo())
    for data in (b"", b"garbage", stream.segments[0][:20]):
        with pytest.raises(CodecError, match=codec.name) as caught:
            codec.decode(Stream(stream.header, (data,), native=True))
        assert "\n" not in str(caught.value)


def test_another_format_or_size_is_refused() -> None:
    stream = Png().encode(photo())
    with pytest.raises(CodecError, match="not a jpeg file"):
        Jpeg().decode(stream)
    other = Stream(Png().encode(photo(8, 8)).header, stream.segments, native=True)
    with pytest.raises(CodecError, match="144 x 96, its header says 8 x 8"):
        Png().decode(other)
    with pytest.raises(CodecError, match="only as a whole"):
        Png().decode(stream, segments=0)


@pytest.mark.parametrize(
    ("codec_class", "options", "message"),
    [
        (Jpeg, {"quality": 0}, "quality must be between 1 and 100, got 0"),
        (Jpeg, {"subsampling": "4:1:1"}, "subsampling must be one of"),
        (Jpeg, {"lossless": True}, "jpeg has no option 'lossless'; its options: quality, subsampling"),
        (WebP, {"quality": 101}, "quality must be between"),
        (Avif, {"tune": "vmaf"}, "tune must be one of"),
        (Jpeg2000, {"bpp": 0.0}, "bpp must be between"),
        (Png, {"lossless": False}, "no lossy mode"),
    ],
)
def test_wrong_options_are_explained(codec_class: type[NativeCodec], options: dict[str, object], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec_class().encode(photo(8, 8), **options)


def test_sizes_a_format_lacks_are_explained() -> None:
    with pytest.raises(CodecError, match="webp cannot encode this 20000 x 1 image"):
        WebP().encode(torch.zeros(3, 1, 20000, dtype=torch.uint8))
    with pytest.raises(CodecError, match="uint8"):
        WebP().encode(torch.zeros(3, 4, 4))
