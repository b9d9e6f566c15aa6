"""Make kernels/normal_u16.npy, the integer-to-normal map, and print its SHA-256.

Entry i of 65,536 is the mean of a standard normal over the i-th of 65,536 equally likely intervals, rescaled so that
the table has exactly unit variance (before rounding to float32).  Only the upper half is stored: the map is odd.
Run once; the file is shipped, because quantiles from another math library may differ in the last bit.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from scipy.special import ndtri

LEVELS = 65536


def table() -> np.ndarray:
    """Upper half of the map, float32 [32768], ascending."""
    edges = ndtri(0.5 + np.arange(LEVELS // 2 + 1, dtype=np.float64) / LEVELS)
    density = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)  # of an infinite edge: 0
    mean = (density[:-1] - density[1:]) * LEVELS
    return (mean / np.sqrt(np.mean(mean**2))).astype(np.float32)


if __name__ == "__main__":
    path = Path(__file__).resolve().parent.parent / "normal_u16.npy"
    values = table()
    np.save(path, values)
    print(hashlib.sha256(values.tobytes()).hexdigest(), values[0], values[-1], np.mean(values.astype(np.float64) ** 2))
