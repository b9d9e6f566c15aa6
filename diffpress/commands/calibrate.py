"""``python calibrate.py --model FOLDER --data FOLDER``: write calibration.json beside a prior's weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import Progress

from ..codecs.reverse_channel import get_coder
from ..data import crop, list_images, read_image, write_file
from ..evaluation.calibrate import calibrate
from ..lightning_modules import load_model
from .batch import run
from .model_options import LOADING, add_model_options, loading_options


def parser() -> ArgumentParser:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = ArgumentParser(prog="calibrate", description="Measure a prior's error on photos and choose its noise levels.")
    p.add_argument("--config", action="config", help="YAML file with any of these options")
    add_model_options(p, "model folder, or hub id of a pipeline; calibration.json is written into it")
    p.add_argument("-o", "--out", type=Path | None, help="file to write instead, for compress.py --schedule FILE")
    p.add_argument("--data", type=str, required=True, help="folder of photos that the model has not seen")
    p.add_argument("--images", type=int, default=24, help="photos to measure, evenly spread over the folder")
    p.add_argument("--size", type=int, default=256, help="side of the crop taken from each")
    p.add_argument("--presets", type=dict[str, int], default={"fast": 10, "default": 20, "best": 40},
                   help="presets by their network evaluations at --rate")
    p.add_argument("--rate", type=float, default=1 / 3, help="bits per dimension at which presets are compared")
    p.add_argument("--stride", type=int, default=4, help="distance of the noise levels considered")
    p.add_argument("--last", type=int, default=1, help="level at which the schedules end")
    p.add_argument("--coder", type=Literal["trellis", "pfr"] | None,
                   help="choose levels by what this coder spends on a step (default: by KL)")
    return p


def write_calibration(
    model: str, data: str, images: int, size: int, presets: dict[str, int], rate: float, stride: int, last: int,
    device: str | None = None, out: Path | None = None, coder: str | None = None, loading: dict[str, Any] | None = None,
) -> int:
    """Calibrate and write; returns 0, the number of failures."""
    prior = load_model(model, device=device, **(loading or {}))
    files = list_images(data)
    files = files[:: max(1, len(files) // images)][:images]
    crops: list[torch.Tensor] = []
    for file in files:
        image = read_image(file)
        crops.append(crop(image, (min(size, image.shape[1]), min(size, image.shape[2]))))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("levels", total=len(crops) * (prior.num_levels // stride))
        table = calibrate(
            prior, crops, presets, rate=rate, stride=stride, last=last, coder=get_coder(coder) if coder else None,
            tick=lambda: bar.advance(task),
        )
    table["data"] = f"{len(files)} crops of at most {size} x {size} pixels from {Path(data).name}"
    write_file(out or prior.folder / "calibration.json", (json.dumps(table, indent=1) + "\n").encode())
    for preset in table["presets"]:
        print(f"{preset['name']}: {len(preset['levels'])} steps to level {preset['levels'][-1]}")
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 if nothing could be done."""
    p = parser()
    given = p.parse_args(args)
    if given.model is None:
        p.error("--model says what to calibrate")
    skipped = ("config", *LOADING)
    options = {name: value for name, value in given.as_dict().items() if name not in skipped}
    return run(lambda: write_calibration(**options, loading=loading_options(given)))
