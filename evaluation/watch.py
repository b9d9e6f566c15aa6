"""Seconds and peak memory of a block of code."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import time
from pathlib import Path

import torch


class Watch:
    """Times a ``with`` block and looks at its memory: allocated on the GPU where one is in use, else resident.

    Afterwards set:
    seconds    of the clock
    peak_mib   MiB at the peak, of the whole process, libraries included
    added_mib  MiB at the peak beyond those before; None where other programs did the work, whose memory is not seen
    """

    seconds = 0.0
    peak_mib: float | None = None
    added_mib: float | None = None

    def __enter__(self) -> Watch:
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            _reset_peak()
            self._before = _resident()
        self._others = _seconds_of_others()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start
        peak = torch.cuda.max_memory_allocated() if self._cuda else _resident("VmHWM")
        self.peak_mib = peak / 2**20
        if self._cuda or _seconds_of_others() == self._others:
            self.added_mib = max(peak - self._before, 0) / 2**20


def _reset_peak() -> None:
    """Give freed memory back, and make the peak start here, where the system can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _resident(key: str = "VmRSS") -> int:
    """Bytes that are resident, or with "VmHWM" were at the peak; elsewhere than on Linux always those at the peak."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _seconds_of_others() -> float:
    """Processor time of the programs that this process started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
