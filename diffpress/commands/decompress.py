"""``python decompress.py FILE... -o OUT``: files back to images, whole or any prefix."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from ..codecs import CodecError
from ..codecs.container import MAX_PIXELS
from .files import decompress, run
from .model_options import add_model_options, loading_options


def parser() -> ArgumentParser:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = ArgumentParser(prog="decompress", description="Decompress files (or folders of them) to images.")
    p.add_argument("files", nargs="*", help="compressed files, folders, glob patterns")
    p.add_argument("--config", action="config", help="YAML file with any of these options")
    p.add_argument("-o", "--out", "--output_dir", type=Path, help="folder for the images, or the file for one image")
    p.add_argument("--input_dir", type=str | None, help="folder of files (as in the published DiffC code)")
    add_model_options(p, "model folder, or hub id of a pipeline (default: the shipped one that wrote the file)")
    p.add_argument("--schedule", type=str | None, help="diffc: the schedule that the file was written with, if given")
    p.add_argument("--segments", type=int | None, help="decode only this many refinement steps")
    p.add_argument("--reconstruction", type=Literal["ensemble", "mse", "flow", "ancestral", "denoise"] | None,
                   help="how to end: ensemble, mse, flow, ancestral (diffc); denoise, flow, ancestral (uqdm)")
    p.add_argument("--flow-steps", type=int | None,
                   help="diffc: network evaluations of flow and ancestral (default 50)")
    p.add_argument("--denoising-guidance", type=float | None,
                   help="diffc: guidance scale for the final reconstruction (default: what the file says)")
    p.add_argument("--recover", type=bool, nargs="?", const=True, default=False,
                   help="decode the good segments of a damaged file")
    p.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="refuse files that announce larger images")
    p.add_argument("--format", choices=["png", "webp", "bmp", "tiff"], default="png", help="image format written")
    p.add_argument("--force", type=bool, nargs="?", const=True, default=False, help="overwrite existing files")
    return p


def expand(inputs: Sequence[str]) -> list[Path]:
    """The files named by paths, folders (their files, sorted) and glob patterns; raises CodecError."""
    found: list[Path] = []
    for entry in inputs:
        path = Path(entry)
        matches = [path] if path.is_file() else sorted(path.iterdir() if path.is_dir() else map(Path, glob(entry)))
        files = [match for match in matches if match.is_file() and not match.name.startswith(".")]
        if not files:
            raise CodecError(f"{entry}: no such file")
        found += files
    return list(dict.fromkeys(found))


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if some files failed, 2 if nothing could be done."""
    p = parser()
    given = p.parse_args(args)
    inputs = [*given.files, *([given.input_dir] if given.input_dir else [])]
    if not inputs or given.out is None:
        p.error("give at least one file and -o OUT")
    names = ("reconstruction", "schedule", "flow_steps", "denoising_guidance")
    options = {name: given[name] for name in names if given[name] is not None}
    return run(
        lambda: decompress(
            expand(inputs), given.out, segments=given.segments, model=given.model, device=given.device,
            force=given.force, recover=given.recover, max_pixels=given.max_pixels, image_format=given.format,
            options=options, loading=loading_options(given),
        )
    )
