"""Finding and loading diffusers pipelines: hub ids, missing parts, fingerprints; every failure in one sentence.

Not for running them (latent.py).  Weights are safetensors only; nothing that is not needed for coding (safety checker,
feature extractor, image encoder) is downloaded or loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ..identity import ModelError, fingerprint_pipeline, read_json, weight_files

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def resolve_hub_id(name: str, variant: str | None = None, local_files_only: bool = False) -> Path:
    """Folder of the hub's pipeline `name` ("organisation/model"), downloaded if it is not in the cache yet.

    variant           take weights with this in their file names ("fp16") instead of those without
    local_files_only  do not use the network; the environment's HF_HUB_OFFLINE=1 means the same
    Raises ModelError.
    """
    weights = f"*/*.{variant}*.safetensors" if variant else "*/*.safetensors"
    ignore = [f"{part}/*" for part in UNUSED] + ["*.non_ema*"] + ([] if variant else ["*.fp16*", "*.bf16*"])
    texts = ["*/*.json", "*/*.jinja", "*/*.txt", "*/*.model"]  # jinja: chat templates of text encoders that chat
    return download(name, ["model_index.json", *texts, weights], ignore, local_files_only)


def download(name: str, files: list[str], ignore: list[str] | None = None, local_files_only: bool = False) -> Path:
    """Folder with those `files` (patterns) of the hub's model `name` that are not in `ignore`, downloaded if need be.

    Raises ModelError.
    """
    from huggingface_hub import errors, snapshot_download

    # The hub's errors are also its HTTP client's, whichever client that is; a dropped connection is only the latter's
    # and no OSError.  Where large files come by xet, that is a RuntimeError.
    dropped: Any = (OSError, RuntimeError, *errors.HfHubHTTPError.__bases__)
    try:
        folder = snapshot_download(
            name, allow_patterns=files, ignore_patterns=ignore, local_files_only=local_files_only
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated: accept its licence on huggingface.co and log in with `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelError(f"there is no model {name!r}, neither as a folder nor on the Hugging Face hub") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"there is no folder {name!r}, the Hugging Face hub's model of that name is not in the local cache, "
            "and the hub is switched off or cannot be reached"
        ) from error
    except dropped as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"{name} cannot be downloaded: {reason}") from error
    return Path(folder)


def load_pipeline(
    folder: Path, dtype: torch.dtype, variant: str | None = None, **given: Any
) -> tuple[Any, str | None, bytes]:
    """(diffusers pipeline on the CPU, weight variant found, fingerprint of what was loaded) of `folder`.

    dtype  of all networks; a VAE that overflows in half precision (force_upcast) is loaded in float32
    given  components not to load but to use as they are; None leaves one out
    Raises ModelError for missing or unreadable parts.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar
    from transformers.utils.logging import disable_progress_bar as disable_weights_bar

    disable_progress_bar()
    disable_weights_bar()
    index = read_json(folder / "model_index.json")
    parts = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] and name not in UNUSED]
    own = [name for name in parts if name not in given]
    for part in own:
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} has no {part} folder, which its model_index.json announces")
    variant = variant or _find_variant(folder, own)
    for part in own:
        if (folder / part / "config.json").is_file() and not list(weight_files(folder / part, variant)):
            kind = f"{variant} " if variant else ""
            raise ModelError(f"{folder} has no {kind}safetensors weights for its {part}")
    vae = read_json(folder / "vae" / "config.json") if "vae" in own else {}
    upcast = dtype == torch.float16 and vae.get("force_upcast", False)
    left_out = {part: None for part in UNUSED if part in index}
    if "requires_safety_checker" in index:
        left_out["requires_safety_checker"] = False  # type: ignore[assignment]
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            folder,
            dtype={"default": dtype, "vae": torch.float32} if upcast else dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            **left_out,
            **given,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    except Exception as error:  # safetensors raises its own class, straight from Exception, for damaged files
        if type(error).__name__ != "SafetensorError":
            raise
        raise ModelError(f"{folder} holds damaged weights: {error}") from error
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name not in given:
            part.eval().requires_grad_(False)
    return pipeline, variant, fingerprint_pipeline(folder, own, variant)


def _find_variant(folder: Path, parts: list[str]) -> str | None:
    """None where plain weights exist, "fp16" or "bf16" where only those do."""
    core = next((part for part in ("unet", "transformer") if part in parts), None)
    if core is None:
        return None
    for variant in (None, "fp16", "bf16"):
        if list(weight_files(folder / core, variant)):
            return variant
    return None
