"""The README's pictures: progressive decoding of one photo, and DiffC beside AVIF at one low rate.

    python benchmarks/pictures.py ../shared/data/kodak/kodim23.png --out docs/results

Both show a square of the photo, which is compressed by itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import auto_cli
from matplotlib import pyplot

from diffpress.codecs import container, get_codec
from diffpress.data import read_image
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model

Shown = tuple[str, torch.Tensor]


def caption(name: str, size: int, decoded: torch.Tensor, image: torch.Tensor) -> Shown:
    """What stands above a picture, and the picture."""
    rate = 8 * size / (image.shape[1] * image.shape[2])
    quality = "exact" if torch.equal(decoded, image) else f"{psnr(decoded, image):.2f} dB"
    return f"{name}\n{size:,} bytes, {rate:.3f} bpp\n{quality}", decoded


def prefixes(name: str, image: torch.Tensor, rates: list[float]) -> list[Shown]:
    """One file of `name` ("DiffC" or "UQDM"), cut where its rate comes closest to `rates` in bpp."""
    if name == "DiffC":
        codec = get_codec("diffc", model=load_model("diffc-pixel", device="cpu"))
        stream = codec.encode(image, bpp=max(rates))
    else:
        codec = get_codec("uqdm", model=load_model("uqdm-photo", device="cpu"))
        stream = codec.encode(image)
    cut = [type(stream)(stream.header, stream.segments[:k]) for k in range(1, len(stream.segments) + 1)]
    sizes = [len(container.write(one, codec)) for one in cut]
    pixels = image.shape[1] * image.shape[2]
    chosen = sorted({min(range(len(sizes)), key=lambda k: abs(8 * sizes[k] / pixels - rate)) for rate in rates})
    return [caption(name, sizes[k], codec.decode(stream, segments=k + 1), image) for k in chosen]


def beside_avif(image: torch.Tensor, rate: float) -> list[Shown]:
    """The photo, AVIF 4:4:4 at the quality that comes closest to `rate` bpp, and DiffC in no more bytes."""
    pixels = image.shape[1] * image.shape[2]
    files = [get_codec("avif").encode(image, quality=quality) for quality in range(1, 60, 2)]
    avif = min(files, key=lambda stream: abs(stream.payload_bits / pixels - rate))
    codec = get_codec("diffc", model=load_model("diffc-pixel", device="cpu"))
    stream = codec.encode(image, bpp=avif.payload_bits / pixels)
    size = len(container.write(stream, codec))
    return [
        ("original\n\n", image),
        caption("AVIF", len(avif.segments[0]), get_codec("avif").decode(avif), image),
        caption("DiffC", size, codec.decode(stream), image),
    ]


def draw(rows: list[list[Shown]], path: Path) -> None:
    """Rows of pictures under their captions, as PNG."""
    columns = max(map(len, rows))
    figure, axes = pyplot.subplots(
        len(rows), columns, figsize=(2.6 * columns, 3.2 * len(rows)), layout="constrained", squeeze=False
    )
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, (text, picture) in zip(line, row, strict=False):
            axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_title(text, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(
    photo: Path, out: Path = Path("docs/results"), side: int = 320, low: float = 0.15,
    rates: list[float] = [0.05, 0.1, 0.2, 0.4, 0.7, 1.0],  # noqa: B006
) -> None:
    """Write progressive.png and low-rate.png to the folder `out`, from the middle `side` x `side` pixels of `photo`."""
    whole = read_image(photo)
    out.mkdir(parents=True, exist_ok=True)
    top, left = (whole.shape[1] - side) // 2, (whole.shape[2] - side) // 2
    image = whole[:, top : top + side, left : left + side].contiguous()
    draw([prefixes("DiffC", image, rates), prefixes("UQDM", image, [0.5, 1, 2, 4, 8, 16])], out / "progressive.png")
    draw([beside_avif(image, low)], out / "low-rate.png")


if __name__ == "__main__":
    auto_cli(main)
