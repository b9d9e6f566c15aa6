"""From what training leaves to a model folder: ``python train.py export CHECKPOINT FOLDER``.

Our Lightning checkpoints say in an entry "diffpress" (JSON) which kind of model they hold and of what shape, so that
they are read as tensors and plain values alone, without unpickling anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .. import uqdm, vdm
from ..identity import ModelError
from ..networks.denoiser import Denoiser
from .integers import integer_denoiser, photos
from .pixel_diffusion import PixelDiffusion, read_checkpoint, refused_as
from .published_checkpoints import is_published


def export(
    checkpoint: Path, folder: Path, half: bool = False, integers: Path | None = None, last: bool = False
) -> None:
    """Write the model of a training run as a folder that compress.py and load_model accept.

    checkpoint  a .ckpt file of `train.py fit` for the denoiser, UQDM or VDM, whose averaged weights are taken where the
                run averaged them; or a folder with a UQDM as its authors distribute it (config.json, checkpoint.pt)
    folder      the model folder, which is made
    half        store the network in half precision
    last        take the weights of the last step, not their average
    integers    make a denoiser one in integers (integers.py), with exponents chosen on photos of this folder

    Raises ModelError where the checkpoint cannot be read or is of another kind.
    """
    if checkpoint.is_dir():
        if not is_published(checkpoint):
            raise ModelError(f"{checkpoint} is a model folder already")
        uqdm.load_uqdm(checkpoint).save_folder(folder, half)
        return
    state = read_checkpoint(checkpoint)
    with refused_as(f"{checkpoint} is no checkpoint of a denoiser, UQDM or VDM"):
        config = _description(state)
        kind = config.pop("_class_name")
        # weight averaging (averaging.py) stores the averages as "state_dict" and the current weights beside them
        weights = state["current_model_state" if last else "state_dict"]
        if kind == "Denoiser":
            log_snr_range = config.pop("log_snr_range")
            own = {name[8:]: value for name, value in weights.items() if name.startswith("network.")}
            network = Denoiser.of_state(config, own).to(torch.float16 if half else torch.float32)
            if integers is None:
                network.save(folder)
            else:
                integer_denoiser(network, photos(integers), log_snr_range).save(folder)
            (folder / "prior.json").write_text(json.dumps({"log_snr": [log_snr_range[1], log_snr_range[0]]}) + "\n")
        elif kind in MODULES:
            module = MODULES[kind].from_config(config)
            module.load_state_dict(weights)
            module.save_folder(folder, half)
        else:
            raise ValueError(f"it holds a model of kind {kind}")


MODULES: dict[str, type[PixelDiffusion]] = {cls.kind: cls for cls in (uqdm.UQDM, vdm.VDM)}


def _description(state: dict[str, Any]) -> dict[str, Any]:
    """The entry "diffpress" of a checkpoint, or what denoisers wrote instead before they had it."""
    if "diffpress" in state:
        return json.loads(state["diffpress"])
    return {"_class_name": "Denoiser", **state["hyper_parameters"]}
