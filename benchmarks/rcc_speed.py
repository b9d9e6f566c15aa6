"""Time of one reverse-channel step beside the plain PyTorch listing of the DiffC paper's appendix.

    python benchmarks/rcc_speed.py [--size 24576] [--clock cpu]

The listing draws all 2^16 candidates of every chunk with torch.randn and multiplies them with mu.  Every row codes the
same step, split the same way: CHUNKS chunks of 14 bits.  With a GPU the same rows run there, and the fused kernel.
Published for comparison: 3 ms (A40) per 16-bit chunk, 140 ms (TensorFlow).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor

from diffpress.codecs.reverse_channel import get_coder
from diffpress.kernels import KernelError, get_backend

CANDIDATES = 1 << 16
BATCH = 256  # candidates per torch.randn call of the listing
SHARE = 8  # the listing is run for one candidate in SHARE and its time multiplied, as it is linear in candidates
CHUNKS = 10
BITS = 14.0 * CHUNKS
CLOCK = "wall"


def listing(mu: Tensor, share: int) -> None:
    """torch.randn batches times mu for every chunk, 2^16 / share candidates each."""
    for chunk in mu.chunk(CHUNKS):
        times = torch.empty(CANDIDATES // share, device=mu.device).exponential_().cumsum(0).log()
        best, where = torch.tensor(torch.inf, device=mu.device), torch.tensor(0, device=mu.device)
        for first in range(0, CANDIDATES // share, BATCH):
            z = torch.randn(BATCH, len(chunk), device=mu.device)
            value, index = (times[first : first + BATCH] - z @ chunk).min(0)
            where = torch.where(value < best, index + first, where)
            best = torch.minimum(best, value)
        where.item()


def median(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median milliseconds of a call, after one that is not counted; of processor time where CLOCK says so."""
    clock = time.process_time if CLOCK == "cpu" and device.type == "cpu" else time.perf_counter
    times = []
    for i in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i:
            times.append(1e3 * (clock() - start))
    return statistics.median(times)


def mean_of(size: int, bits: float, device: torch.device) -> Tensor:
    """A mean of that many bits of KL, float32 [size]."""
    mu = torch.randn(size, generator=torch.Generator().manual_seed(1))
    return (mu * (math.sqrt(size * (2.0 ** (2 * bits / size) - 1)) / mu.norm())).to(device)


def rows(size: int, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """All measurements on one device."""
    mu = mean_of(size, BITS, device)
    gemm = get_coder("pfr", mode="truncated", candidates=CANDIDATES)
    trellis, automatic = get_coder("trellis", constraint_length=12), get_coder("trellis")
    payload, _ = trellis.encode(mu, BITS, 1)
    share = 1 if device.type == "cuda" else SHARE
    base = share * median(lambda: listing(mu, share), device, 1 if share > 1 else repeats)
    calls: dict[str, Callable[[], object]] = {
        "PFR, matrix product, 2^16": lambda: gemm.encode(mu, BITS, 1),
        "trellis L = 12": lambda: trellis.encode(mu, BITS, 1),
        "trellis, automatic L": lambda: automatic.encode(mu, BITS, 1),
        "trellis, decoding": lambda: trellis.decode(payload, size, BITS, 1, like=mu),
    }
    if device.type == "cuda":
        fused = get_coder("pfr", mode="truncated", candidates=CANDIDATES, scoring="fused")
        calls["PFR, fused, 2^16"] = lambda: fused.encode(mu, BITS, 1)
        calls["one 14-bit chunk, matrix product"] = lambda: gemm.encode(mu[: size // CHUNKS], 14.0, 1)
    name = f"CPU, {torch.get_num_threads()} threads, {CLOCK} time"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    result: list[dict[str, Any]] = [{"what": "listing (torch.randn)", "device": name, "ms": base, "ratio": 1.0}]
    for what, call in calls.items():
        ms = median(call, device, repeats)
        result.append({"what": what, "device": name, "ms": ms, "ratio": base / ms})
    return result


def main(size: int = 24576, repeats: int = 5, clock: Literal["wall", "cpu"] = "wall") -> None:
    """Print a line of JSON per measurement on all devices that are here.

    size     coordinates of the step
    repeats  runs per measurement; the median counts
    clock    "cpu" counts processor time, for a machine that is busy otherwise
    """
    global CLOCK
    CLOCK = clock
    devices = [torch.device("cpu")]
    try:
        devices.append(get_backend("cuda").device)
    except KernelError as error:
        print(f"no GPU: {error}")
    for device in devices:
        for row in rows(size, device, repeats):
            print(json.dumps(row))


if __name__ == "__main__":
    auto_cli(main)
