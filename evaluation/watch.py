"""Seconds and peak memory of a block of code."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path

import torch


class Watch:
    """Times a ``with`` block.  Afterwards `seconds` and `peak_mib` are set: the peak in MiB of the memory allocated on
    the GPU where one is in use, else of the whole process's resident memory."""

    seconds = 0.0
    peak_mib: float | None = None

    def __enter__(self) -> Watch:
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_peak()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start
        self.peak_mib = (torch.cuda.max_memory_allocated() if self._cuda else _peak()) / 2**20


def _reset_peak() -> None:
    """Make the peak start here where the system can (Linux); elsewhere it is that of the process so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Bytes that were resident at the peak."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
