"""Running out of memory inside a network, said in one sentence."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..identity import ModelError

HINTS = ("allocate memory", "not enough memory", "out of memory")  # of RuntimeErrors: torch has no class on the CPU


@contextmanager
def enough_memory(device: torch.device, advice: str) -> Iterator[None]:
    """Running out of memory becomes a ModelError that ends with `advice`: what needs less."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(hint in str(error) for hint in HINTS):
            raise
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise ModelError(f"there is not enough memory on {device} for this model or image: {advice}") from error
