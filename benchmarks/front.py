"""What DiffC's time buys: PSNR against seconds per megapixel over steps, length of the search and orientations.

    python benchmarks/front.py ../shared/data/photos/val docs/results/front

The middle 256 x 256 pixels of `count` photos, calibrated on as many others; every combination in one process on one
thread, in seconds of processor time.  Writes front.json and front.svg.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType

import torch
from jsonargparse import auto_cli

from diffpress.codecs.diffc.calibrate import calibrate
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.diffc.header import parse_schedules
from diffpress.data import list_images, read_image
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model

SIDE = 256
RATE = 1 / 3  # bits per dimension at which the number of evaluations is counted, as calibrate.py does


@dataclass(frozen=True)
class Point:
    """A combination at one rate: means over the photos; seconds per megapixel."""

    evaluations: int
    coder: str
    orientations: int
    bpp: float
    psnr: float
    encode: float
    decode: float


def middle(photo: Path) -> torch.Tensor:
    """uint8 [3, SIDE, SIDE]."""
    image = read_image(photo)
    top, left = (length // 2 - SIDE // 2 for length in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE].contiguous()


def measured(codec: DiffC, photos: list[torch.Tensor], bpp: float) -> tuple[float, float, float]:
    """(PSNR in dB, seconds per megapixel to encode, to decode)."""
    quality, seconds = 0.0, [0.0, 0.0]
    for photo in photos:
        start = time.process_time()
        stream = codec.encode(photo, bpp=bpp)
        middle_time = time.process_time()
        quality += float(psnr(codec.decode(stream), photo))
        seconds[0] += middle_time - start
        seconds[1] += time.process_time() - middle_time
    megapixels = len(photos) * SIDE**2 / 1e6
    return quality / len(photos), seconds[0] / megapixels, seconds[1] / megapixels


def draw(points: list[Point], path: Path) -> None:
    """Quality against the time to decode, one line for each rate."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    rates = sorted({point.bpp for point in points})
    figure, axes = plt.subplots(1, len(rates), figsize=(9, 4), layout="constrained")
    for axis, rate in zip(axes, rates, strict=True):
        for point in (point for point in points if point.bpp == rate):
            marker = "o" if point.coder == "trellis" else "^"
            axis.plot(point.encode, point.psnr, marker, color="tab:blue")
            axis.plot(point.decode, point.psnr, marker, color="tab:orange")
            axis.annotate(f"{point.evaluations}, {point.orientations}", (point.decode, point.psnr), fontsize=7)
        axis.set(title=f"{rate:g} bpp", xlabel="seconds per megapixel, one thread", ylabel="PSNR in dB")
    axes[0].plot([], [], "o", color="tab:blue", label="encoding (triangle: trellis-quick)")
    axes[0].plot([], [], "o", color="tab:orange", label="decoding; evaluations, orientations")
    axes[0].legend(loc="lower right", fontsize=7)
    figure.savefig(path)


def main(
    data: Path,
    out: Path,
    model: str = "diffc-pixel-2",
    count: int = 6,
    evaluations: list[int] = [6, 8, 10, 14, 18, 24],  # noqa: B006
    coders: list[str] = ["trellis-quick", "trellis"],  # noqa: B006
    orientations: list[int] = [1, 2, 4],  # noqa: B006
    bpps: list[float] = [0.25, 1.0],  # noqa: B006
) -> None:
    """Measure every combination; `evaluations` are those of a file of RATE bits per dimension."""
    torch.set_num_threads(1)
    prior, photos = load_model(model, "cpu"), list_images(data)
    apart = max(2, len(photos) // count)
    tested = [middle(photo) for photo in photos[apart // 2 :: apart][:count]]
    table = calibrate(
        prior, [middle(photo) for photo in photos[::apart][:count]], {str(n): n for n in evaluations}, rate=RATE,
        stride=8, last=200,
    )
    points: list[Point] = []
    for schedule, coder, turns, bpp in product(parse_schedules(table, "front"), coders, orientations, bpps):
        prior.orientations = MappingProxyType({schedule.name: turns})
        codec = DiffC(prior, schedules=[schedule], preset=schedule.name, coder=coder)
        points.append(Point(int(schedule.name), coder, turns, bpp, *measured(codec, tested, bpp)))
        print(points[-1], flush=True)
    text = json.dumps([asdict(point) for point in points], indent=1)
    out.with_suffix(".json").write_text(text + "\n")
    draw(points, out.with_suffix(".svg"))


if __name__ == "__main__":
    auto_cli(main)
