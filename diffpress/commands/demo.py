"""``make demo``: a real photo through DiffC, UQDM and bits-back coding, decoded from the files in fresh processes.

Prints bytes, rate, quality and time of each file and writes the photo and its reconstructions side by side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib import pyplot
from rich.console import Console
from rich.table import Table

from .. import resource
from ..data import read_image, save_image
from ..evaluation.metrics import psnr
from .command_line import CommandLine
from .errors import run, run_afresh
from .options import Option

# codec, what to call it, options of compress.py
RUNS = (
    ("diffc", "DiffC, 0.25 bpp", ("--bpp", "0.25")),
    ("diffc", "DiffC, 1 bpp", ("--bpp", "1.0")),
    ("diffc", "DiffC, lossless", ("--lossless",)),
    ("uqdm", "UQDM, 3 steps", ("--segments", "3")),
    ("uqdm", "UQDM, lossless", ("--lossless",)),
    ("bitsback", "bits-back, lossless", ("--preset", "fast")),
)


def photo() -> torch.Tensor:
    """uint8 [3, 256, 256]: part of a portrait of Eileen Collins (NASA, Great Images database, public domain)."""
    return read_image(resource("data/demo.png"))


def demo(out: Path) -> int:
    """Run everything into the folder `out`; returns 0, the number of failures."""
    original, source = photo(), out / "photo.png"
    save_image(original, source)
    pictures = [("original", original)]
    table = Table(title=f"{source}: {original.shape[2]} x {original.shape[1]} pixels, decoded in fresh processes")
    for heading in ("codec", "bytes", "bpp", "PSNR in dB", "encode s", "decode s"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    for codec, label, options in RUNS:
        name = label.replace(",", "").replace(" ", "-").lower()
        file, picture = out / f"{name}.bin", out / f"{name}.png"
        encode = _seconds("compress", "--codec", codec, source, "-o", file, "--force", *options)
        decode = _seconds("decompress", file, "-o", picture, "--force")
        size, image = file.stat().st_size, read_image(picture)
        quality, bpp = psnr(image, original), 8 * size / (image.shape[1] * image.shape[2])
        exact = torch.equal(image, original)
        row = (f"{bpp:.3f}", "exact" if exact else f"{quality:.2f}", f"{encode:.1f}", f"{decode:.1f}")
        table.add_row(label, str(size), *row)
        pictures.append((f"{label}\n{size} bytes, {'exact' if exact else f'{quality:.1f} dB'}", image))
    Console().print(table)
    figure, axes = pyplot.subplots(1, len(pictures), figsize=(3 * len(pictures), 3.7), layout="constrained")
    for axis, (title, image) in zip(axes, pictures, strict=True):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.savefig(out / "demo.png", dpi=120)
    pyplot.close(figure)
    print(f"seconds include starting Python and loading the model; pictures side by side: {out / 'demo.png'}")
    return 0


def _seconds(command: str, *words: object) -> float:
    """That a command takes in a process of its own; raises OSError with its words if it fails."""
    start = time.perf_counter()
    if said := run_afresh(command, *words):
        raise OSError(f"{command} failed: {said}")
    return time.perf_counter() - start


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with a sentence if a step failed."""
    p = CommandLine("python -m diffpress.commands.demo", "Compress a real photo and show the result.", [])
    p.add_options("options", [Option("out", "Path", "demo_out", "folder for files and pictures")])
    return run(lambda: demo(p.parse_args(args).out or Path("demo_out")))


if __name__ == "__main__":
    raise SystemExit(main())
