"""What must be fast: counter RNG, candidate scoring, trellis search, on the CPU and as CuPy twins.

``get_backend("cpu")`` defines the meaning, ``get_backend("cuda")`` must equal it, ``get_backend(device=...)`` takes the
best that the device has.  CuPy and numba are imported only when needed.  This package imports nothing of the project.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.util import find_spec

import torch

from .backend import Backend, upload
from .errors import KernelError

__all__ = ["Backend", "KernelError", "get_backend", "upload"]


def get_backend(name: str | None = None, device: torch.device | str | None = None) -> Backend:
    """The backend called "cpu" or "cuda" for tensors on `device`.

    name    "cpu": NumPy and torch operations on any device; "cuda": CuPy kernels on a GPU; None: "cuda" if the device
            is a GPU and CuPy works, else "cpu".  A broken CuPy is named in one warning.
    device  None: the CPU for "cpu", the current GPU for "cuda", and for None the current GPU where there is one
    Raises KernelError for an unknown name, or for "cuda" without a GPU or without a working CuPy.
    """
    if name == "cpu":
        return Backend("cpu" if device is None else device)
    if name == "cuda":
        from .cuda import CudaBackend

        return CudaBackend(device)
    if name is not None:
        raise KernelError(f"unknown backend {name!r}; available: cpu, cuda")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type != "cuda":
        return Backend(device)
    return _best_on_gpu(torch.cuda.current_device() if device.index is None else device.index)


@lru_cache(maxsize=32)
def _best_on_gpu(index: int) -> Backend:
    """CuPy kernels on this GPU, or torch operations there; kept, so that a broken CuPy is tried and named once."""
    if find_spec("cupy") is not None:
        try:
            return get_backend("cuda", torch.device("cuda", index))
        except KernelError as error:
            warnings.warn(f"torch operations replace the CUDA kernels: {error}", RuntimeWarning, stacklevel=3)
    return Backend(torch.device("cuda", index))
