"""What must be fast: counter RNG, candidate scoring, trellis search, on the CPU and as CuPy twins.

``get_backend("cpu")`` defines the meaning, ``get_backend("cuda")`` must equal it, ``get_backend()`` takes CUDA where a
GPU and CuPy are there.  CuPy is imported only when asked for.  This package imports nothing of the project.
"""

from __future__ import annotations

import torch

from .base import Backend, KernelError
from .cpu import CpuBackend

__all__ = ["Backend", "CpuBackend", "KernelError", "get_backend"]


def get_backend(name: str | None = None) -> Backend:
    """The backend called "cpu" or "cuda"; None: "cuda" if a GPU and CuPy are there, else "cpu".

    Raises KernelError for an unknown name, or for "cuda" without a GPU or without CuPy.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() and _has_cupy() else "cpu"
    if name == "cpu":
        return CpuBackend()
    if name == "cuda":
        from .cuda import CudaBackend

        return CudaBackend()
    raise KernelError(f"unknown backend {name!r}; available: cpu, cuda")


def _has_cupy() -> bool:
    from importlib.util import find_spec

    return find_spec("cupy") is not None
