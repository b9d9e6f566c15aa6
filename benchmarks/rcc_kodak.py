"""BD-rate of the trellis against the published reverse-channel scheme on photos, both through real files.

    OMP_NUM_THREADS=1 python benchmarks/rcc_kodak.py ../shared/data/kodak --every 3 --preset fast --bpp 1.0 --threads 1

Runs kodak_rates.py with --coder trellis and --coder pfr (truncated search, 14-bit chunks, 2^16 candidates, Zipf)
and compares the two curves of each photo, rate of every prefix file against PSNR: all prefixes, and those from 0.1 bpp
up, because the first ones of a few hundred bytes show nothing one would keep.  Curves that are in the output folder
already are not measured again: delete them to do so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import kodak_rates  # noqa: E402

from diffpress.evaluation.bd import bd_rate, overlap  # noqa: E402

LOWEST = 0.1  # bpp


def above(curve: dict, bpp: float) -> dict:
    """The points of a curve at `bpp` or more."""
    kept = [number for number, rate in enumerate(curve["bpp"]) if rate >= bpp]
    return {name: [curve[name][number] for number in kept] for name in ("bpp", "psnr")}


def main(
    data: str,
    out: Path = Path("rcc_kodak"),
    model: str = "diffc-pixel",
    bpp: float = 1.0,
    preset: str = "fast",
    every: int = 1,
    threads: int = 2,
) -> None:
    """Measure every `every`-th photo in `data` with both coders; results go to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    curves = {}
    for coder in ("trellis", "pfr"):
        path = out / f"{coder}.json"
        if not path.exists():
            unfinished = out / f"{coder}-unfinished.json"
            kodak_rates.main(
                data, unfinished, model, prefixes=bpp, preset=preset, coder=coder, every=every, threads=threads
            )
            unfinished.rename(path)
        curves[coder] = {curve["image"]: curve for curve in json.loads(path.read_text())}
    deltas: dict[float, list[float]] = {0.0: [], LOWEST: []}
    for image, tested in curves["trellis"].items():
        anchor = curves["pfr"][image]
        texts = []
        for lowest, values in deltas.items():
            a, b = (above(curve, lowest) for curve in (anchor, tested))
            shared = overlap(a["psnr"], b["psnr"])
            delta = bd_rate(a["bpp"], a["psnr"], b["bpp"], b["psnr"])
            if delta is None or shared is None:
                raise SystemExit(f"{image}: the curves do not overlap")
            values.append(delta)
            texts.append(f"{delta:+.2f} % ({shared[0]:.1f} to {shared[1]:.1f} dB)")
        seconds = ", ".join(f"{coder} {curves[coder][image]['encode_s']:.0f} s" for coder in curves)
        print(f"{image}: {', '.join(texts)}; encoding {seconds}")
    means = ", ".join(f"{np.mean(values):+.2f} % from {lowest} bpp up" for lowest, values in deltas.items())
    print(f"BD-rate of the trellis against published PFR, mean of {len(curves['pfr'])} photos: {means}")


if __name__ == "__main__":
    auto_cli(main)
