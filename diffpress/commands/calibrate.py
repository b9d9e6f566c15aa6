"""``python calibrate.py --model FOLDER --data FOLDER``: write calibration.json beside a prior's weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .command_line import CONFIG, CommandLine
from .errors import UsageError, run
from .options import loading_options, model_options, options_of

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from ..lightning_modules.priors.interface import Prior
    from ..lightning_modules.priors.pixel import Node

PRESETS = {"fast": 10, "default": 18, "best": 40}


def parser() -> CommandLine:
    """The command line; every option may also stand in a YAML file given with --config."""
    p = CommandLine("calibrate.py", "Measure a prior's error on photos and choose its noise levels.", [
        "calibrate.py --model my-prior --data photos",
        "calibrate.py --model my-prior --data photos --pyramid        # fits how resolutions are mixed, too",
        "calibrate.py --model organisation/model --data photos -o own.json",
    ])  # fmt: skip
    own = options_of("commands/calibrate.py", "write_calibration")
    out = replace(own.pop("out"), aliases=("-o",))
    p.add_options("common options", [own.pop("model"), own.pop("data"), out, *model_options(""), CONFIG])
    p.add_options("what is measured and chosen", own.values())
    p.add_options("loading the model", loading_options().values())
    return p


def write_calibration(
    model: str,
    data: str,
    images: int = 24,
    size: int = 256,
    presets: dict[str, int] = PRESETS,
    rate: float = 1 / 3,
    stride: int = 4,
    last: int = 1,
    device: str | None = None,
    out: Path | None = None,
    coder: Literal["trellis", "pfr"] | None = None,
    pyramid: bool = False,
    loading: dict[str, Any] | None = None,
) -> int:
    """Calibrate and write; returns 0, the number of failures.

    model    model folder, hub id of a pipeline, or a denoiser's name (deepinv:NAME, MODULE:NAME, FILE.py:NAME);
             calibration.json is written into the folder; for a denoiser it is kept in the user's cache
    data     folder of photos that the model has not seen
    images   photos to measure, evenly spread over the folder
    size     side of the crop taken from each, in pixels
    presets  presets by their network evaluations at `rate`
    rate     bits per dimension at which presets are compared
    stride   distance of the noise levels considered
    last     level at which the schedules end
    device   where the model runs
    out      file to write instead, for compress.py --schedule FILE
    coder    choose levels by what this coder spends on a step; None: by KL
    pyramid  first fit how our denoiser mixes resolutions, and write it into prior.json
    loading  options of load_model
    Raises ModelError, ImageError.
    """
    from rich.console import Console
    from rich.progress import Progress

    from ..codecs.diffc.calibrate import calibrate
    from ..codecs.reverse_channel import get_coder
    from ..data import crop, list_images, read_image, write_file
    from ..lightning_modules import ModelError, load_model
    from ..lightning_modules.identity import read_json
    from ..lightning_modules.priors.function import FunctionPrior
    from ..lightning_modules.priors.interface import Prior

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
    own = Path(prior.schedule or "") if isinstance(prior, FunctionPrior) else prior.folder / "calibration.json"
    write_file(out or own, (text + "\n").encode())
    for preset in table["presets"]:
        print(f"{preset['name']}: {len(preset['levels'])} steps to level {preset['levels'][-1]}")
    return 0


def use_pyramid(prior: Prior, crops: list[torch.Tensor], bar: Progress) -> list[Node]:
    """Nodes of the prior's pyramid, fitted to uint8 images [3, H, W]; the prior uses them from now on."""
    import numpy as np

    from ..codecs.diffc.calibrate import fit_pyramid
    from ..lightning_modules import ModelError
    from ..lightning_modules.priors.pixel import DenoiserPrior

    if not isinstance(prior, DenoiserPrior):
        raise ModelError(f"{prior.folder} is not one of our denoisers, and only these mix resolutions")
    log_snrs = np.arange(prior.noisy, prior.clean, math.log(4) / 2).tolist()
    task = bar.add_task("resolutions", total=len(crops) * len(log_snrs))
    nodes = fit_pyramid(prior, crops, log_snrs, tick=lambda: bar.advance(task))
    prior.pyramid = replace(prior.pyramid, nodes=nodes)
    return nodes


def main(args: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 if nothing could be done."""
    return run(lambda: _command(vars(parser().parse_args(args))))


def _command(given: dict[str, Any]) -> int:
    for name, what in (("model", "what to calibrate"), ("data", "a folder of photos to measure it on")):
        if given[name] is None:
            raise UsageError(f"--{name} must name {what}")
    options = {name: value for name, value in given.items() if value is not None}
    options.pop("config", None)
    loading = {name: options.pop(name) for name in loading_options() if name in options}
    return write_calibration(**options, loading=loading)
