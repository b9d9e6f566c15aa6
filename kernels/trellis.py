"""Viterbi search of a circular shift-register trellis: the definition, in NumPy.

The register is a ring of L/k digits of k bits.  Stage j overwrites digit j mod (L/k) (digit 0 is the most significant)
with the new symbol u; the digit it replaces, w, is the oldest one.  The branch is named by e = w 2^L + s', s' the new
state, and carries the label labels[e].  Against a register that shifts this only renames states, but every stage works
in place on long contiguous rows.  Decisions are not stored: they are recomputed on the way back, for the visited
states only, from the metrics of all stages (4 bytes per state and stage).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from .base import KernelError

UNREACHED = np.float32(-1e30)
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def check(scores_shape: tuple[int, ...], lengths: Integers, labels: int, constraint_length: int, k: int) -> None:
    """Raises KernelError unless the arguments describe trellises; `labels` is the length of the label table."""
    if len(scores_shape) != 3 or len(lengths) != scores_shape[0]:
        raise KernelError("scores must have the shape [trellises, stages, labels], with one length per trellis")
    if len(lengths) and (lengths.min() < 1 or lengths.max() > scores_shape[1]):
        raise KernelError("every trellis needs at least one stage and at most as many as there are scores")
    if k < 1 or constraint_length < k or constraint_length % k:
        raise KernelError("the constraint length must be a positive multiple of k")
    if labels != 1 << (constraint_length + k):
        raise KernelError("labels must name one label for each of the 2^(L + k) branches")


def search_many(
    scores: Floats, lengths: Integers, labels: Integers, constraint_length: int, k: int, flush: int, threads: int
) -> tuple[NDArray[np.uint8], Floats]:
    """Backend.trellis_search (base.py) for NumPy arrays, one trellis per thread."""
    check(scores.shape, lengths, len(labels), constraint_length, k)
    symbols = np.zeros(scores.shape[:2], np.uint8)
    metric = np.empty(len(scores), np.float32)

    def run(t: int) -> None:
        stages = int(lengths[t])
        symbols[t, :stages], metric[t] = search(scores[t, :stages], labels, constraint_length, k, flush)

    if threads < 2 or len(scores) < 2:
        for t in range(len(scores)):
            run(t)
    else:  # NumPy releases the interpreter lock inside take, add and max
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(len(scores))))
    return symbols, metric


def search(
    scores: Floats, labels: Integers, constraint_length: int, k: int, flush: int
) -> tuple[NDArray[np.uint8], np.float32]:
    """Best path through one trellis: scores float32 [stages, M] -> (symbols uint8 [stages], metric)."""
    stages = len(scores)
    digits, states, symbols = constraint_length // k, 1 << constraint_length, 1 << k
    metrics = np.empty((stages + 1, states), np.float32)
    metrics[0] = UNREACHED
    metrics[0, 0] = 0
    branch = np.empty(symbols * states, np.float32)
    views = []
    for digit in range(digits):
        below = states >> k * (digit + 1)  # number of states that differ in less significant digits only
        ring = metrics.reshape(stages + 1, -1, symbols, below)
        grid = branch.reshape(symbols, -1, symbols, below)  # [w, more significant digits, u, less significant digits]
        views.append((grid, ring.transpose(0, 2, 1, 3)[:, :, :, None], ring))
    for j in range(stages):
        grid, old, new = views[j % digits]
        scores[j].take(labels, out=branch, mode="clip")
        np.add(grid, old[j], out=grid)
        np.maximum.reduce(grid, axis=0, out=new[j + 1])
        if j >= stages - flush:
            new[j + 1][:, 1:] = UNREACHED
    final = int(metrics[stages].argmax())
    return _trace_back(scores, labels, metrics, final, k), metrics[stages, final]


def _trace_back(scores: Floats, labels: Integers, metrics: Floats, state: int, k: int) -> NDArray[np.uint8]:
    """Symbols uint8 [stages] of the path that ends in `state`."""
    constraint_length = metrics.shape[1].bit_length() - 1
    digits, mask = constraint_length // k, (1 << k) - 1
    path = np.empty(len(scores), np.uint8)
    oldest = np.arange(1 << k)
    for j in range(len(scores) - 1, -1, -1):
        shift = constraint_length - k * (j % digits + 1)
        path[j] = (state >> shift) & mask
        previous = (state & ~(mask << shift)) + (oldest << shift)
        content = (oldest << constraint_length) + state
        state = int(previous[(metrics[j, previous] + scores[j, labels[content]]).argmax()])
    return path
