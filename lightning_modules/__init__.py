"""What is learned: noise schedules, networks, training modules and priors.

>>> from diffpress.lightning_modules import load_model
>>> prior = load_model("checkpoints/diffc-pixel")          # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import resource
from .priors.fingerprint import ModelError, read_json

__all__ = ["ModelError", "find_model", "load_model"]


def find_model(folder: str | Path) -> Path:
    """`folder` if it exists, else the shipped folder of that name (``checkpoints/`` may be left out)."""
    given = Path(folder)
    if given.is_dir():
        return given
    for relative in (str(folder), f"checkpoints/{folder}"):
        try:
            return resource(relative)
        except FileNotFoundError:
            continue
    raise ModelError(f"there is no model folder {str(folder)!r}")


def load_model(folder: str | Path, device: str | torch.device | None = None, **options: Any) -> Any:
    """The model in `folder`: a Prior for DiffC and bits-back, or a UQDM.

    What the folder is, its files say: ``model_index.json`` (diffusers pipeline), or ``config.json`` of our denoiser, a
    diffusers ``UNet2DModel``, our VDM or UQDM, or a published UQDM checkpoint (``config.json`` + ``checkpoint.pt``).
    device: "cpu", "cuda", ...; None takes a GPU where there is one.  `options` go to the model's constructor.
    Raises ModelError in one sentence.
    """
    path = find_model(folder)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if (path / "model_index.json").is_file():
        return _load_pipeline(path, place, options)
    config = read_json(path / "config.json")
    kind = config.get("_class_name", "UQDM" if "model" in config else None)
    if kind == "Denoiser":
        from .priors.pixel import DenoiserPrior

        return DenoiserPrior(path, place, **options)
    if kind == "UNet2DModel":
        from .priors.pixel import UNet2DPrior

        return UNet2DPrior(path, place, **options)
    if kind == "UQDM":
        from .uqdm import load_uqdm

        return load_uqdm(path, device=place, **options)
    if kind == "VDM":
        from .priors.vdm import VDMPrior

        return VDMPrior(path, place, **options)
    raise ModelError(f"{path} holds a model of an unknown kind ({kind})")


def _load_pipeline(path: Path, device: torch.device, options: dict[str, Any]) -> Any:
    kind = read_json(path / "model_index.json").get("_class_name")
    if kind in ("DDPMPipeline", "DDIMPipeline"):
        from .priors.pixel import UNet2DPrior

        return UNet2DPrior(path, device, **options)
    raise ModelError(f"{path} holds a pipeline of an unknown kind ({kind})")
