"""Networks that give the same bits every time, for codecs whose coding tables follow from a network's output.

Floating-point sums depend on their order: in float32, one thread or two inside an operation change 80 to 90 % of a
network's outputs in their last bits (measured).  So on a CPU every operation runs on a single thread, and several
images or tiles side by side; on a GPU they run one after the other, by deterministic kernels without TF32.  What
remains different between machines is answered by float64, for networks that do not compute in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU = torch.device("cpu")


@contextmanager
def reproducible(device: torch.device = CPU) -> Iterator[int]:
    """Same input, same bits, for networks on `device`; gives the number of threads that `side_by_side` may use.

    Sets and restores torch's settings for the whole process:
    CPU   one thread per operation; also the faster way on a busy machine, where threads that share an operation wait
          for each other
    CUDA  cuDNN deterministic, without benchmarking and TF32; matrix products in full float32 as well
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        if device.type == "cuda":
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield threads
        else:
            yield threads
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@contextmanager
def fastest(device: torch.device) -> Iterator[None]:
    """For lossy coding, where the two sides' estimates need not agree to the last bit; on the CPU nothing changes.

    CUDA  convolutions by TF32, as is torch's default: on the shipped prior's residual a relative error of about 5e-4,
          less than 0.1 grey level.  Matrix products stay in float32: they score a coder's candidates.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(
            enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=True
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def side_by_side(
    evaluate: Callable[[Item], Result], items: Iterable[Item], device: torch.device, workers: int
) -> list[Result]:
    """`evaluate` of every item, in order; on the CPU `workers` at a time, with the same arithmetic whatever that is.

    To be called within `reproducible(device)`; gradients are off.
    """

    def alone(item: Item) -> Result:
        with torch.inference_mode():  # a thread has its own
            return evaluate(item)

    def in_thread(item: Item) -> Result:
        torch.set_num_threads(1)  # as with inference mode, every thread has its own setting
        return alone(item)

    if device.type != "cpu":
        return [alone(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(in_thread, items))
