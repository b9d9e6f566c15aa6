"""Viterbi search of a circular shift-register trellis: the definition, in NumPy.

What runs is trellis_numba.py on the CPU and trellis.cu on a GPU; both must make the decisions of this file.  Source:
Viterbi, "Error bounds for convolutional codes", 1967; Forney, "The Viterbi algorithm", 1973.

The register is a ring of D = L/k digits of k bits.  Stage j overwrites digit j mod D (digit 0 is the most significant)
with the new symbol u; the digit it replaces, w, is the oldest one.  Against a register that shifts this only renames
states, but every stage works in place on long contiguous rows; so that rows stay long for the last digits too, the ring
is turned by half at two stages in D (`turned`).  With c the bits of the turned state around the digit, a branch has the
label

    (c mod M + 37 (c // M) + (u - w) M / 2^k) mod M

of M, of which label m + M/2 is meant to be the negative of m: branches that leave a state, and those that enter one,
are antipodal or orthogonal to each other, as in good convolutional codes.  A stage reads its scores as one strided view
of a row repeated, without a table.  Metrics are 16-bit integers: half the memory traffic of floats, and sums are exact.
Decisions are not stored: they are recomputed on the way back, for the visited states only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import KernelError

# Bounds of 16-bit metrics.  With |score| <= RANGE / D, metrics of reached states lie within 2 RANGE of the best one,
# which stays within RANGE of 0 when it is subtracted every D stages; UNREACHED, of which no best path can make up the
# distance in the D stages that such a state lives, drifts down by at most 2 RANGE more.
RANGE = 4000
UNREACHED = -20000

Shorts = NDArray[np.int16]
Integers = NDArray[np.int64]


def max_score(constraint_length: int, k: int) -> int:
    """Largest absolute score that a search takes."""
    return RANGE // (constraint_length // k)


def check(shape: tuple[int, ...], lengths: Integers, constraint_length: int, k: int) -> None:
    """Raise KernelError unless these arguments describe trellises.

    shape    that of the scores, [stages of all trellises, labels]
    lengths  int64 [T], stages of each trellis
    """
    if len(shape) != 2 or shape[1] < 2 or shape[1] & (shape[1] - 1):
        raise KernelError("scores must have the shape [stages, labels], the number of labels a power of two")
    if (len(lengths) and lengths.min() < 1) or lengths.sum() != shape[0]:
        raise KernelError("every trellis needs at least one stage, and all of them as many as there are scores")
    if k not in (1, 2, 4):
        raise KernelError("k must be 1, 2 or 4 bits per stage")
    if constraint_length < k or constraint_length % k or constraint_length // k > RANGE // 100:
        raise KernelError("the constraint length must be a positive multiple of k, at most 40 k")


def label_steps(labels: int, k: int) -> tuple[int, int]:
    """What the label grows by with the new symbol, and with the part of the state's other bits above the labels."""
    return max(1, labels >> k), 37


def turned(state: Any, digit: int, constraint_length: int, k: int) -> Any:
    """The ring (int or array) as the stage that overwrites `digit` sees it: its halves change places for later ones."""
    low = constraint_length // k // 2 * k  # bits of the second half
    if digit * k < constraint_length - low:
        return state
    return (state & ((1 << low) - 1)) << (constraint_length - low) | state >> low


def digit_shift(digit: int, constraint_length: int, k: int) -> int:
    """Bits below a digit in the ring as turned for it."""
    second = constraint_length // k - constraint_length // k // 2  # the first digit of the second half
    return constraint_length - k * ((digit if digit < second else digit - second) + 1)


