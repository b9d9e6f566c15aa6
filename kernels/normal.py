"""The one map from shared integers to shared normals: a shipped table of 65,536 quantiles.

No transcendental function runs on the decode path, so a sample is the same float on every machine.  The table
holds the means of 65,536 equally likely bins, scaled to unit variance; the largest is 4.39.  Its checksum is verified
when it is loaded.  Not for anything that needs tails beyond 4.4 standard deviations.
"""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import KernelError

SHA256 = "0341c656f3cf5dc9e4d24a76f4bd975275259f316facdf352806ebc651e17b22"


@lru_cache(maxsize=1)
def normal_table() -> NDArray[np.float32]:
    """The whole map, float32 [65536], ascending and odd: table[65535 - i] = -table[i].

    Raises KernelError if the shipped file is damaged.
    """
    data = resources.files(__package__).joinpath("normal_u16.npy").read_bytes()
    upper = np.load(io.BytesIO(data), allow_pickle=False)
    if upper.dtype != np.float32 or hashlib.sha256(upper.tobytes()).hexdigest() != SHA256:
        raise KernelError("the normal table kernels/normal_u16.npy is damaged: its SHA-256 does not match")
    table = np.concatenate([-upper[::-1], upper])
    table.setflags(write=False)
    return table


@lru_cache(maxsize=8)
def normal_table_on(device: torch.device) -> Tensor:
    """The same table as a torch tensor on `device`."""
    return torch.from_numpy(normal_table().copy()).to(device)
