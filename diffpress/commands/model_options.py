"""The options that compress, decompress and calibrate share: which model, and how it runs."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from ..lightning_modules import LOADING


def add_model_options(p: ArgumentParser, model_help: str) -> None:
    """--model, --device and what load_model takes."""
    p.add_argument("--model", type=str | None, help=model_help)
    p.add_argument("--device", type=str | None, help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    p.add_argument("--dtype", type=Literal["float32", "float16", "bfloat16"] | None,
                   help="precision of the networks (default: float32 on the CPU, the model's half precision on a GPU)")
    p.add_argument("--variant", type=str | None, help="weight files of a pipeline to take, e.g. fp16")
    p.add_argument("--refiner", type=str | None, help="SDXL: folder or hub id of the refiner")
    p.add_argument("--compile", type=bool | None, nargs="?", const=True, help="run the network through torch.compile")
    p.add_argument("--offload", type=Literal["none", "model", "layers"] | None,
                   help="pipelines: keep what is not running in main memory, as whole models or layer by layer")
    p.add_argument("--tile", type=int | None, help="pipelines: image side above which the autoencoder works in tiles")
    p.add_argument("--local-files-only", type=bool | None, nargs="?", const=True,
                   help="look a hub id up in the local cache alone (as HF_HUB_OFFLINE=1)")


def loading_options(given: Namespace) -> dict[str, Any]:
    """The options given for load_model, device aside."""
    return {name: given[name] for name in LOADING if given[name] is not None}