def path_labels(symbols: Integers, lengths: Integers, constraint_length: int, k: int, labels: int) -> Integers:
    """Labels int64 [N] along paths int64 [N], one behind the other, of these lengths."""
    digits = constraint_length // k
    stage = np.arange(len(symbols)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded = np.concatenate([np.zeros(digits, np.int64), symbols])

    def symbol(back: int) -> Integers:
        return np.where(stage >= back, padded[digits - back : len(padded) - back], 0)

    state = np.zeros(len(symbols), np.int64)
    for back in range(1, digits):
        state |= symbol(back) << (constraint_length - k * ((stage - back) % digits + 1))
    rest = np.zeros_like(state)
    for digit in range(digits):  # turned, without the digit that the stage overwrites
        here = np.flatnonzero(stage % digits == digit)
        seen, shift = turned(state[here], digit, constraint_length, k), digit_shift(digit, constraint_length, k)
        rest[here] = seen >> k + shift << shift | seen & (1 << shift) - 1
    by_symbol, by_top = label_steps(labels, k)
    return (rest % labels + by_top * (rest // labels) + by_symbol * (symbols - symbol(digits))) % labels


def search_reference(
    scores: Shorts, lengths: Integers, constraint_length: int, k: int, flush: int
) -> tuple[NDArray[np.uint8], Integers]:
    """Backend.trellis_search (base.py) for NumPy arrays: the form that tests hold the compiled ones to.

    scores int16 [N, M], lengths int64 [T] -> (symbols uint8 [N], sums int64 [T]).  Raises KernelError.
    """
    check(scores.shape, lengths, constraint_length, k)
    symbols, sums = np.zeros(len(scores), np.uint8), np.zeros(len(lengths), np.int64)
    viterbi = Viterbi(constraint_length, k, scores.shape[1], int(lengths.max(initial=1)))
    for t, end in enumerate(np.cumsum(lengths)):
        rows = slice(end - lengths[t], end)
        symbols[rows], sums[t] = viterbi.search(scores[rows], flush)
    return symbols, sums


class Viterbi:
    """Search of one trellis after the other, of at most `stages` stages, in the same memory."""

    def __init__(self, constraint_length: int, k: int, labels: int, stages: int) -> None:
        self.length, self.k, self.labels = constraint_length, k, labels
        self.digits, self.states, self.symbols = constraint_length // k, 1 << constraint_length, 1 << k
        self.second = self.digits - self.digits // 2  # the first digit of the ring's second half
        self.metrics = np.empty((stages + 1, self.states), np.int16)  # as the stage that wrote them saw the ring
        self._turned = np.empty(self.states, np.int16)
        self._sums = np.empty((self.symbols, self.states), np.int16)
        parts = [self._parts(digit) for digit in range(self.digits)]
        reach = max(1 + sum(step * (n - 1) for step, n in zip(steps, shape, strict=True)) for shape, steps in parts)
        self._row = np.zeros((-(-reach // labels), labels), np.int16)
        self._views = [self._stage_views(*part) for part in parts]

    def _parts(self, digit: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The branches of a stage as a grid [w, two parts above the digit, u, two parts below]: shape, label steps."""
        below = 1 << digit_shift(digit, self.length, self.k)
        above = self.states // (below * self.symbols)
        by_symbol, by_top = label_steps(self.labels, self.k)
        low = min(above, max(1, self.labels // below))  # values of the part above the digit that end within the labels
        shape = (self.symbols, above // low, low, self.symbols, -(-below // self.labels), min(below, self.labels))
        return shape, (-by_symbol % self.labels, by_top * max(1, below // self.labels), below, by_symbol, by_top, 1)

    def _stage_views(self, shape: tuple[int, ...], steps: tuple[int, ...]) -> tuple[Shorts, Shorts, Shorts, Shorts]:
        """(scores, sums, old metrics of all stages, old metrics turned) as such grids that broadcast."""
        scores = np.lib.stride_tricks.as_strided(self._row.reshape(-1), shape, [2 * step for step in steps])

        def old(metrics: Shorts) -> Shorts:
            parts = metrics.reshape(-1, *shape[1:3], self.symbols, 1, *shape[4:])  # [stage, above, w, u, below]
            return parts.transpose(0, 3, 1, 2, 4, 5, 6)

        return scores, self._sums.reshape(shape), old(self.metrics), old(self._turned)[0]

    def search(self, scores: Shorts, flush: int) -> tuple[NDArray[np.uint8], int]:
        """Best path through one trellis: scores int16 [N, M] -> (symbols uint8 [N], sum)."""
        metrics, row, stages, second = self.metrics, self._row, len(scores), self.second
        half = 1 << self.k * (self.digits // 2)
        shape = (half, self.states // half)
        metrics[0] = UNREACHED
        metrics[0, 0] = 0
        taken = 0
        for j in range(stages):
            digit = j % self.digits
            row[:] = scores[j]
            view, sums, old, old_turned = self._views[digit]
            source = old[j]
            if digit == 0 and j:
                best = metrics[j].max()
                taken += int(best)
                np.subtract(metrics[j], best, out=metrics[j])
            if digit in (0, second) and j and self.digits > 1:
                rows, columns = shape if digit == 0 else shape[::-1]  # changing places transposes a matrix
                np.copyto(self._turned.reshape(columns, rows), metrics[j].reshape(rows, columns).T)
                source = old_turned
            np.add(view, source, out=sums)
            np.maximum.reduce(self._sums, axis=0, out=metrics[j + 1])
            if j >= stages - flush:
                below = 1 << digit_shift(digit, self.length, self.k)
                metrics[j + 1].reshape(-1, self.symbols, below)[:, 1:] = UNREACHED
        final = int(metrics[stages].argmax())
        return self._trace_back(scores, final), taken + int(metrics[stages, final])

    def _trace_back(self, scores: Shorts, state: int) -> NDArray[np.uint8]:
        """Symbols uint8 [N] of the path that ends in `state`, turned; plain integers beat arrays of four numbers."""
        length, k, labels, second, digits = self.length, self.k, self.labels, self.second, self.digits
        mask, (by_symbol, by_top) = self.symbols - 1, label_steps(labels, k)
        low = digits // 2 * k
        shifts = [digit_shift(digit, length, k) for digit in range(digits)]
        metrics, table = self.metrics.data, np.ascontiguousarray(scores).data
        path = bytearray(len(scores))
        for j in range(len(scores) - 1, -1, -1):
            digit = j % digits
            shift = shifts[digit]
            path[j] = symbol = state >> shift & mask
            below, above = state & (1 << shift) - 1, state >> shift + k
            rest = above << shift | below
            base, step = above << shift + k | below, 1 << shift
            label = rest % labels + by_top * (rest // labels) + by_symbol * symbol
            if digits > 1 and j and digit in (0, second):  # where the previous stage saw it
                right = low if digit == 0 else length - low
                # turning moves single digits too, so step follows
                base = (base & (1 << right) - 1) << length - right | base >> right
                step = step << length - right if shift < right else step >> right
            best = None
            for previous in range(base, base + step * (mask + 1), step):
                value = metrics[j, previous] + table[j, label % labels]
                if best is None or value > best:
                    best, state = value, previous
                label -= by_symbol
        return np.frombuffer(path, np.uint8)
