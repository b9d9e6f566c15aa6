"""The two maps between 8-bit pixels and [-1, 1]: their ends, and that each undoes the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffpress.lightning_modules.diffusion.pixels import (
    from_bin_centres,
    from_signed,
    to_bin_centres,
    to_signed,
)

VALUES = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("there", "back", "black"), [(to_signed, from_signed, -1.0), (to_bin_centres, from_bin_centres, -255 / 256)]
)
def test_maps(there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], black: float) -> None:
    x = there(VALUES)
    assert (float(x[0]), float(x[-1])) == (black, -black)
    half = (x[1] - x[0]) * 0.49
    for shift in (-half, 0.0, half):
        assert torch.equal(back(x + shift), VALUES)
    assert back(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
