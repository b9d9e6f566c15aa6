"""DiffC's presets through the command line: seconds of compress.py and decompress.py, and what the time buys.

    python benchmarks/presets.py ../shared/data/kodak

The middle 512 x 512 pixels of each photo, every command in a process of its own, with as many threads as there are
cores.  "codec" is what the commands print, "process" includes starting Python and loading libraries and model.
Run it on a quiet machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jsonargparse import auto_cli

from diffpress.data import read_image, save_image
from diffpress.evaluation.metrics import psnr, ssim_scores

SIDE = 512


def command(program: str, *arguments: str | Path) -> tuple[float, float]:
    """Seconds that the program prints for its one file, and seconds of the whole process."""
    module = f"from diffpress.commands.{program} import main; raise SystemExit(main())"
    start = time.perf_counter()
    words = [sys.executable, "-c", module, *map(str, arguments), "--force"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    return float(re.findall(r"([0-9.]+) s\b", done.stdout)[-1]), seconds


def main(
    data: Path,
    photos: list[str] = ["kodim05.png", "kodim23.png"],  # noqa: B006
    bpp: float = 0.5,
    presets: list[str] = ["fast", "default", "best"],  # noqa: B006
    reconstructions: list[str] = ["as shipped"],  # noqa: B006
) -> None:
    """Print one row per photo of the folder `data`, preset and reconstruction."""
    print("| photo | preset | reconstruction | bpp | PSNR in dB | MS-SSIM | encode s: codec, process | decode s |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source, file, out = (Path(folder) / name for name in ("photo.png", "photo.dfc", "back.png"))
        for photo in photos:
            image = read_image(data / photo)
            top, left = (size // 2 - SIDE // 2 for size in image.shape[1:])
            image = image[:, top : top + SIDE, left : left + SIDE].contiguous()
            save_image(image, source)
            for preset in presets:
                encode = command("compress", source, "-o", file, "--preset", preset, "--bpp", str(bpp))
                rate = 8 * file.stat().st_size / (image.shape[1] * image.shape[2])
                for how in reconstructions:
                    options = [] if how == "as shipped" else ["--reconstruction", how]
                    decode = command("decompress", file, "-o", out, *options)
                    back = read_image(out)
                    quality = f"{psnr(back, image):.2f} | {ssim_scores(back, image)[1]:.4f}"
                    seconds = " | ".join(f"{codec:.1f}, {process:.1f}" for codec, process in (encode, decode))
                    print(f"| {Path(photo).stem} | {preset} | {how} | {rate:.4f} | {quality} | {seconds} |", flush=True)


if __name__ == "__main__":
    auto_cli(main)
