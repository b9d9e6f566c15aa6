"""What the command lines ask of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Keep up to 256 MB of freed memory for the next tensors; True where the C library has such a setting (glibc).

    By default glibc returns the end of its heap to the system as soon as it is free.  A network on the CPU frees and
    asks for the same tens of megabytes layer after layer, and the system has to clear every page again each time:
    a tenth of the shipped prior's time on photos.  Blocks over 32 MB (the largest threshold glibc takes) go back at
    once as before, so peak memory does not grow.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, 2**25) and mallopt(M_TRIM_THRESHOLD, 2**28))
