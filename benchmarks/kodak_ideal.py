"""DiffC with an ideal coder on whole photos: hypothetical rates, next to which those of real files can be judged.

    python benchmarks/kodak_ideal.py ../shared/data/kodak

Every step is a true sample of q that costs KL(q || p) and nothing else (codecs/hypothetical.py).  Rates and PSNR are
means over photos after each of `--steps`, as evaluate.py averages prefixes, or PSNR at `--rates`, interpolated on each
photo's curve as kodak_rates.py does; `evaluate.py --plot` draws them dotted.
With --every and --first two processes share the photos, --merge puts their results together (see kodak_rates.py).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from kodak_rates import mean_at

from diffpress import __version__
from diffpress.codecs.diffc import DiffC
from diffpress.codecs.hypothetical import ideal_curve
from diffpress.data import list_images, read_image
from diffpress.evaluation.metrics import bits_per_pixel, psnr
from diffpress.lightning_modules import load_model


def main(
    data: str,
    out: Path = Path("kodak_ideal.json"),
    model: str = "diffc-pixel",
    preset: str = "fast",
    steps: list[int] = [2, 4, 6, 8, 10],  # noqa: B006
    every: int = 1,
    first: int = 0,
    threads: int = 2,
    rates: list[float] | None = None,
    merge: list[Path] | None = None,
) -> None:
    """Measure every `every`-th photo in `data` from the `first` on, or only `merge` results."""
    torch.set_num_threads(threads)
    photos = {name: curve for part in merge or () for name, curve in json.loads(part.read_text())["photos"].items()}
    codec = None if merge else DiffC(load_model(model, device="cpu"), preset=preset)
    for path in list_images(data)[first::every] if codec else ():
        image, start = read_image(path), time.perf_counter()
        points = ideal_curve(codec, image, steps)
        photos[path.name] = {
            "bpp": [bits_per_pixel(point.bits / 8, *image.shape[1:]) for point in points],
            "psnr-rgb": [psnr(point.image, image) for point in points],
        }
        print(path.name, photos[path.name], f"{time.perf_counter() - start:.0f} s", flush=True)
    curves = list(photos.values())
    if rates:
        means = {"bpp": rates, "psnr-rgb": [mean_at(curves, rate, "psnr-rgb") for rate in rates]}
    else:
        means = {key: np.mean([curve[key] for curve in curves], axis=0).tolist() for key in ("bpp", "psnr-rgb")}
    summary = {
        "name": f"DiffC {preset}, ideal coder",
        "description": f"{len(photos)} images, hypothetical: no such files; diffpress {__version__}",
        "hypothetical": True,
        "results": means,
        "photos": photos,
    }
    out.write_text(json.dumps(summary, indent=1) + "\n")
    print(means)


if __name__ == "__main__":
    auto_cli(main)
