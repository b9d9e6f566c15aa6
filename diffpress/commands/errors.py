"""How every command runs: what becomes one sentence instead of a traceback, exit codes, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


class UsageError(ValueError):
    """Words on the command line, or in its configuration file, that cannot be followed; one sentence for the user."""


class NothingAsked(Exception):
    """A command line without a file to work on; the message shows how to use the command, over several lines."""


def user_errors() -> tuple[type[BaseException], ...]:
    """Exceptions whose message is meant for the user.  Imported here, because the classes bring PyTorch with them."""
    from torch import OutOfMemoryError

    from ..codecs import CodecError
    from ..data import ImageError
    from ..kernels import KernelError
    from ..lightning_modules import ModelError

    return (UsageError, CodecError, ImageError, ModelError, KernelError, OSError, MemoryError, OutOfMemoryError)


def sentence(error: BaseException) -> str:
    """The message of a user's error on one line."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's; its message runs over several lines
        return "there is not enough memory on the GPU"
    return " ".join(str(error).split())


def run(action: Callable[[], int]) -> int:
    """Exit code of `action`, which returns it: 0, or 1 if some files failed; 2 if nothing could be done.

    A user's error becomes one line on stderr; every other exception is a bug and goes on.
    """
    keep_freed_memory()
    try:
        return action()
    except NothingAsked as usage:
        print(usage, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not isinstance(error, UsageError) and not isinstance(error, user_errors()):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2


def run_afresh(command: str, *words: object) -> str:
    """Run a command of this package in a process of its own, with as many threads; what it said if it failed, else "".

    command  its module: "compress", "decompress", ...
    """
    import torch

    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(torch.get_num_threads()))
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    code = f"from diffpress.commands.{command} import main; raise SystemExit(main())"
    arguments = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"it ended with exit code {done.returncode}"


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
