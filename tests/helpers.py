"""What tests import from each other: where the repository is, and a picture made of formulas."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import constriction
import numpy as np
import torch
from numpy.typing import NDArray

from diffpress.commands.coding import Done

ROOT = Path(__file__).resolve().parent.parent


def synthetic_photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8 [3, height, width]: smooth colours, an edge and a little noise."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 3, width)[None, :]
    planes = [120 + 60 * torch.sin(x + k + y * (k + 1) / 2) + 30 * (x > 1.3) for k in range(3)]
    return (torch.stack(planes) + 3 * torch.randn(3, height, width, generator=rng)).round().clamp(0, 255).byte()


def encode_gaussians(symbols: NDArray, means: NDArray, stds: NDArray, low: int, high: int) -> bytes:
    """What GaussianDecoder (codecs/entropy.py) reads; files of before 2026-11 were written so."""
    values, mean, std = np.ravel(symbols).astype(np.int32), np.ravel(means), np.ravel(stds)
    coder = constriction.stream.queue.RangeEncoder()
    if values.size:  # constriction refuses empty arrays
        gaussian = constriction.stream.model.QuantizedGaussian(low, high)
        coder.encode(values, gaussian, mean.astype(np.float64), std.astype(np.float64))
    return np.asarray(coder.get_compressed(), "<u4").tobytes()


class EndsAtC:
    """Settings of a batch (diffpress/commands/coding.py) whose work ends its process at files called c.

    `model` as in its Work; "id" stands for another in each process.
    """

    def __init__(self, model: bytes = b"") -> None:
        self.name = model

    @property
    def model(self) -> bytes:
        return str(os.getpid()).encode() if self.name == b"id" else self.name

    def open(self) -> EndsAtC:
        return self

    def __call__(self, source: Path, target: Path, known: object, tick: object) -> Done:
        if source.stem == "c":
            os.kill(os.getpid(), signal.SIGKILL)
        target.write_text(f"{source.stem} by one of {torch.get_num_threads()} threads")
        return Done(f"{source} -> {target}", 1, 1)
