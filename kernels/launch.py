"""How the CUDA kernels are launched: grids, blocks and shared memory as functions of the sizes alone.

Nothing here needs a GPU, so the tests hold every launch to the limits of each device.  Limits: CUDA C++ Programming
Guide, "Compute Capabilities": at most 2^31 - 1 blocks along x, 65,535 along y, 1,024 threads a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import KernelError
from .viterbi import decision_bytes

MAX_GRID_X, MAX_GRID_Y = (1 << 31) - 1, 65535
THREADS = 256  # of a block, where a thread has one item
MIN_TILE = 256  # candidates per block of the fused search at least
TRELLIS_THREADS = 1024  # of a block, at most; __launch_bounds__ in trellis.cu says the same
TRELLIS_STATIC = 8 * TRELLIS_THREADS  # bytes of shared memory that trellis.cu declares itself
CLUSTER_LAUNCH = 120  # cudaDevAttrClusterLaunch, the device's attribute that says whether it can launch clusters
MAX_CLUSTER = 8  # blocks of a cluster that every device with clusters can run
CLUSTER_GROUPS = TRELLIS_THREADS  # groups of states that each block of a cluster has at least
SCRATCH = 1 << 30  # bytes of trellis decisions and metrics held at once


@dataclass(frozen=True)
class Launch:
    """One launch.

    grid     blocks along x and y
    block    threads per block
    shared   bytes of dynamic shared memory of each block
    cluster  neighbouring blocks along x that work together
    """

    grid: tuple[int, int]
    block: int
    shared: int = 0
    cluster: int = 1


def per_item(items: int) -> Launch:
    """One thread for each of items >= 1."""
    blocks = -(-items // THREADS)
    if blocks > MAX_GRID_X:
        raise KernelError(f"{items} items are more than one kernel launch can take")
    return Launch((blocks, 1), THREADS)


def fused_pfr(chunks: int, candidates: int) -> tuple[Launch, int]:
    """(launch, candidates per block): chunks along x, tiles of candidates along y."""
    if chunks > MAX_GRID_X:
        raise KernelError(f"{chunks} chunks are more than one kernel launch can take")
    tile = max(MIN_TILE, -(-candidates // MAX_GRID_Y))
    return Launch((chunks, -(-candidates // tile)), THREADS), tile


def trellis(trellises: int, constraint_length: int, k: int, shared_limit: int, clustered: int) -> Launch:
    """One block per trellis, or several where there are too few trellises to fill a device that can launch clusters.

    shared_limit  bytes of shared memory that a block may have on the device (opt-in)
    clustered     multiprocessors of a device that can launch clusters, 0 for another one
    A thread has a group of 2^k states at a time.  16-bit metrics are in shared memory where they fit, always those of a
    cluster.
    """
    groups, metrics, cluster = 1 << constraint_length - k, 2 << constraint_length, 1
    while cluster < MAX_CLUSTER and 2 * cluster * trellises <= clustered and 2 * cluster * CLUSTER_GROUPS <= groups:
        cluster *= 2
    shared = metrics // cluster
    if shared + TRELLIS_STATIC > shared_limit:
        cluster, shared = 1, 0
    block = min(TRELLIS_THREADS, max(32, groups // cluster))
    return Launch((trellises * cluster, 1), block, shared, cluster)


def trellises_at_once(lengths: Sequence[int], constraint_length: int, k: int, in_shared: bool) -> list[tuple[int, int]]:
    """Ranges [first, last) of trellises, of these numbers of stages, that are searched together within SCRATCH."""
    per_stage, per_trellis = decision_bytes(constraint_length, k), 0 if in_shared else 2 << constraint_length
    ranges, first, used = [], 0, 0
    for t, stages in enumerate(lengths):
        needed = stages * per_stage + per_trellis
        if t > first and used + needed > SCRATCH:
            ranges.append((first, t))
            first, used = t, 0
        used += needed
    return [*ranges, (first, len(lengths))] if len(lengths) else []
