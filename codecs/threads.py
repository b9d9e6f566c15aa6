"""Networks evaluated the same way every time, for codecs whose tables follow from what a network says.

In float32, one or two threads inside an operation change 80 to 90 % of a network's outputs in their last bits
(measured).  So every call runs on a single thread, several of them side by side; on a GPU, one after the other, with
deterministic kernels.  What remains different between machines is answered by float64 ("portable").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextmanager
def unsplit_operations() -> Iterator[int]:
    """Run every torch operation on one thread, so that no sum changes its order; gives the number of threads to use.

    Also the faster way on a busy machine, where threads that share an operation wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def side_by_side(
    evaluate: Callable[[Part], Result], parts: Iterable[Part], device: torch.device, workers: int
) -> list[Result]:
    """`evaluate` of every part, in order; on the CPU `workers` at a time, with the same arithmetic whatever that is."""
    if device.type != "cpu":
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with exact, torch.inference_mode():
            return [evaluate(part) for part in parts]

    def alone(part: Part) -> Result:
        torch.set_num_threads(1)  # a worker has its own setting
        with torch.inference_mode():
            return evaluate(part)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(alone, parts))
