"""DiffC on whole photos, every prefix of one file per photo: rate, quality and time.

    python benchmarks/kodak_prefixes.py ../shared/data/kodak --bpp 1.0 --preset fast

Each photo is compressed to a real file, the file is read back and decoded once, and the image after every segment is
scored; the rate of a prefix is the size of the file that holds only these segments.  Figures at given rates are
interpolated on each photo's own curve and averaged.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from diffpress.codecs import container, get_codec
from diffpress.data import list_images, read_image
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model


def mean_at(curves: list[dict], rate: float) -> float:
    """PSNR in dB at `rate` bpp, interpolated on each image's curve, averaged over images."""
    return float(np.mean([np.interp(rate, curve["bpp"], curve["psnr"]) for curve in curves]))


def main(
    data: str,
    out: Path = Path("kodak_prefixes.json"),
    model: str = "diffc-pixel",
    bpp: float = 1.0,
    preset: str = "default",
    coder: str = "trellis",
    every: int = 1,
    rates: list[float] = [0.1, 0.25, 0.5, 0.9],  # noqa: B006
    threads: int = 2,
) -> None:
    """Measure every `every`-th photo in `data`."""
    torch.set_num_threads(threads)
    codec = get_codec("diffc", model=load_model(model, device="cpu"), preset=preset, coder=coder)
    curves = []
    for path in list_images(data)[::every]:
        image = read_image(path)
        pixels = image.shape[1] * image.shape[2]
        start = time.perf_counter()
        file = container.write(codec.encode(image, bpp=bpp), codec)
        encoded = time.perf_counter()
        stream = container.read(file, codec)
        images = codec.decode_prefixes(stream)
        seconds = (encoded - start, time.perf_counter() - encoded)
        prefixes = [replace(stream, segments=stream.segments[:k]) for k in range(1, len(images) + 1)]
        sizes = [len(container.write(prefix, codec)) for prefix in prefixes]
        curve = {
            "image": path.name,
            "bpp": [8 * size / pixels for size in sizes],
            "psnr": [psnr(one, image) for one in images],
            "encode_s": seconds[0],
            "decode_s": seconds[1],
        }
        curves.append(curve)
        rising = all(b > a for a, b in zip(curve["psnr"], curve["psnr"][1:], strict=False))
        at = [f"{np.interp(rate, curve['bpp'], curve['psnr']):.2f}" for rate in rates]
        print(f"{path.name}: {' '.join(at)} dB, rising: {rising}, {seconds[0]:.1f} s, {seconds[1]:.1f} s", flush=True)
        out.write_text(json.dumps(curves))
    grid = [rate for rate in (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.65, 0.8, 0.95) if rate <= 0.97 * bpp]
    results = {"bpp": grid, "psnr-rgb": [mean_at(curves, rate) for rate in grid]}
    results |= {f"{side}oding_time": [float(np.mean([c[f"{side}ode_s"] for c in curves]))] for side in ("enc", "dec")}
    description = f"{len(curves)} images, prefixes of one {bpp} bpp file each, interpolated"
    summary = {"name": f"DiffC, {preset}, {coder}", "description": description, "results": results}
    out.with_suffix(".compressai.json").write_text(json.dumps(summary, indent=1))
    means = [mean_at(curves, rate) for rate in rates]
    for rate, mean in zip(rates, means, strict=True):
        print(f"{rate} bpp: {mean:.2f} dB")


if __name__ == "__main__":
    auto_cli(main)
