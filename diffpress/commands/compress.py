"""``python compress.py --codec diffc PHOTO... -o OUT``: images to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from ..codecs import codec_names
from .batch import build_codec, compress, run


def parser() -> ArgumentParser:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = ArgumentParser(prog="compress", description="Compress images (files, folders or glob patterns).")
    p.add_argument("images", nargs="*", help="image files, folders, glob patterns")
    p.add_argument("--config", action="config", help="YAML file with any of these options")
    p.add_argument("--codec", default="diffc", choices=codec_names())
    p.add_argument("-o", "--out", "--output_dir", type=Path, help="folder for the files, or the file for one image")
    p.add_argument("--image_dir", type=str | None, help="folder of images (as in the published DiffC code)")
    p.add_argument("--model", type=str | None, help="model folder (default: the one shipped for the codec)")
    p.add_argument("--bpp", type=float | None, help="bits per pixel to stop at, header included")
    p.add_argument("--segments", type=int | None, help="number of refinement steps to send")
    p.add_argument("--lossless", type=bool, nargs="?", const=True, default=False, help="restore every pixel")
    p.add_argument("--coder", type=Literal["trellis", "pfr"] | None, help="diffc: reverse-channel coder")
    p.add_argument("--preset", type=str | None, help="diffc: schedule of the calibration (fast, default, best)")
    p.add_argument("--portable", type=bool | None, nargs="?", const=True, help="uqdm: files move between machines")
    p.add_argument("--quality", type=int | None, help="classical codecs: quality")
    p.add_argument("--device", type=str | None, help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    p.add_argument("--force", type=bool, nargs="?", const=True, default=False, help="overwrite existing files")
    return p


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if some images failed, 2 if nothing could be done."""
    p = parser()
    given = p.parse_args(args)
    inputs = [*given.images, *([given.image_dir] if given.image_dir else [])]
    if not inputs or given.out is None:
        p.error("give at least one image and -o OUT")
    settings = {name: given[name] for name in ("coder", "preset", "portable", "quality") if given[name] is not None}
    request = {name: given[name] for name in ("bpp", "segments") if given[name] is not None}
    if given.lossless:
        (request if given.codec in ("diffc", "uqdm") else settings)["lossless"] = True
    return run(
        lambda: compress(
            build_codec(given.codec, given.model, given.device, settings), inputs, given.out, given.force, request
        )
    )
