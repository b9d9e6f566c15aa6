"""Finding and loading models: what a folder holds, and the class that reads it.

Models are imported where they are needed, because diffusers and Lightning take seconds to import.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffpress import resource

from .identity import ModelError, model_files, read_json
from .priors.components import HUB_ID, resolve_hub_id
from .priors.latent import as_dtype

# load_model's options beside the device, as command lines and codec specifications name them
LOADING = ("dtype", "variant", "refiner", "compile", "offload", "tile", "local_files_only")

NAME = re.compile(r"([\w.]+|.+\.py):\w+")  # MODULE:NAME or FILE.py:NAME

# "_class_name" in config.json or model_index.json -> "module:loader", called with (folder, device, **options)
MODELS = {
    "Denoiser": ".priors.pixel:DenoiserPrior",
    "IntegerDenoiser": ".priors.pixel:IntegerPrior",
    "UNet2DModel": ".priors.pixel:UNet2DPrior",
    "UQDM": ".uqdm:load_uqdm",
    "VDM": ".priors.vdm:VDMPrior",
}
PIPELINES = {
    "ConsistencyModelPipeline": ".priors.adapters:consistency_model",
    "DDPMPipeline": ".priors.pixel:UNet2DPrior",
    "DDIMPipeline": ".priors.pixel:UNet2DPrior",
    "StableDiffusionPipeline": ".priors.stable_diffusion:StableDiffusionPrior",
    "StableDiffusionXLPipeline": ".priors.stable_diffusion:SDXLPrior",
    "StableDiffusion3Pipeline": ".priors.flow:SD3Prior",
    "FluxPipeline": ".priors.flow:FluxPrior",
}


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
    """The model in `folder`: a Prior for DiffC and bits-back, or a UQDM; or the denoiser that a name stands for
    (priors.adapters: "deepinv:DRUNet", "package.module:function", "file.py:function").

    What the folder is, its files say: ``model_index.json`` (diffusers pipeline), or ``config.json`` of our denoiser, a
    diffusers ``UNet2DModel``, our VDM or UQDM, or a published UQDM checkpoint (``config.json`` + ``checkpoint.pt``).
    device: "cpu", "cuda", ...; None takes a GPU where there is one.  `options` go to the model's constructor (dtype: a
    torch type or its name), but for local_files_only, which keeps the search for hub ids off the network.
    Raises ModelError in one sentence.
    """
    local_files_only = options.pop("local_files_only", False)
    if is_name(folder):
        from .priors.adapters import named_prior

        for option in options:
            raise ModelError(f"{folder} is a model without the option {option}")
        return named_prior(str(folder), _place(device))
    path = find_model(folder, options.get("variant"), local_files_only)
    if isinstance(options.get("dtype"), str):
        options["dtype"] = as_dtype(options["dtype"], torch.float32)
    before = _state(path)
    try:
        model = _load_folder(path, _place(device), options, local_files_only)
        if _state(path) != before:  # its fingerprint would be of other weights than those that were loaded
            raise ModelError(f"{path} was changed while it was read; try again")
        return model
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ModelError(f"{path} is a model without that option ({error})") from error


def _state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Inode, time of the last change and size of a model's files: nearly as good as their contents, and quick."""
    found = ((path, path.stat()) for path in model_files(folder))
    return {path: (about.st_ino, about.st_mtime_ns, about.st_size) for path, about in found}


def is_name(model: str | Path) -> bool:
    """Whether `model` names Python code (priors.adapters.named_prior) rather than a folder."""
    return NAME.fullmatch(str(model)) is not None and not Path(model).is_dir()


def _place(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (AssertionError, RuntimeError):  # unknown word, no driver, a number too high, PyTorch built without CUDA
        raise ModelError(f"PyTorch finds no device {str(device)!r} here; leave the device out, or take cpu") from None
    return place


def _load_folder(folder: Path, device: torch.device, options: dict[str, Any], local_files_only: bool) -> Any:
    pipeline = (folder / "model_index.json").is_file()
    config = read_json(folder / ("model_index.json" if pipeline else "config.json"))
    kind = str(config.get("_class_name", "UQDM" if "model" in config and not pipeline else None))
    if pipeline and options.get("refiner") is not None:
        if kind != "StableDiffusionXLPipeline":
            raise ModelError(f"a refiner belongs to SDXL, and {folder} is a {kind}")
        options = options | {"refiner": find_model(options["refiner"], options.get("variant"), local_files_only)}
    where = (PIPELINES if pipeline else MODELS).get(kind, ".priors.pipeline:PipelinePrior" if pipeline else None)
    if where is None:
        raise ModelError(f"{folder} holds a {'pipeline' if pipeline else 'model'} of an unknown kind ({kind})")
    module, _, loader = where.partition(":")
    return getattr(import_module(module, __package__), loader)(folder, device, **options)
