"""What is learned: noise schedules, networks, training modules and priors.

>>> from diffpress.lightning_modules import load_model
>>> prior = load_model("checkpoints/diffc-pixel")          # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffpress import resource

from .identity import ModelError, read_json
from .priors.components import HUB_ID, resolve_hub_id
from .priors.latent import as_dtype

__all__ = ["LOADING", "ModelError", "find_model", "load_model"]

# load_model's options beside the device, as command lines and codec specifications name them
LOADING = ("dtype", "variant", "refiner", "compile", "offload", "tile", "local_files_only")


def find_model(folder: str | Path, variant: str | None = None, local_files_only: bool = False) -> Path:
    """`folder` if it exists, else the shipped folder of that name (``checkpoints/`` may be left out), else the Hugging
    Face hub's model of that name ("organisation/model"), from the local cache or by download.

    variant, local_files_only  as in priors.components.resolve_hub_id
    Raises ModelError.
    """
    given = Path(folder)
    if given.is_dir():
        return given
    for relative in (str(folder), f"checkpoints/{folder}"):
        try:
            return resource(relative)
        except FileNotFoundError:
            continue
    if HUB_ID.fullmatch(str(folder)):
        return resolve_hub_id(str(folder), variant, local_files_only)
    raise ModelError(f"there is no model folder {str(folder)!r}")


def load_model(folder: str | Path, device: str | torch.device | None = None, **options: Any) -> Any:
    """The model in `folder`: a Prior for DiffC and bits-back, or a UQDM.

    What the folder is, its files say: ``model_index.json`` (diffusers pipeline), or ``config.json`` of our denoiser, a
    diffusers ``UNet2DModel``, our VDM or UQDM, or a published UQDM checkpoint (``config.json`` + ``checkpoint.pt``).
    device: "cpu", "cuda", ...; None takes a GPU where there is one.  `options` go to the model's constructor (dtype: a
    torch type or its name), but for local_files_only, which keeps the search for hub ids off the network.
    Raises ModelError in one sentence.
    """
    local_files_only = options.pop("local_files_only", False)
    path = find_model(folder, options.get("variant"), local_files_only)
    if isinstance(options.get("dtype"), str):
        options["dtype"] = as_dtype(options["dtype"], torch.float32)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        return _load_folder(path, place, options, local_files_only)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ModelError(f"{path} is a model without that option ({error})") from error


def _load_folder(path: Path, place: torch.device, options: dict[str, Any], local_files_only: bool) -> Any:
    if (path / "model_index.json").is_file():
        return _load_pipeline(path, place, options, local_files_only)
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


def _load_pipeline(path: Path, device: torch.device, options: dict[str, Any], local_files_only: bool) -> Any:
    kind = read_json(path / "model_index.json").get("_class_name")
    if kind in ("DDPMPipeline", "DDIMPipeline"):
        from .priors.pixel import UNet2DPrior

        return UNet2DPrior(path, device, **options)
    if options.get("refiner") is not None:
        if kind != "StableDiffusionXLPipeline":
            raise ModelError(f"a refiner belongs to SDXL, and {path} is a {kind}")
        options = options | {"refiner": find_model(options["refiner"], options.get("variant"), local_files_only)}
    if kind == "StableDiffusionPipeline":
        from .priors.stable_diffusion import StableDiffusionPrior

        return StableDiffusionPrior(path, device, **options)
    if kind == "StableDiffusionXLPipeline":
        from .priors.stable_diffusion import SDXLPrior

        return SDXLPrior(path, device, **options)
    if kind == "StableDiffusion3Pipeline":
        from .priors.flow import SD3Prior

        return SD3Prior(path, device, **options)
    if kind == "FluxPipeline":
        from .priors.flow import FluxPrior

        return FluxPrior(path, device, **options)
    raise ModelError(f"{path} holds a pipeline of an unknown kind ({kind})")
