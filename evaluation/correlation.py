"""Rank correlation of metrics with people's opinion scores over a PIPAL-style folder (Table 2 of the DiffC paper).

Layout: ``Train_Ref/`` or ``Ref/`` with originals ``A0001.bmp``, any number of folders with distorted images named
``A0001_..._....bmp`` after their original, and a folder (``Train_Label/`` or ``Label/``) of text files with lines
``NAME,SCORE``.  PIPAL itself cannot be redistributed; any folder of this form will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from ..data import ImageError, read_image
from ..data.images import SUFFIXES
from ..lightning_modules.priors.interface import Prior
from .metrics import MAX_PSNR, ExtraMetric, psnr


@dataclass(frozen=True)
class Opinion:
    """A distorted image, its original, and its mean opinion score (higher is better)."""

    distorted: Path
    original: Path
    score: float


def read_opinions(folder: Path) -> list[Opinion]:
    """All scored images of a PIPAL-style folder.  Raises ImageError when parts of the layout are missing."""
    originals = _first_folder(folder, ("Train_Ref", "Ref"))
    labels = _first_folder(folder, ("Train_Label", "Label"))
    images = {path.name: path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
    references = {path.stem: path for path in originals.iterdir() if path.suffix.lower() in SUFFIXES}
    opinions = []
    for file in sorted(labels.glob("*.txt")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip():
                continue
            name, _, score = line.partition(",")
            original = references.get(Path(name.strip()).stem.split("_")[0])
            if name.strip() not in images or original is None:
                raise ImageError(f"{file}, line {number}: {name.strip()} or its original is not in {folder}")
            try:
                opinions.append(Opinion(images[name.strip()], original, float(score)))
            except ValueError:
                raise ImageError(f"{file}, line {number}: {score.strip()!r} is not a score") from None
    if len(opinions) < 3:
        raise ImageError(f"{labels}: fewer than three opinion scores")
    return opinions


def correlate(
    opinions: list[Opinion],
    metrics: Mapping[str, ExtraMetric],
    tick: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """|Spearman correlation| of each metric with the opinion scores, over all images that it is defined for."""
    values: dict[str, list[float | None]] = {name: [] for name in metrics}
    original: tuple[Path, Tensor] | None = None
    for opinion in opinions:
        if original is None or original[0] != opinion.original:
            original = (opinion.original, read_image(opinion.original))
        distorted = read_image(opinion.distorted)
        for name, metric in metrics.items():
            values[name].append(metric(distorted, original[1]))
        tick()
    scores = np.array([opinion.score for opinion in opinions])
    result = {}
    for name, column in values.items():
        defined = np.array([value is not None for value in column])
        if defined.sum() >= 3:
            result[name] = abs(spearman(np.array([v for v in column if v is not None]), scores[defined]))
    return result


def psnr_metric(decoded: Tensor, original: Tensor) -> float:
    """PSNR with an exact copy at MAX_PSNR, so that it can be ranked."""
    return min(psnr(decoded, original), MAX_PSNR)


def latent_distance(prior: Prior) -> ExtraMetric:
    """Root mean squared distance of the two images' latents under a latent prior's autoencoder."""

    def distance(decoded: Tensor, original: Tensor) -> float:
        a, b = prior.encode(decoded[None]), prior.encode(original[None])
        return float((a - b).double().square().mean().sqrt())

    return distance


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 when one side is constant."""
    if min(np.ptp(a), np.ptp(b)) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise ImageError(f"{folder}: no folder {' or '.join(names)}; expected the layout of PIPAL")
