"""The CUDA backend (CuPy); see base.py.  Importing this module imports no CuPy."""

from __future__ import annotations

import torch

from .base import KernelError
from .cpu import CpuBackend


class CudaBackend(CpuBackend):
    """Backend on the current CUDA device."""

    name = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise KernelError("the cuda backend needs a CUDA GPU, and torch finds none")
        super().__init__(torch.device("cuda", torch.cuda.current_device()))
