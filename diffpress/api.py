"""Images to bytes and back in one call, for Pillow, NumPy and PyTorch.

>>> import diffpress
>>> data = diffpress.compress(image, bpp=0.5)           # doctest: +SKIP
>>> image = diffpress.decompress(data)                  # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .codecs import CodecError, container
from .codecs.base import Codec, Header
from .codecs.registry import codec_class, codec_for, open_codec
from .codecs.targets import check_targets, encode_to
from .data.images import to_pil, to_rgb
from .lightning_modules import LOADING

Picture = Image.Image | NDArray[np.uint8] | torch.Tensor


def compress(
    image: Picture, codec: str = "diffc", *, model: str | None = None, device: str | None = None, **options: Any
) -> bytes:
    """The bytes of a file of `image`.

    image    a Pillow image; uint8 NumPy array [H, W, 3] or [H, W]; or uint8 torch tensor [3, H, W]
    codec    a name of codecs.registry
    model    folder, hub id or name as of load_model; None: the codec's own
    device   "cpu", "cuda", ...; None: a GPU where there is one
    options  of the codec's constructor (preset=..), of loading its model (dtype=..), and of encoding: bpp=, psnr=,
             bytes=, quality=, lossless=True, focus= and others of codecs.targets.encode_to and the codec's encode
    A codec once opened stays for the next call.  Raises CodecError, ModelError.
    """
    check_targets(codec, options)
    known = {*inspect.signature(codec_class(codec)).parameters, *LOADING}
    opening = tuple((name, value) for name, value in options.items() if name in known)
    encoding = {name: value for name, value in options.items() if name not in known}
    opened = _opened(codec, None, model, device, opening)
    return container.write(encode_to(opened, as_tensor(image), **encoding), opened)


@overload
def decompress(
    data: bytes, to: Literal["pillow"] = ..., *, segments: int | None = ..., model: str | None = ...,
    device: str | None = ..., **options: Any,
) -> Image.Image: ...  # fmt: skip
@overload
def decompress(
    data: bytes, to: Literal["numpy"], *, segments: int | None = ..., model: str | None = ...,
    device: str | None = ..., **options: Any,
) -> NDArray[np.uint8]: ...  # fmt: skip
@overload
def decompress(
    data: bytes, to: Literal["torch"], *, segments: int | None = ..., model: str | None = ...,
    device: str | None = ..., **options: Any,
) -> torch.Tensor: ...  # fmt: skip
def decompress(
    data: bytes, to: Literal["pillow", "numpy", "torch"] = "pillow", *, segments: int | None = None,
    model: str | None = None, device: str | None = None, **options: Any,
) -> Picture:  # fmt: skip
    """The image in the bytes of a file of our format: a Pillow image, an array [H, W, 3] or a tensor [3, H, W].

    segments       only the first ones; None: all
    model, device  as of `compress`; without a model, that of the shipped ones which wrote the file
    options        of the codec's constructor and of loading its model
    Raises CodecError, ModelError.
    """
    header, _, _ = container.peek(data)
    codec = _opened(header.codec, header.fingerprint, model, device, tuple(options.items()))
    image = codec.decode(container.read(data, codec), segments=segments).cpu()
    if to == "torch":
        return image
    return to_pil(image) if to == "pillow" else image.permute(1, 2, 0).contiguous().numpy()


def as_tensor(image: Picture) -> torch.Tensor:
    """uint8 [3, H, W] of what `compress` takes; raises CodecError, and ImageError for modes without an agreed range."""
    if isinstance(image, torch.Tensor):
        return image
    if isinstance(image, Image.Image):
        image = np.array(to_rgb(image))
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise CodecError("an image must be a Pillow image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W]")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, 2)
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


@lru_cache(maxsize=8)
def _opened(
    codec: str, fingerprint: bytes | None, model: str | None, device: str | None, options: tuple[tuple[str, Any], ...]
) -> Codec:
    """The codec; with the model of that fingerprint where there is one."""
    if fingerprint is None:
        return open_codec(codec, model, device, dict(options))
    return codec_for(Header(codec, 1, 1, fingerprint), model, device, dict(options))
