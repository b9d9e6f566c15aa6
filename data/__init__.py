"""Images in: files, data sets, training crops, the one LightningDataModule, tiling and padding.

Imports nothing else of the project.

>>> from diffpress.data import load_data, read_image, pad_to_multiple
"""

from typing import TYPE_CHECKING, Any

from .crops import CropSource, FixedCrops, RandomCrops
from .datasets import ImageFolder, load_data, load_photos
from .imagenet64 import ImageNet64
from .images import ImageError, list_images, read_image, save_image, write_file
from .tiling import apply_tiled, crop, pad_to, pad_to_multiple, tile, untile

if TYPE_CHECKING:
    from .module import ImageData, Source

__all__ = [
    "CropSource", "FixedCrops", "ImageData", "ImageError", "ImageFolder", "ImageNet64", "RandomCrops", "Source",
    "apply_tiled", "crop", "list_images", "load_data", "load_photos", "pad_to", "pad_to_multiple", "read_image",
    "save_image", "tile", "untile", "write_file",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The data module on first use: it brings in Lightning, which takes seconds that compress.py need not spend."""
    if name in ("ImageData", "Source"):
        from . import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
