"""The checkpoints that the authors of UQDM distribute: config.json beside checkpoint.pt.

checkpoint.pt holds raw network weights ("model") and a list of averaged tensors ("ema"): one per network parameter, in
order, and last those of the noise schedule, which is learned but stored nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..diffusion.noise_schedule import ScheduleConfig
from ..diffusion.universal_quantization import BasePrior
from ..identity import fingerprint, of_raw_weights, read_json
from .pixel_diffusion import Module, read_checkpoint, refused_as

T = TypeVar("T")

# Names in a published configuration, and what they are here.
_SCHEDULES = {"learned_linear": True, "fixed_linear": False}
_PRIORS: dict[str, BasePrior] = {"logistic": "logistic", "gaussian": "gaussian", "normal": "gaussian"}
_SCALES = {name: name for name in ("forward_kernel", "posterior")}

# The stored optimiser settings contain one NumPy float, under its name in NumPy 1 or 2; nothing else beyond tensors is
# let through.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_ALLOWED: list[Any] = [_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]


def is_published(folder: str | Path) -> bool:
    """Whether `folder` has the published form rather than ours.  ModelError if it holds no config.json."""
    return "restore_ckpt" in read_json(Path(folder) / "config.json")


def our_config(config: dict[str, Any]) -> dict[str, Any]:
    """UQDM.model_config() of what a published configuration (the contents of its config.json) describes.

    Raises KeyError or ValueError where it lacks something or names something unknown.
    """
    m = config["model"]
    shared = ("n_channels", "embedding_dim", "n_blocks", "norm_groups", "n_attention_heads", "attention_everywhere",
              "use_fourier_features", "dropout_prob", "gamma_min", "gamma_max")  # fmt: skip
    learned = _known("noise_schedule", m["noise_schedule"], _SCHEDULES)
    schedule = ScheduleConfig(m["gamma_min"], m["gamma_max"], learned, bool(m.get("fix_gamma_max")))
    return {
        "network": {name: m[name] for name in shared},
        "schedule": asdict(schedule),
        "n_steps": m["n_timesteps"],
        "base_prior": _known("prior_type", m["prior_type"], _PRIORS),
        "base_prior_scale": _known("base_prior_scale", m.get("base_prior_scale") or "forward_kernel", _SCALES),
        "learned_prior_scale": bool(m.get("learned_prior_scale")),
    }


def _known(name: str, value: Any, meanings: dict[str, T]) -> T:
    if value not in meanings:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(meanings)}")
    return meanings[value]


def load_published(folder: str | Path, cls: type[Module], averaged: bool = True) -> Module:
    """The UQDM, the class `cls`, in a published `folder`, on the CPU; `averaged` as in uqdm.load_uqdm.

    Raises ModelError for a configuration that describes no UQDM, and for tensors that are missing or do not fit it.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    with refused_as(f"{folder / 'config.json'} describes no published UQDM"):
        model = cls.from_config(our_config(config))
    path = folder / str(config["restore_ckpt"])
    with torch.serialization.safe_globals(_ALLOWED):
        checkpoint = read_checkpoint(path)
    with refused_as(f"the tensors in {path} do not fit the configuration"), torch.no_grad():
        if averaged:
            # In the order of parameters(): the network's, then the schedule's ("b" before "w" where both are learned).
            targets = [*model.network.parameters(), *model.schedule.parameters()]
            values = checkpoint["ema"]["shadow_params"]
            if [p.shape for p in targets] != [v.shape for v in values]:
                raise ValueError(f"{len(values)} averaged tensors, {len(targets)} parameters, or other shapes")
            for parameter, value in zip(targets, values, strict=True):
                parameter.copy_(value)
        else:
            model.network.load_state_dict(checkpoint["model"])
    # Both forms come from the same files and are different models.
    name = fingerprint(folder)
    model.folder_fingerprint = name if averaged else of_raw_weights(name)
    return model
