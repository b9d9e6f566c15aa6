"""``python calibrate.py --model FOLDER --data FOLDER``: write calibration.json beside a prior's weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import Progress

from ..codecs.diffc.calibrate import calibrate, fit_pyramid
from ..codecs.reverse_channel import get_coder
from ..data import crop, list_images, read_image, write_file
from ..lightning_modules import LOADING, ModelError, load_model
from ..lightning_modules.identity import read_json
from ..lightning_modules.priors.interface import Prior
from ..lightning_modules.priors.pixel import DenoiserPrior
from ..lightning_modules.priors.pyramid import Node
from .files import run
from .model_options import add_model_options, loading_options


def parser() -> ArgumentParser:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = ArgumentParser(prog="calibrate", description="Measure a prior's error on photos and choose its noise levels.")
    p.add_argument("--config", action="config", help="YAML file with any of these options")
    add_model_options(p, "model folder, or hub id of a pipeline; calibration.json is written into it")
    p.add_argument("-o", "--out", type=Path | None, help="file to write instead, for compress.py --schedule FILE")
    p.add_argument("--data", type=str, required=True, help="folder of photos that the model has not seen")
    p.add_argument("--images", type=int, default=24, help="photos to measure, evenly spread over the folder")
    p.add_argument("--size", type=int, default=256, help="side of the crop taken from each")
    p.add_argument("--presets", type=dict[str, int], default={"fast": 10, "default": 18, "best": 40},
                   help="presets by their network evaluations at --rate")
    p.add_argument("--rate", type=float, default=1 / 3, help="bits per dimension at which presets are compared")
    p.add_argument("--stride", type=int, default=4, help="distance of the noise levels considered")
    p.add_argument("--last", type=int, default=1, help="level at which the schedules end")
    p.add_argument("--pyramid", type=bool, default=False,
                   help="first fit how our denoiser mixes resolutions, and write it into prior.json")
    p.add_argument("--coder", type=Literal["trellis", "pfr"] | None,
                   help="choose levels by what this coder spends on a step (default: by KL)")
    return p


def write_calibration(
    model: str, data: str, images: int, size: int, presets: dict[str, int], rate: float, stride: int, last: int,
    device: str | None = None, out: Path | None = None, coder: str | None = None, pyramid: bool = False,
    loading: dict[str, Any] | None = None,
) -> int:
    """Calibrate and write; returns 0, the number of failures."""
    prior = load_model(model, device=device, **(loading or {}))
    if pyramid and out is not None:
        raise ModelError("--pyramid changes the model itself, so it cannot be combined with --out")
    if not isinstance(prior, Prior):
        raise ModelError(f"{model} is no prior for DiffC, and only priors are calibrated")
    files = list_images(data)
    files = files[:: max(1, len(files) // images)][:images]
    crops: list[torch.Tensor] = []
    for file in files:
        image = read_image(file)
        crops.append(crop(image, (min(size, image.shape[1]), min(size, image.shape[2]))))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        if pyramid:
            nodes = use_pyramid(prior, crops, bar)
        task = bar.add_task("levels", total=len(crops) * (prior.num_levels // stride))
        table = calibrate(
            prior, crops, presets, rate=rate, stride=stride, last=last, coder=get_coder(coder) if coder else None,
            tick=lambda: bar.advance(task),
        )
    table["data"] = f"{len(files)} crops of at most {size} x {size} pixels from {Path(data).name}"
    if pyramid:
        path = prior.folder / "prior.json"
        write_file(path, (json.dumps(read_json(path) | {"pyramid": nodes}) + "\n").encode())
    text = re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), json.dumps(table, indent=1))  # a row per list
    write_file(out or prior.folder / "calibration.json", (text + "\n").encode())
    for preset in table["presets"]:
        print(f"{preset['name']}: {len(preset['levels'])} steps to level {preset['levels'][-1]}")
    return 0


def use_pyramid(prior: Prior, crops: list[torch.Tensor], bar: Progress) -> list[Node]:
    """Nodes of the prior's pyramid, fitted to uint8 images [3, H, W]; the prior uses them from now on."""
    if not isinstance(prior, DenoiserPrior):
        raise ModelError(f"{prior.folder} is not one of our denoisers, and only these mix resolutions")
    log_snrs = np.arange(prior.noisy, prior.clean, math.log(4) / 2).tolist()
    task = bar.add_task("resolutions", total=len(crops) * len(log_snrs))
    nodes = fit_pyramid(prior, crops, log_snrs, tick=lambda: bar.advance(task))
    prior.pyramid = replace(prior.pyramid, nodes=nodes)
    return nodes


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 if nothing could be done."""
    p = parser()
    given = p.parse_args(args)
    if given.model is None:
        p.error("--model says what to calibrate")
    skipped = ("config", *LOADING)
    options = {name: value for name, value in given.as_dict().items() if name not in skipped}
    return run(lambda: write_calibration(**options, loading=loading_options(given)))
