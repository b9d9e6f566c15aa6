"""Training crops: random squares out of photos held in memory, at random scales, as a pure function of (seed, index).

Because sample `index` depends on nothing else, workers, resumed runs and several devices see the same stream of
samples as one uninterrupted process.  Not for evaluation: datasets.py gives whole images.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from .images import ImageError

_FILTERS = (Image.Resampling.BOX, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class CropSource:
    """Photos to crop from.

    photos     uint8 arrays [H, W, 3], all at least as large as the crops in both directions
    weight     share of the samples taken from this source, relative to the other sources
    downscale  largest factor by which a photo is shrunk before cropping; 1 takes every crop at the photo's own scale
    native     share of the crops taken at the photo's own scale, the others' factor is log-uniform in [1, downscale]
    """

    photos: Sequence[np.ndarray]
    weight: float = 1.0
    downscale: float = 1.0
    native: float = 0.3


class RandomCrops(Dataset[torch.Tensor]):
    """`samples` crops per epoch, uint8 [3, crop_size, crop_size]; any index >= 0 is valid and means the same always.

    A crop is cut out large and shrunk with an antialiasing filter (box as in the public ImageNet64, or bicubic, drawn
    at random so that a model does not learn one camera's sharpness), then flipped and turned at random.
    """

    def __init__(self, sources: Sequence[CropSource], crop_size: int, samples: int, seed: int = 0) -> None:
        """Raises ImageError when a source is empty, has no weight, or holds a photo smaller than a crop."""
        if not sources:
            raise ImageError("training crops need at least one source of photos")
        for source in sources:
            if not source.photos or source.weight <= 0:
                raise ImageError("every source of training crops needs photos and a positive weight")
            smallest = min(min(photo.shape[:2]) for photo in source.photos)
            if smallest < crop_size:
                raise ImageError(f"crops of {crop_size} pixels do not fit in a photo whose shorter side is {smallest}")
        weights = np.array([source.weight for source in sources], dtype=np.float64)
        self.sources = list(sources)
        self.crop_size = crop_size
        self.samples = samples
        self.seed = seed
        self._cumulative = np.cumsum(weights / weights.sum()).tolist()

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, index]))
        which = min(bisect_right(self._cumulative, rng.random()), len(self.sources) - 1)
        source = self.sources[which]
        photo = source.photos[int(rng.integers(len(source.photos)))]
        patch = random_crop(photo, self.crop_size, rng, source.downscale, source.native)
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        patch = np.rot90(patch, int(rng.integers(4)))
        return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))


class FixedCrops(Dataset[torch.Tensor]):
    """Validation crops: the same `samples` squares every time, neither flipped nor turned, uint8 [3, s, s].

    The photos are taken in turn, so that with `samples` = their number each gives one crop; a photo of exactly the
    crop's size (ImageNet64) is given whole.
    """

    def __init__(
        self, photos: Sequence[np.ndarray], crop_size: int, samples: int | None = None, downscale: float = 1.0
    ) -> None:
        """`samples` None means one per photo.  Raises ImageError as :class:`RandomCrops` does."""
        self._crops = RandomCrops([CropSource(photos)], crop_size, len(photos) if samples is None else samples)
        self.photos = photos
        self.downscale = downscale

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 0, index]))
        patch = random_crop(self.photos[index % len(self.photos)], self._crops.crop_size, rng, self.downscale)
        return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))


def random_crop(
    photo: np.ndarray, size: int, rng: np.random.Generator, downscale: float = 1.0, native: float = 0.3
) -> np.ndarray:
    """A random uint8 [size, size, 3] square of `photo` [H, W, 3], shrunk by a random factor of at most `downscale`.

    Only the pixels under the crop are resampled, which is why a crop costs the same out of any photo.
    """
    height, width = photo.shape[:2]
    largest = min(downscale, min(height, width) / size)
    factor = 1.0
    if largest > 1.0 and rng.random() >= native:
        factor = float(np.exp(rng.uniform(0.0, np.log(largest))))
    # Whole source pixels: the true factor becomes side / size, at most half a pixel away from the one drawn.
    side = min(max(round(size * factor), size), height, width)
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    patch = photo[top : top + side, left : left + side]
    if side == size:
        return patch
    resampling = _FILTERS[int(rng.integers(len(_FILTERS)))]
    return np.asarray(Image.fromarray(np.ascontiguousarray(patch)).resize((size, size), resampling))
