"""DiffC on whole photos, every prefix of one file per photo: rate, quality and time.

    python benchmarks/kodak_prefixes.py ../shared/data/kodak --bpp 1.0 --preset fast

Each photo is compressed to a real file, the file is read back and decoded once, and the images after every segment are
scored, or with `--brackets` only those whose rates lie next to one of `--rates`.  The rate of a prefix is the size of
the file that holds only these segments.  Figures at given rates are interpolated on each photo's own curve and
averaged.  To use two cores, run every second photo in each of two processes:

    python benchmarks/kodak_prefixes.py KODAK --every 2 --threads 1 --out even.json &
    python benchmarks/kodak_prefixes.py KODAK --every 2 --first 1 --threads 1 --out odd.json; wait
    python benchmarks/kodak_prefixes.py KODAK --merge even.json odd.json --out all.json
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from diffpress import __version__
from diffpress.codecs import container
from diffpress.codecs.diffc import DiffC
from diffpress.data import list_images, read_image
from diffpress.evaluation.metrics import psnr, ssim_scores
from diffpress.lightning_modules import load_model

QUALITIES = {"psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb"}  # ours: CompressAI's names


def mean_at(curves: list[dict], rate: float, quality: str = "psnr") -> float:
    """PSNR in dB or MS-SSIM at `rate` bpp, interpolated on each image's curve, averaged over images."""
    return float(np.mean([np.interp(rate, curve["bpp"], curve[quality]) for curve in curves]))


def neighbours(sizes: list[float], rates: list[float]) -> list[int]:
    """Numbers of segments of the prefixes next to `rates`, below and above, and of all."""
    above = {int(np.searchsorted(sizes, rate)) + 1 for rate in rates}
    return sorted({min(max(k + shift, 1), len(sizes)) for k in above for shift in (-1, 0)} | {len(sizes)})


def measure(path: Path, codec: DiffC, bpp: float, rates: list[float] | None = None) -> dict:
    """Rates, qualities and seconds of one photo; with `rates` only of the prefixes next to them."""
    image = read_image(path)
    pixels = image.shape[1] * image.shape[2]
    start = time.perf_counter()
    file = container.write(codec.encode(image, bpp=bpp), codec)
    encoded = time.perf_counter()
    stream = container.read(file, codec)
    counts = list(range(1, len(stream.segments) + 1))
    sizes = [8 * len(container.write(codec.prefix(stream, k), codec)) / pixels for k in counts]
    counts = counts if rates is None else neighbours(sizes, rates)
    shown = codec.decode_prefixes(stream, counts)
    return {
        "image": path.name,
        "bpp": [sizes[k - 1] for k in counts],
        "psnr": [psnr(one, image) for one, _ in shown],
        "ms_ssim": [ssim_scores(one, image)[1] for one, _ in shown],
        "encode_s": encoded - start,
        "decode_s": shown[-1][1],
    }


def main(
    data: str,
    out: Path = Path("kodak_prefixes.json"),
    model: str = "diffc-pixel",
    bpp: float = 1.0,
    preset: str = "default",
    coder: str | None = None,
    every: int = 1,
    rates: list[float] = [0.1, 0.25, 0.5, 0.9],  # noqa: B006
    threads: int = 2,
    first: int = 0,
    reconstruction: str | None = None,
    brackets: bool = False,
    merge: list[Path] | None = None,
) -> None:
    """Measure every `every`-th photo in `data` from the `first` on, or only `merge` results."""
    torch.set_num_threads(threads)
    curves = [curve for part in merge or () for curve in json.loads(part.read_text())]
    if not merge:
        codec = DiffC(load_model(model, device="cpu"), preset=preset, coder=coder, reconstruction=reconstruction)
        for path in list_images(data)[first::every]:
            curve = measure(path, codec, bpp, rates if brackets else None)
            curves.append(curve)
            rising = all(b > a for a, b in zip(curve["psnr"], curve["psnr"][1:], strict=False))
            at = [f"{np.interp(rate, curve['bpp'], curve['psnr']):.2f}" for rate in rates]
            seconds = f"{curve['encode_s']:.1f} s, {curve['decode_s']:.1f} s"
            print(f"{path.name}: {' '.join(at)} dB, rising: {rising}, {seconds}", flush=True)
            out.write_text(json.dumps(curves))
    curves.sort(key=lambda curve: curve["image"])
    out.write_text(json.dumps(curves))
    grid = [rate for rate in (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0) if rate <= bpp]
    grid = rates if brackets else grid
    results = {"bpp": grid}
    results |= {name: [mean_at(curves, rate, quality) for rate in grid] for quality, name in QUALITIES.items()}
    results |= {f"{side}oding_time": [float(np.mean([c[f"{side}ode_s"] for c in curves]))] for side in ("enc", "dec")}
    description = f"{len(curves)} images, prefixes of one {bpp} bpp file each, interpolated, diffpress {__version__}"
    name = f"DiffC, preset {preset}" + (f", {coder}" if coder else "")
    summary = {"name": name, "description": description, "results": results}
    out.with_suffix(".compressai.json").write_text(json.dumps(summary, indent=1))
    for rate in rates:
        print(f"{rate} bpp: {mean_at(curves, rate):.2f} dB, MS-SSIM {mean_at(curves, rate, 'ms_ssim'):.4f}")


if __name__ == "__main__":
    auto_cli(main)
