"""Metrics beyond PSNR and SSIM, by name: programs (programs.py), and those that need trained weights.

The latter come through pyiqa and torchmetrics, the optional extra ``metrics``, which download weights on first use:
lpips, dists  distance of decoded image and original, lower is better
clip          100 x cosine of the two images' CLIP embeddings
qalign        realism of the decoded image alone, 1 (bad) .. 5 (excellent)
fid           Fréchet distance of the sets of decoded images and originals: needs many images to mean anything
patch-fid     the same of all their whole 64 x 64 patches: for small sets of large images, as Kodak

A metric that cannot be had is absent, and one line says why; a figure is never replaced by another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...codecs import CodecError
from ...data import list_images, read_image, save_image
from ...data.tiling import tile
from ..records import sentence
from .fidelity import ExtraMetric
from .programs import libjxl, libvmaf

SetMetric = Callable[[Path, Path], float]
PATCH = 64


@dataclass
class LearnedMetrics:
    """Those that could be had: per image, per set of images (folders of decoded and of original PNG files); notes."""

    image: dict[str, ExtraMetric] = field(default_factory=dict)
    sets: dict[str, SetMetric] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_metrics(names: Sequence[str], device: str = "cpu") -> LearnedMetrics:
    """Load the metrics `names` on "cpu", "cuda" or "auto"; one that cannot be had becomes a note.

    Raises CodecError for unknown names.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = LearnedMetrics()
    for name in names:
        if name not in LOADERS:
            raise CodecError(f"unknown metric {name!r}; available: {', '.join(LOADERS)}")
        try:
            metric = LOADERS[name](device)
        except ImportError as error:
            loaded.notes.append(f"{name}: absent ({error.name} is not installed: pip install 'diffpress[metrics]')")
        except CodecError as error:
            loaded.notes.append(f"{name}: absent ({error})")
        except Exception as error:  # hub clients fail in many ways; all of them mean that there are no weights
            loaded.notes.append(f"{name}: absent (weights cannot be had: {_first_line(error)})")
        else:
            if name in SET_METRICS:
                loaded.sets[name] = metric
            else:
                loaded.image[name] = _guarded(name, metric, loaded.notes)
    return loaded


def _guarded(name: str, metric: ExtraMetric, notes: list[str]) -> ExtraMetric:
    """`metric`, undefined for an image that it fails on; the first failure becomes a note."""

    def guarded(decoded: Tensor, original: Tensor) -> float | None:
        try:
            with torch.no_grad():
                return metric(decoded, original)
        except Exception as error:  # as loading; the image's other figures stand
            if not any(note.startswith(f"{name}: failed") for note in notes):
                notes.append(f"{name}: failed, first on an image of {tuple(decoded.shape[1:])} ({sentence(error)})")
            return None

    return guarded


def _load_pyiqa(name: str, device: str) -> Any:
    import pyiqa

    return pyiqa.create_metric(name, device=torch.device(device))


def _load_distance(name: str, device: str) -> ExtraMetric:
    metric = _load_pyiqa(name, device)
    return lambda decoded, original: float(metric(_unit(decoded, device), _unit(original, device)))


def _load_qalign(device: str) -> ExtraMetric:
    metric = _load_pyiqa("qalign", device)
    return lambda decoded, original: float(metric(_unit(decoded, device)))


def _load_clip(device: str) -> ExtraMetric:
    from torchmetrics.multimodal import CLIPScore

    metric = CLIPScore("openai/clip-vit-base-patch32").to(device)
    return lambda decoded, original: float(metric(decoded[None].to(device), original[None].to(device)))


def _load_fid(device: str) -> SetMetric:
    metric = _load_pyiqa("fid", device)
    return lambda decoded, original: float(metric(str(decoded), str(original)))


def _load_patch_fid(device: str) -> SetMetric:
    whole = _load_fid(device)

    def distance(decoded: Path, original: Path) -> float:
        with tempfile.TemporaryDirectory() as folder:
            a, b = Path(folder) / "decoded", Path(folder) / "original"
            cut_patches(decoded, a)
            cut_patches(original, b)
            return whole(a, b)

    return distance


def cut_patches(images: Path, out: Path) -> int:
    """Write every whole 64 x 64 patch of the images in a folder as PNG; returns how many."""
    count = 0
    for path in list_images(images):
        image = read_image(path)
        height, width = image.shape[1] // PATCH * PATCH, image.shape[2] // PATCH * PATCH
        for patch in tile(image[:, :height, :width], PATCH) if height and width else ():
            save_image(patch, out / f"{count:06d}.png")
            count += 1
    return count


LOADERS: dict[str, Callable[[str], Any]] = {
    "ssimulacra2": lambda device: libjxl("ssimulacra2"),
    "butteraugli": lambda device: libjxl("butteraugli_main"),
    "vmaf": lambda device: libvmaf("vmaf"),
    "psnr-hvs": lambda device: libvmaf("psnr_hvs"),
    "lpips": partial(_load_distance, "lpips"),
    "dists": partial(_load_distance, "dists"),
    "clip": _load_clip,
    "qalign": _load_qalign,
    "fid": _load_fid,
    "patch-fid": _load_patch_fid,
}
SET_METRICS = ("fid", "patch-fid")


def _unit(image: Tensor, device: str) -> Tensor:
    """uint8 [3, H, W] as float [1, 3, H, W] in 0..1."""
    return image[None].to(device).float() / 255


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
