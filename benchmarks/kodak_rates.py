"""DiffC on whole photos: rate, quality and time of a file for each of several rates, or of every prefix of one file.

    python benchmarks/kodak_rates.py ../shared/data/kodak --rates "[0.1,0.25,0.5,1.0]"
    python benchmarks/kodak_rates.py ../shared/data/kodak --prefixes 1.0 --preset fast

Each photo is compressed to real files, which are read back and decoded.  With `--prefixes` it is one file of that many
bpp, and the images after every segment are scored; the rate of a prefix is the size of the file that holds only these
segments.  Figures at the rates are interpolated on each photo's own curve and averaged.  To use two cores, run every
second photo in each of two processes:

    python benchmarks/kodak_rates.py KODAK --every 2 --threads 1 --out even.json &
    python benchmarks/kodak_rates.py KODAK --every 2 --first 1 --threads 1 --out odd.json; wait
    python benchmarks/kodak_rates.py KODAK --merge "[even.json,odd.json]" --out all.json
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


def measure(path: Path, codec: DiffC, bpp: float, prefixes: bool) -> dict:
    """Rates, qualities and seconds of one photo's file of at most `bpp`, of all its prefixes or of the whole."""
    image = read_image(path)
    pixels = image.shape[1] * image.shape[2]
    start = time.perf_counter()
    file = container.write(codec.encode(image, bpp=bpp), codec)
    encoded = time.perf_counter()
    stream = container.read(file, codec)
    counts = list(range(1, len(stream.segments) + 1)) if prefixes else [len(stream.segments)]
    shown = codec.decode_prefixes(stream, counts)
    return {
        "bpp": [8 * len(container.write(codec.prefix(stream, k), codec)) / pixels for k in counts],
        "psnr": [psnr(one, image) for one, _ in shown],
        "ms_ssim": [ssim_scores(one, image)[1] for one, _ in shown],
        "encode_s": encoded - start,
        "decode_s": shown[-1][1],
    }


def measure_rates(path: Path, codec: DiffC, rates: list[float]) -> dict:
    """The same of one file for each of the ascending `rates`; seconds are those of the last."""
    files = [measure(path, codec, rate, prefixes=False) for rate in rates]
    return files[-1] | {key: [value for one in files for value in one[key]] for key in ("bpp", *QUALITIES)}


def main(
    data: str,
    out: Path = Path("kodak_rates.json"),
    model: str = "diffc-pixel",
    rates: list[float] = [0.1, 0.25, 0.5, 1.0],  # noqa: B006
    prefixes: float | None = None,
    preset: str = "default",
    coder: str | None = None,
    every: int = 1,
    threads: int = 2,
    first: int = 0,
    reconstruction: str | None = None,
    merge: list[Path] | None = None,
) -> None:
    """Measure every `every`-th photo in `data` from the `first` on, or only `merge` results."""
    torch.set_num_threads(threads)
    curves = [curve for part in merge or () for curve in json.loads(part.read_text())]
    if not merge:
        codec = DiffC(load_model(model, device="cpu"), preset=preset, coder=coder, reconstruction=reconstruction)
        for path in list_images(data)[first::every]:
            curve = measure(path, codec, prefixes, True) if prefixes else measure_rates(path, codec, rates)
            curve = {"image": path.name} | curve
            curves.append(curve)
            rising = all(b > a for a, b in zip(curve["psnr"], curve["psnr"][1:], strict=False))
            at = [f"{np.interp(rate, curve['bpp'], curve['psnr']):.2f}" for rate in rates]
            seconds = f"{curve['encode_s']:.1f} s, {curve['decode_s']:.1f} s"
            print(f"{path.name}: {' '.join(at)} dB, rising: {rising}, {seconds}", flush=True)
            out.write_text(json.dumps(curves))
    curves.sort(key=lambda curve: curve["image"])
    out.write_text(json.dumps(curves))
    results = {"bpp": rates}
    results |= {name: [mean_at(curves, rate, quality) for rate in rates] for quality, name in QUALITIES.items()}
    results |= {f"{side}oding_time": [float(np.mean([c[f"{side}ode_s"] for c in curves]))] for side in ("enc", "dec")}
    files = f"prefixes of one {prefixes} bpp file each, interpolated" if prefixes else "a file for each rate"
    description = f"{len(curves)} images, {files}, diffpress {__version__}"
    name = f"DiffC, preset {preset}" + (f", {coder}" if coder else "")
    summary = {"name": name, "description": description, "results": results}
    out.with_suffix(".compressai.json").write_text(json.dumps(summary, indent=1))
    for rate in rates:
        print(f"{rate} bpp: {mean_at(curves, rate):.2f} dB, MS-SSIM {mean_at(curves, rate, 'ms_ssim'):.4f}")


if __name__ == "__main__":
    auto_cli(main)
