"""``python compress.py --codec diffc PHOTO... -o OUT``: images to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from ..codecs import codec_names
from .captions import prompts_by, prompts_from
from .files import build_codec, compress, run
from .model_options import add_model_options, loading_options


def parser() -> ArgumentParser:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = ArgumentParser(prog="compress", description="Compress images (files, folders or glob patterns).")
    p.add_argument("images", nargs="*", help="image files, folders, glob patterns")
    p.add_argument("--config", action="config", help="YAML file with any of these options")
    p.add_argument("--codec", default="diffc", choices=codec_names())
    p.add_argument("-o", "--out", "--output_dir", type=Path, help="folder for the files, or the file for one image")
    p.add_argument("--image_dir", type=str | None, help="folder of images (as in the published DiffC code)")
    add_model_options(p, "model folder, or a hub id of a diffusers pipeline (default: the one shipped for the codec)")
    p.add_argument("--bpp", type=float | None, help="bits per pixel to stop at, header included")
    p.add_argument("--segments", type=int | None, help="number of refinement steps to send")
    p.add_argument("--lossless", type=bool, nargs="?", const=True, default=False, help="restore every pixel")
    p.add_argument("--coder", type=Literal["trellis", "trellis-quick", "pfr"] | None,
                   help="diffc: reverse-channel coder (default: trellis, trellis-quick for preset fast)")
    p.add_argument("--preset", type=str | None,
                   help="diffc: schedule of the calibration (fast, default, best; 12, 20, 54, 163 for pipelines); "
                        "bitsback: 20, 40 or 80 levels (fast, default, best), best with four orientations of each")
    p.add_argument("--schedule", type=str | None,
                   help="diffc: file with presets, or the name of a shipped one (sd15, sd21, sdxl, flux, sd3)")
    p.add_argument("--prompt", type=str | None, help="diffc: what all images show; it is stored in the file")
    p.add_argument("--captions", type=Path | None, help="diffc: a prompt per image (lines NAME<tab>TEXT, or JSON)")
    p.add_argument("--caption-model", type=str | None, help="diffc: BLIP model, folder or hub id, that writes prompts")
    p.add_argument("--guidance", type=float | None, help="diffc: guidance scale while encoding, in eighths (default 1)")
    p.add_argument("--denoising-guidance", type=float | None,
                   help="diffc: guidance scale for the final reconstruction (default: as --guidance)")
    p.add_argument("--weaken", type=float | None,
                   help="diffc: how much of what is small beside the file's last noise is left out (default: 0.1 where "
                        "decoding aims at the least error; 0: nothing, as published)")
    p.add_argument("--portable", type=bool | None, nargs="?", const=True,
                   help="uqdm, bitsback: files move between machines")
    p.add_argument("--quality", type=int | None, help="classical codecs: quality")
    p.add_argument("--force", type=bool, nargs="?", const=True, default=False, help="overwrite existing files")
    return p


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if some images failed, 2 if nothing could be done."""
    p = parser()
    given = p.parse_args(args)
    inputs = [*given.images, *([given.image_dir] if given.image_dir else [])]
    if not inputs or given.out is None:
        p.error("give at least one image and -o OUT")
    if sum(given[name] is not None for name in ("prompt", "captions", "caption_model")) > 1:
        p.error("give one of --prompt, --captions and --caption-model")
    names = ("coder", "preset", "schedule", "guidance", "denoising_guidance", "weaken", "portable", "quality")
    settings = {name: given[name] for name in names if given[name] is not None}
    request = {name: given[name] for name in ("bpp", "segments", "prompt") if given[name] is not None}
    if given.lossless:
        (request if given.codec in ("diffc", "uqdm", "bitsback") else settings)["lossless"] = True

    def action() -> int:
        loading, prompt_of = loading_options(given), None
        if given.captions is not None:
            prompt_of = prompts_from(given.captions)
        elif given.caption_model is not None:
            prompt_of = prompts_by(given.caption_model, given.device, bool(given.local_files_only))
        codec = build_codec(given.codec, given.model, given.device, settings, loading)
        return compress(codec, inputs, given.out, given.force, request, prompt_of)

    return run(action)
