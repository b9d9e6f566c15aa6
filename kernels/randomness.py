"""The randomness that sender and receiver share: Philox4x32-10, and the one map from its integers to normals.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): ten rounds of two 32x32 -> 64-bit
products on a 128-bit counter with a 64-bit key.  Written twice, in NumPy (the definition) and in torch (any device, for
tensors that live on a GPU without CuPy); `philox.cu` is the third copy.

Normals come from a shipped table, the means of 65,536 equally likely bins scaled to unit variance: no transcendental
function runs on the decode path, so a sample is the same float on every machine.  The largest value is 4.39; not for
anything that needs tails beyond.
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

from .errors import KernelError

M0, M1 = 0xD2511F53, 0xCD9E8D57  # multipliers of the two halves
W0, W1 = 0x9E3779B9, 0xBB67AE85  # key schedule (golden ratio, sqrt(3) - 1)
ROUNDS = 10
MASK = 0xFFFFFFFF


def split64(value: int) -> tuple[int, int]:
    """(low, high) 32-bit halves of a 64-bit integer."""
    return value & MASK, (value >> 32) & MASK


def philox_numpy(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 of counter uint32 [4, N] under key (k0, k1): uint32 [4, N]."""
    c0, c1, c2, c3 = (np.array(c, np.uint64) for c in counter)
    k0, k1 = key
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    low, shift = np.uint64(MASK), np.uint64(32)
    for _ in range(ROUNDS):
        np.multiply(c0, np.uint64(M0), out=p0)
        np.multiply(c2, np.uint64(M1), out=p1)
        # new c0 = hi(p1) ^ c1 ^ k0, c1 = lo(p1), c2 = hi(p0) ^ c3 ^ k1, c3 = lo(p0); written into the old arrays
        np.right_shift(p1, shift, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.bitwise_and(p1, low, out=c1)
        np.right_shift(p0, shift, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(p0, low, out=c3)
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def philox_torch(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """The same for counter int64 [4, N] with values in [0, 2^32), on any device: int64 [4, N].

    The products wrap around in two's complement; masking after the arithmetic shift recovers both halves.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK
        c2, c3 = ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return torch.stack([c0, c1, c2, c3])


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
