"""DiffC's presets through the command line: seconds of compress.py and decompress.py, and what the time buys.

    python benchmarks/presets.py ../shared/data/kodak
    git worktree add ../before 7c573aa && python benchmarks/presets.py ../shared/data/kodak --checkouts '[../before,.]'

The top left 512 x 512 pixels of each photo, every command in a process of its own, with as many threads as
OMP_NUM_THREADS says; checkouts take turns, so that what else the machine does meets all of them.  "codec" is what the
commands print, "process" includes starting Python and loading libraries and model.  Run it on a quiet machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from jsonargparse import auto_cli

from diffpress.data import read_image, save_image
from diffpress.evaluation.metrics import psnr

SIDE = 512


def command(checkout: Path, program: str, *arguments: str | Path) -> tuple[float, float]:
    """Seconds that a checkout's program prints for its one file, and seconds of the whole process."""
    start = time.perf_counter()
    words = [sys.executable, f"{program}.py", *map(str, arguments), "--force"]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    return float(re.findall(r"([0-9.]+) s\b", done.stdout)[-1]), seconds


def main(
    data: Path,
    photos: list[str] = ["kodim05.png", "kodim23.png"],  # noqa: B006
    bpps: list[float] = [0.25, 1.0],  # noqa: B006
    presets: list[str] = ["fast", "default", "best"],  # noqa: B006
    checkouts: list[Path] = [Path()],  # noqa: B006
    side: int = SIDE,
) -> None:
    """Print one row per photo of the folder `data`, rate, preset and checkout; `side` 0 takes whole photos."""
    print("| photo | bpp | preset | checkout | PSNR in dB | encode s: codec, process | decode s: codec, process |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source, file, out = (Path(folder) / name for name in ("photo.png", "photo.dfc", "back.png"))
        for photo, bpp, preset, checkout in product(photos, bpps, presets, checkouts):
            image = read_image(data / photo)
            image = image[:, : side or None, : side or None].contiguous()
            save_image(image, source)
            encode = command(checkout, "compress", source, "--out", file, "--preset", preset, "--bpp", str(bpp))
            decode = command(checkout, "decompress", file, "--out", out)
            seconds = " | ".join(f"{codec:.1f}, {process:.1f}" for codec, process in (encode, decode))
            name = checkout.resolve().name
            quality = psnr(read_image(out), image)
            print(f"| {Path(photo).stem} | {bpp:g} | {preset} | {name} | {quality:.2f} | {seconds} |", flush=True)


if __name__ == "__main__":
    auto_cli(main)
