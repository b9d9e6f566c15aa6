"""Padding, cropping and tiling give every pixel back, for every size and type."""

import pytest
import torch

from diffpress.data import apply_tiled, crop, pad_to, pad_to_multiple, tile, untile
from diffpress.data.tiling import mirror_to_multiple


@pytest.mark.parametrize("size", [(1, 1), (37, 91), (65, 64), (64, 64), (3, 200)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tiles_give_the_image_back(size: tuple[int, int], dtype: torch.dtype) -> None:
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    tiles = tile(image, 64)
    assert tiles.shape == (-(-size[0] // 64) * -(-size[1] // 64), 3, 64, 64)
    assert torch.equal(untile(tiles, size), image)


def test_tiles_are_row_major_and_edges_repeat() -> None:
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3).expand(3, 2, 3)
    tiles = tile(image, 2)
    assert tiles.shape == (2, 3, 2, 2)
    assert tiles[1, 0].tolist() == [[2, 2], [5, 5]]


def test_padding_repeats_the_last_row_and_column_and_crop_undoes_it() -> None:
    image = torch.rand(2, 3, 5, 6)
    padded = pad_to_multiple(image, 8)
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(padded[..., :5, 7], image[..., :, 5])
    assert torch.equal(padded[..., 7, :6], image[..., 4, :])
    assert torch.equal(crop(padded, (5, 6)), image)
    assert pad_to_multiple(image, 1) is image


def test_mirroring_repeats_whole_images_where_one_is_not_enough() -> None:
    row = torch.arange(3.0).expand(2, 1, 3)
    assert mirror_to_multiple(row, 8)[0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert mirror_to_multiple(row, 8).shape == (2, 8, 8)
    assert mirror_to_multiple(row, 1) is row


def test_impossible_sizes_are_refused() -> None:
    image = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match="cannot pad"):
        pad_to(image, 3, 8)
    with pytest.raises(ValueError, match="cannot crop"):
        crop(image, (5, 4))
    with pytest.raises(ValueError, match="without pixels"):
        pad_to(torch.zeros(3, 0, 4), 8, 8)
    with pytest.raises(ValueError, match="has 4 tiles"):
        untile(torch.zeros(3, 3, 2, 2), (4, 4))


@pytest.mark.parametrize("size", [(50, 70), (16, 16), (1, 100)])
def test_tiled_network_equals_untiled_network(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    # receptive radius 2 (5 x 5) + 2 (3 x 3 dilated by 2) = 4 pixels
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.GELU(), torch.nn.Conv2d(8, 4, 3, padding=2, dilation=2)
    )
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        whole, tiled = net(x), apply_tiled(net, x, 16, 8)
    assert tiled.shape == whole.shape
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_too_small_an_overlap_would_be_noticed() -> None:
    blur = torch.nn.AvgPool2d(9, stride=1, padding=4)
    x = torch.rand(1, 1, 40, 40)
    assert torch.allclose(apply_tiled(blur, x, 16, 4), blur(x), atol=1e-6)
    assert not torch.allclose(apply_tiled(blur, x, 16, 2), blur(x), atol=1e-3)
