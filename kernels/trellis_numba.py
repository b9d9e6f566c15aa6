"""The Viterbi search of trellis.py compiled by numba: the same decisions, several times faster.

One trellis runs in one thread without the interpreter lock; several trellises are shared out among threads.  The loops
over i run along contiguous states and labels, so the compiler turns each into 16-bit vector instructions.  numba takes
half a second to import, so the CPU backend imports this module at the first search: decoding never does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .launch import decision_bytes
from .trellis import UNREACHED, Integers, Shorts, check, label_steps

Bytes = NDArray[np.uint8]

SCRATCH = 1 << 29  # bytes of decisions that all threads may hold together
TILE = 16  # rows and columns of a tile of the transposition


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's compilation, kept on disk where a folder can be written: beside this file or in the user's cache."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no place for its cache
        return numba.njit(nogil=True)(function)


def search_many(
    scores: Shorts, lengths: Integers, constraint_length: int, k: int, flush: int, threads: int
) -> tuple[Bytes, Integers]:
    """Backend.trellis_search (base.py) for NumPy arrays on up to `threads` threads; equals trellis.search_reference.

    scores int16 [N, M], lengths int64 [T] -> (symbols uint8 [N], sums int64 [T]).  Raises KernelError.
    """
    check(scores.shape, lengths, constraint_length, k)
    symbols, sums = np.zeros(len(scores), np.uint8), np.zeros(len(lengths), np.int64)
    if not len(lengths):
        return symbols, sums
    ends, longest = np.cumsum(lengths), int(lengths.max())
    bytes_per_stage = decision_bytes(constraint_length, k)
    workers = max(1, min(threads, len(lengths), SCRATCH // (longest * bytes_per_stage)))
    scores, steps = np.ascontiguousarray(scores), label_steps(scores.shape[1], k)

    def work(first: int) -> None:
        decisions = np.empty((longest, bytes_per_stage), np.uint8)
        for t in range(first, len(lengths), workers):
            rows = slice(ends[t] - lengths[t], ends[t])
            final = _forward(scores[rows], constraint_length, k, flush, *steps, decisions, sums[t : t + 1])
            _trace_back(constraint_length, k, decisions, final, symbols[rows])

    if workers == 1:
        work(0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
    return symbols, sums


@_compiled
def _transpose(source: Shorts, target: Shorts, rows: int) -> None:
    """Write the matrix source int16 [rows * columns] transposed, tile by tile so that it stays in the cache.

    Unsigned indices spare the test for negative ones, which takes most of the time otherwise.
    """
    columns = len(source) // rows
    matrix, out = source.reshape(rows, columns), target.reshape(columns, rows)
    for r0 in range(0, rows, TILE):
        for c0 in range(0, columns, TILE):
            for c in range(c0, min(c0 + TILE, columns)):
                for r in range(r0, min(r0 + TILE, rows)):
                    out[np.uint64(c), np.uint64(r)] = matrix[np.uint64(r), np.uint64(c)]


@_compiled
def _forward(
    scores: Shorts, length: int, k: int, flush: int, by_symbol: int, by_top: int, decisions: Bytes, total: Integers
) -> int:
    """Run through all stages: fills decisions uint8 [stages, planes * groups], total[0] = the best sum.

    A group is 2^k states that differ in the stage's digit only.  A byte of plane p holds, for a group, the oldest
    symbols chosen by the states u = p * (8 / k) and following, k bits each.  Returns the best final state as the last
    stage sees the ring.
    """
    stages, labels = scores.shape
    states, symbols, digits, groups = 1 << length, 1 << k, length // k, 1 << length - k
    second, per_byte = digits - digits // 2, 8 // k
    doubled = np.empty(2 * labels, np.int16)  # a row of scores twice, so that a run of labels need not wrap around
    choice = np.empty(labels, np.int16)
    old, new = np.full(states, UNREACHED, np.int16), np.empty(states, np.int16)
    old[0] = 0
    total[0] = 0
    for j in range(stages):
        digit = j % digits
        doubled[:labels] = scores[j]
        doubled[labels:] = scores[j]
        if digit == 0 and j:
            best = old.max()
            total[0] += best
            for i in range(states):
                old[i] -= best
        if (digit == 0 or digit == second) and j and digits > 1:
            half = 1 << k * (digits // 2)
            _transpose(old, new, half if digit == 0 else states // half)
            old, new = new, old
        below = 1 << (length - k * ((digit if digit < second else digit - second) + 1))
        run = min(below, labels)
        for group in range(0, groups, run):
            base = group // below * below * symbols + group % below
            label = group % labels + by_top * (group // labels)
            for u in range(symbols):
                top = new[base + u * below : base + u * below + run]
                for w in range(0, symbols, 2):  # two predecessors in one pass over memory
                    row0, row1 = (label + by_symbol * (u - w)) % labels, (label + by_symbol * (u - w - 1)) % labels
                    scores0, scores1 = doubled[row0 : row0 + run], doubled[row1 : row1 + run]
                    old0 = old[base + w * below : base + w * below + run]
                    old1 = old[base + (w + 1) * below : base + (w + 1) * below + run]
                    if w == 0:
                        for i in range(run):
                            top[i] = max(np.int16(scores0[i] + old0[i]), np.int16(scores1[i] + old1[i]))
                    else:
                        for i in range(run):
                            pair = max(np.int16(scores0[i] + old0[i]), np.int16(scores1[i] + old1[i]))
                            top[i] = max(top[i], pair)
                for w in range(symbols - 2, -1, -2):  # downwards: the lowest of equal ones stays
                    row0, row1 = (label + by_symbol * (u - w)) % labels, (label + by_symbol * (u - w - 1)) % labels
                    scores0 = doubled[row0 : row0 + run]
                    old0 = old[base + w * below : base + w * below + run]
                    even, odd = np.int16(w), np.int16(w + 1)
                    if w == symbols - 2:
                        for i in range(run):
                            choice[i] = even if np.int16(scores0[i] + old0[i]) == top[i] else odd
                    else:
                        scores1 = doubled[row1 : row1 + run]
                        old1 = old[base + (w + 1) * below : base + (w + 1) * below + run]
                        for i in range(run):
                            later = odd if np.int16(scores1[i] + old1[i]) == top[i] else choice[i]
                            choice[i] = even if np.int16(scores0[i] + old0[i]) == top[i] else later
                plane, scale = u // per_byte, np.int16(1 << k * (u % per_byte))
                chosen = decisions[j, plane * groups + group : plane * groups + group + run]
                if scale == 1:
                    for i in range(run):
                        chosen[i] = np.uint8(choice[i])
                else:
                    for i in range(run):
                        chosen[i] |= np.uint8(np.int16(choice[i] * scale))
                if u and j >= stages - flush:
                    top[:] = UNREACHED
        old, new = new, old
    final = 0
    for state in range(states):
        if old[state] > old[final]:
            final = state
    total[0] += old[final]
    return final


@_compiled
def _trace_back(length: int, k: int, decisions: Bytes, state: int, path: Bytes) -> None:
    """Write the symbols of the path that ends in `state`, uint8 [stages]."""
    digits, groups, mask, per_byte = length // k, 1 << length - k, (1 << k) - 1, 8 // k
    low = digits // 2 * k  # bits of the ring's second half
    second = digits - digits // 2
    for j in range(len(path) - 1, -1, -1):
        digit = j % digits
        shift = length - k * ((digit if digit < second else digit - second) + 1)
        symbol = state >> shift & mask
        path[j] = symbol
        below, above = state & (1 << shift) - 1, state >> shift + k
        group = above << shift | below
        oldest = decisions[j, symbol // per_byte * groups + group] >> k * (symbol % per_byte) & mask
        state = above << shift + k | int(oldest) << shift | below
        if digits > 1 and (digit == 0 or digit == second):  # back to how the previous stage saw it
            right = low if digit == 0 else length - low
            state = (state & (1 << right) - 1) << length - right | state >> right
