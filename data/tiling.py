"""Padding, cropping and tiling of images of any size: the one place for it.

Not for reading files (images.py) and not for choosing training crops (crops.py).

>>> import torch
>>> image = torch.zeros(3, 37, 91, dtype=torch.uint8)
>>> tiles = tile(image, 64)
>>> tiles.shape
torch.Size([2, 3, 64, 64])
>>> untile(tiles, (37, 91)).shape
torch.Size([3, 37, 91])
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def pad_to(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`image` [..., H, W] of any dtype grown to [..., height, width] by repeating its last row and column.

    Raises ValueError if the image is larger than the target or has no pixels.
    """
    h, w = image.shape[-2:]
    if h == 0 or w == 0:
        raise ValueError("an image without pixels cannot be padded")
    if height < h or width < w:
        raise ValueError(f"cannot pad a {w} x {h} image to {width} x {height}")
    # index_select works for every dtype and any number of leading dimensions; F.pad(mode="replicate") does not.
    if height > h:
        image = image.index_select(-2, torch.arange(height, device=image.device).clamp_(max=h - 1))
    if width > w:
        image = image.index_select(-1, torch.arange(width, device=image.device).clamp_(max=w - 1))
    return image


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """`image` [..., H, W] grown at the bottom and right, edge-replicated, until both sides divide by `multiple`."""
    h, w = image.shape[-2:]
    return pad_to(image, _round_up(h, multiple), _round_up(w, multiple))


def mirror_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """`image` [..., H, W] grown at the bottom and right until both sides divide by `multiple`, by rows and columns
    0, 1, .. n - 1, n - 1, n - 2, ..: for noisy images, because mirrored noise is still noise."""
    for axis in (-2, -1):
        size = image.shape[axis]
        place = torch.arange(_round_up(size, multiple), device=image.device) % (2 * size)
        if len(place) > size:
            image = image.index_select(axis, torch.minimum(place, 2 * size - 1 - place))
    return image


def crop(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The top left (H, W) = `size` of `image` [..., H', W']: undoes :func:`pad_to_multiple`."""
    height, width = size
    if height > image.shape[-2] or width > image.shape[-1]:
        raise ValueError(f"cannot crop {width} x {height} out of {image.shape[-1]} x {image.shape[-2]}")
    return image[..., :height, :width]


def tile_grid(size: tuple[int, int], tile_size: int) -> tuple[int, int]:
    """(rows, columns) of tiles that cover an image of (H, W) = `size`."""
    return -(-size[0] // tile_size), -(-size[1] // tile_size)


def tile(image: torch.Tensor, size: int) -> torch.Tensor:
    """Cut `image` [C, H, W] into N tiles [N, C, size, size], row by row; the last ones are edge-replicated."""
    padded = pad_to_multiple(image, size)
    channels, h, w = padded.shape
    rows, columns = h // size, w // size
    tiles = padded.reshape(channels, rows, size, columns, size).permute(1, 3, 0, 2, 4)
    return tiles.reshape(rows * columns, channels, size, size).contiguous()


def untile(tiles: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The image [C, H, W] of (H, W) = `size` that :func:`tile` cut into `tiles` [N, C, s, s].

    Raises ValueError if the number of tiles does not match the size.
    """
    count, channels, side, _ = tiles.shape
    rows, columns = tile_grid(size, side)
    if count != rows * columns:
        raise ValueError(f"an image of {size[1]} x {size[0]} has {rows * columns} tiles of {side}, got {count}")
    grid = tiles.reshape(rows, columns, channels, side, side).permute(2, 0, 3, 1, 4)
    return crop(grid.reshape(channels, rows * side, columns * side), size).contiguous()


def apply_tiled(
    fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, tile_size: int, overlap: int
) -> torch.Tensor:
    """``fn(x)`` computed piece by piece, for images whose activations would not fit in memory.

    fn         maps [..., C, h, w] to [..., C', h, w]; position-independent, as a convolutional network is
    x          [..., C, H, W]
    tile_size  side of the square that each call contributes to the result
    overlap    context in pixels that each call sees around its square, cut off at the image's border

    Equal to ``fn(x)`` (up to the order of floating-point sums) when no output pixel depends on inputs further than
    `overlap` away, because then every kept pixel saw all of its neighbourhood, image borders included.  For a network
    that strides or pools by k, `tile_size` and `overlap` must be multiples of k.
    """
    if tile_size < 1 or overlap < 0:
        raise ValueError("tile_size must be positive and overlap must not be negative")
    h, w = x.shape[-2:]
    if h <= tile_size and w <= tile_size:
        return fn(x)
    result: torch.Tensor | None = None
    for top in range(0, h, tile_size):
        for left in range(0, w, tile_size):
            bottom, right = min(top + tile_size, h), min(left + tile_size, w)
            y0, x0 = max(top - overlap, 0), max(left - overlap, 0)
            piece = fn(x[..., y0 : min(bottom + overlap, h), x0 : min(right + overlap, w)])
            if result is None:
                result = piece.new_empty((*piece.shape[:-2], h, w))
            result[..., top:bottom, left:right] = piece[..., top - y0 : bottom - y0, left - x0 : right - x0]
    assert result is not None  # h, w >= 1: the loop ran
    return result


def _round_up(value: int, multiple: int) -> int:
    if multiple < 1:
        raise ValueError(f"a multiple must be positive, got {multiple}")
    return -(-value // multiple) * multiple
