"""The Viterbi search of viterbi.py for k = 2, which files use, compiled by numba: the same decisions, faster.

One trellis runs in one thread without the interpreter lock; several trellises are shared out among threads.  The loops
over i run along contiguous states and labels and write one array each, so the compiler turns them into 16-bit vector
instructions.  Other k are searched by the reference.  numba takes half a second to import, and the first search on a
machine compiles for some seconds, so the CPU backend imports this module at the first search: decoding never does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .viterbi import UNREACHED, Integers, Shorts, check, decision_bytes, label_steps, search_reference

Bytes = NDArray[np.uint8]

SCRATCH = 1 << 29  # bytes of decisions that all threads may hold together
TILE = 16  # rows and columns of a tile of the transposition


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's compilation, kept on disk where a folder can be written: beside this file or in the user's cache."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no place for its cache
        return numba.njit(nogil=True, error_model="numpy")(function)


def search_many(
    scores: Shorts, lengths: Integers, constraint_length: int, k: int, flush: int, threads: int
) -> tuple[Bytes, Integers]:
    """Backend.trellis_search for NumPy arrays on up to `threads` threads; equals viterbi.search_reference.

    scores int16 [N, M], lengths int64 [T] -> (symbols uint8 [N], sums int64 [T]).  Raises KernelError.
    """
    if k != 2:
        return search_reference(scores, lengths, constraint_length, k, flush)
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
            final = _forward(scores[rows], constraint_length, flush, *steps, decisions, sums[t : t + 1])
            _trace_back(constraint_length, decisions, final, symbols[rows])

    if workers == 1:
        work(0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
    return symbols, sums


@compiled
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


@compiled
def _tops(
    top: Shorts, s0: Shorts, m0: Shorts, s1: Shorts, m1: Shorts, s2: Shorts, m2: Shorts, s3: Shorts, m3: Shorts
) -> None:
    """top = the largest of score + metric over four predecessors, all int16 of one length."""
    for i in range(len(top)):
        early = max(np.int16(s0[i] + m0[i]), np.int16(s1[i] + m1[i]))
        top[i] = max(early, max(np.int16(s2[i] + m2[i]), np.int16(s3[i] + m3[i])))


@compiled
def _choices(
    choice: Shorts, top: Shorts, s0: Shorts, m0: Shorts, s1: Shorts, m1: Shorts, s2: Shorts, m2: Shorts
) -> None:
    """choice = the first predecessor whose sum is the top; the fourth where it is none of the first three."""
    for i in range(len(top)):
        later = np.int16(2) if np.int16(s2[i] + m2[i]) == top[i] else np.int16(3)
        later = np.int16(1) if np.int16(s1[i] + m1[i]) == top[i] else later
        choice[i] = np.int16(0) if np.int16(s0[i] + m0[i]) == top[i] else later


@compiled
def _pack(packed: Bytes, c0: Shorts, c1: Shorts, c2: Shorts, c3: Shorts) -> None:
    """Four choices to a byte, the first in the lowest bits."""
    for i in range(len(packed)):
        packed[i] = np.uint8(c0[i] | np.int16(c1[i] << 2) | np.int16(c2[i] << 4) | np.int16(c3[i] << 6))


@compiled
def _stage(
    row: Shorts, old: Shorts, new: Shorts, decisions: Bytes, below: int, by_symbol: int, by_top: int, choices: Shorts
) -> None:
    """One stage: new int16 [2^L] from old, decisions uint8 [2^L / 4].

    row      int16 [2 M], the stage's scores twice, so that a run of labels need not wrap around
    below    states that differ only below the stage's digit
    choices  int16 [4, M], scratch
    """
    labels, groups = len(row) // 2, len(old) // 4
    mask = labels - 1
    run = min(below, labels)
    c0, c1, c2, c3 = choices[0, :run], choices[1, :run], choices[2, :run], choices[3, :run]
    for group in range(0, groups, run):  # states without the digit
        base = group // below * below * 4 + group % below
        label = (group & mask) + by_top * (group // labels)
        p0, p1 = label & mask, (label + by_symbol) & mask  # labels of u - w = 0, 1, 2, 3 modulo 4
        p2, p3 = (label + 2 * by_symbol) & mask, (label + 3 * by_symbol) & mask
        s0, s1, s2, s3 = row[p0 : p0 + run], row[p1 : p1 + run], row[p2 : p2 + run], row[p3 : p3 + run]
        q0, q1, q2, q3 = base, base + below, base + 2 * below, base + 3 * below  # states of the four digits
        m0, m1, m2, m3 = old[q0 : q0 + run], old[q1 : q1 + run], old[q2 : q2 + run], old[q3 : q3 + run]
        t0, t1, t2, t3 = new[q0 : q0 + run], new[q1 : q1 + run], new[q2 : q2 + run], new[q3 : q3 + run]
        _tops(t0, s0, m0, s3, m1, s2, m2, s1, m3)
        _tops(t1, s1, m0, s0, m1, s3, m2, s2, m3)
        _tops(t2, s2, m0, s1, m1, s0, m2, s3, m3)
        _tops(t3, s3, m0, s2, m1, s1, m2, s0, m3)
        _choices(c0, t0, s0, m0, s3, m1, s2, m2)
        _choices(c1, t1, s1, m0, s0, m1, s3, m2)
        _choices(c2, t2, s2, m0, s1, m1, s0, m2)
        _choices(c3, t3, s3, m0, s2, m1, s1, m2)
        _pack(decisions[group : group + run], c0, c1, c2, c3)


@compiled
def _forward(
    scores: Shorts, length: int, flush: int, by_symbol: int, by_top: int, decisions: Bytes, total: Integers
) -> int:
    """Run through all stages: fills decisions uint8 [stages, 2^L / 4], total[0] = the best sum.

    A byte holds, for four states that differ in the stage's digit only, the oldest symbols they chose.  Returns the
    best final state as the last stage sees the ring.
    """
    stages, labels = scores.shape
    states, digits = 1 << length, length // 2
    second = digits - digits // 2
    row, choices = np.empty(2 * labels, np.int16), np.empty((4, labels), np.int16)
    old, new = np.full(states, UNREACHED, np.int16), np.empty(states, np.int16)
    old[0] = 0
    total[0] = 0
    for j in range(stages):
        digit = j % digits
        row[:labels] = scores[j]
        row[labels:] = scores[j]
        if digit == 0 and j:
            best = old.max()
            total[0] += best
            for i in range(states):
                old[i] -= best
        if (digit == 0 or digit == second) and j and digits > 1:
            half = 1 << 2 * (digits // 2)
            _transpose(old, new, half if digit == 0 else states // half)
            old, new = new, old
        below = 1 << (length - 2 * ((digit if digit < second else digit - second) + 1))
        _stage(row, old, new, decisions[j], below, by_symbol, by_top, choices)
        if j >= stages - flush:
            for base in range(0, states, 4 * below):
                new[base + below : base + 4 * below] = UNREACHED
        old, new = new, old
    final = 0
    for state in range(states):
        if old[state] > old[final]:
            final = state
    total[0] += old[final]
    return final


@compiled
def _trace_back(length: int, decisions: Bytes, state: int, path: Bytes) -> None:
    """Write the symbols of the path that ends in `state`, uint8 [stages]."""
    digits = length // 2
    low, second = digits // 2 * 2, digits - digits // 2  # bits of the ring's second half, and its first digit
    for j in range(len(path) - 1, -1, -1):
        digit = j % digits
        shift = length - 2 * ((digit if digit < second else digit - second) + 1)
        symbol = state >> shift & 3
        path[j] = symbol
        below, above = state & (1 << shift) - 1, state >> shift + 2
        oldest = decisions[j, above << shift | below] >> 2 * symbol & 3
        state = above << shift + 2 | int(oldest) << shift | below
        if digits > 1 and (digit == 0 or digit == second):  # back to how the previous stage saw it
            right = low if digit == 0 else length - low
            state = (state & (1 << right) - 1) << length - right | state >> right
