"""Viterbi search of a circular shift-register trellis: the definition, in NumPy.

The register is a ring of D = L/k digits of k bits.  Stage j overwrites digit j mod D (digit 0 is the most significant)
with the new symbol u; the digit it replaces, w, is the oldest one.  Against a register that shifts this only renames
states, but every stage works in place on long contiguous rows; so that rows stay long for the last digits too, the ring
is turned by half at two stages in D (`turned`).  The branch from w into state i (turned) carries the label

    (i mod M + (M // 6 | 1) w + 37 (i // M)) mod M.

Distinct branches out of a state and into a state have distinct labels, and a stage reads its scores as one strided view
of a row repeated, without a table.  Metrics are 16-bit integers: half the memory traffic of floats, and sums are exact.
Decisions are not stored: they are recomputed on the way back, for the visited states only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import KernelError

# Bounds of 16-bit metrics.  With |score| <= RANGE / D, metrics of reached states lie within 2 RANGE of the best one,
# which stays within RANGE of 0 when it is subtracted every D stages; UNREACHED, of which no best path can make up the
# distance in the D stages that such a state lives, drifts down by at most 2 RANGE more.
RANGE = 4000
UNREACHED = -20000
SCRATCH = 1 << 29  # bytes of metrics that all threads may hold together

Shorts = NDArray[np.int16]
Integers = NDArray[np.int64]


def max_score(constraint_length: int, k: int) -> int:
    """Largest absolute score that a search takes."""
    return RANGE // (constraint_length // k)


def check(shape: tuple[int, ...], lengths: Integers, constraint_length: int, k: int) -> None:
    """Raises KernelError unless scores of this shape, with these lengths, describe trellises."""
    if len(shape) != 2 or shape[1] < 2 or shape[1] & (shape[1] - 1):
        raise KernelError("scores must have the shape [stages, labels], the number of labels a power of two")
    if (len(lengths) and lengths.min() < 1) or lengths.sum() != shape[0]:
        raise KernelError("every trellis needs at least one stage, and all of them as many as there are scores")
    if k < 1 or constraint_length < k or constraint_length % k or constraint_length // k > RANGE // 100:
        raise KernelError("the constraint length must be a positive multiple of k, at most 40 k")


def label_steps(labels: int) -> tuple[int, int]:
    """What the label grows by with the oldest symbol, and with the part of the state above the labels."""
    return labels // 6 | 1, 37


def turned(state: Any, digit: int, constraint_length: int, k: int) -> Any:
    """The ring (int or array) as the stage that overwrites `digit` sees it: its halves change places for later ones."""
    low = constraint_length // k // 2 * k  # bits of the second half
    if digit * k < constraint_length - low:
        return state
    return (state & ((1 << low) - 1)) << (constraint_length - low) | state >> low


def path_labels(symbols: Integers, lengths: Integers, constraint_length: int, k: int, labels: int) -> Integers:
    """Labels int64 [N] along paths int64 [N], one behind the other, of these lengths."""
    digits = constraint_length // k
    stage = np.arange(len(symbols)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded = np.concatenate([np.zeros(digits, np.int64), symbols])

    def symbol(back: int) -> Integers:
        return np.where(stage >= back, padded[digits - back : len(padded) - back], 0)

    state = np.zeros(len(symbols), np.int64)
    for back in range(digits):
        state |= symbol(back) << (constraint_length - k * ((stage - back) % digits + 1))
    for digit in range(digits):
        state[stage % digits == digit] = turned(state[stage % digits == digit], digit, constraint_length, k)
    by_oldest, by_top = label_steps(labels)
    return (state % labels + by_oldest * symbol(digits) + by_top * (state // labels)) % labels


def search_many(
    scores: Shorts, lengths: Integers, constraint_length: int, k: int, flush: int, threads: int
) -> tuple[NDArray[np.uint8], Integers]:
    """Backend.trellis_search (base.py) for NumPy arrays, the trellises shared out among threads."""
    check(scores.shape, lengths, constraint_length, k)
    symbols, metric = np.zeros(len(scores), np.uint8), np.zeros(len(lengths), np.int64)
    if not len(lengths):
        return symbols, metric
    ends, longest = np.cumsum(lengths), int(lengths.max())
    threads = max(1, min(threads, len(lengths), SCRATCH // (2 * longest << constraint_length)))

    def run(first: int) -> None:
        viterbi = Viterbi(constraint_length, k, scores.shape[1], longest)
        for t in range(first, len(lengths), threads):
            rows = slice(ends[t] - lengths[t], ends[t])
            symbols[rows], metric[t] = viterbi.search(scores[rows], flush)

    if threads == 1:
        run(0)
    else:  # NumPy releases the interpreter lock inside add and max
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(threads)))
    return symbols, metric


class Viterbi:
    """Search of one trellis after the other, of at most `stages` stages, in the same memory."""

    def __init__(self, constraint_length: int, k: int, labels: int, stages: int) -> None:
        self.length, self.k, self.labels = constraint_length, k, labels
        self.digits, self.states, self.symbols = constraint_length // k, 1 << constraint_length, 1 << k
        self.second = self.digits - self.digits // 2  # the first digit of the ring's second half
        self.metrics = np.empty((stages + 1, self.states), np.int16)  # as the stage that wrote them saw the ring
        self._turned = np.empty(self.states, np.int16)
        self._sums = np.empty((self.symbols, self.states), np.int16)
        by_oldest, by_top = label_steps(labels)
        low, top = min(labels, self.states), max(1, self.states // labels)
        reach = low + by_oldest * (self.symbols - 1) + by_top * (top - 1)
        self._row = np.zeros((-(-reach // labels), labels), np.int16)
        self._views = [self._stage_views(digit, by_oldest, by_top) for digit in range(self.digits)]

    def _stage_views(self, digit: int, by_oldest: int, by_top: int) -> tuple[Shorts, Shorts, Shorts, Shorts]:
        """(scores, sums, old metrics of all stages, old metrics turned) as [w, parts of i] that broadcast.

        The state i consists of parts that the digit u and the border between labels and states above cut out of it.
        """
        here = digit if digit < self.second else digit - self.second
        above, below = 1 << self.k * here, 1 << self.length - self.k * (here + 1)
        low = min(self.labels, self.states)
        # every part as (values, u among them, step of the label): from the most significant on
        if below >= low:
            parts = [(above, False), (self.symbols, True), (below // low, False), (low, False)]
        elif below * self.symbols > low:
            parts = [(above, False), (below * self.symbols // low, True), (low // below, True), (below, False)]
        else:
            parts = [(self.states // low, False), (above * low // self.states, False), (self.symbols, True),
                     (below, False)]  # fmt: skip
        shape, steps, place = [], [], self.states
        for values, _ in parts:
            place //= values
            shape.append(values)
            steps.append(place if place < low else place // low * by_top)
        strides = [2 * step for step in (by_oldest, *steps)]
        scores = np.lib.stride_tricks.as_strided(self._row.reshape(-1), (self.symbols, *shape), strides)
        without = [1 if is_digit else values for values, is_digit in parts]
        every = self.metrics.reshape(-1, above, self.symbols, below).transpose(0, 2, 1, 3)
        turned_ = self._turned.reshape(above, self.symbols, below).transpose(1, 0, 2)
        old = np.lib.stride_tricks.as_strided(
            every, (len(every), self.symbols, *without), (*every.strides[:2], *self._without(parts))
        )
        old_turned = np.lib.stride_tricks.as_strided(turned_, (self.symbols, *without),
                                                     (turned_.strides[0], *self._without(parts)))  # fmt: skip
        return scores, self._sums.reshape(self.symbols, *shape), old, old_turned

    def _without(self, parts: list[tuple[int, bool]]) -> list[int]:
        """Strides in bytes of the parts of i in the metrics, with the digit left at 0."""
        place, strides = self.states, []
        for values, _ in parts:
            place //= values
            strides.append(2 * place)
        return strides

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
                here = digit if digit < second else digit - second
                metrics[j + 1].reshape(1 << self.k * here, self.symbols, -1)[:, 1:] = UNREACHED
        final = int(metrics[stages].argmax())
        return self._trace_back(scores, final), taken + int(metrics[stages, final])

    def _trace_back(self, scores: Shorts, state: int) -> NDArray[np.uint8]:
        """Symbols uint8 [N] of the path that ends in `state`, turned; plain integers beat arrays of four numbers."""
        length, k, labels, second, digits = self.length, self.k, self.labels, self.second, self.digits
        mask, by_oldest, by_top = self.symbols - 1, *label_steps(labels)
        low = digits // 2 * k
        metrics, table = self.metrics.data, np.ascontiguousarray(scores).data
        path = bytearray(len(scores))
        for j in range(len(scores) - 1, -1, -1):
            digit = j % digits
            shift = length - k * ((digit if digit < second else digit - second) + 1)
            path[j] = state >> shift & mask
            base = state & ~(mask << shift)
            step, label = 1 << shift, state % labels + by_top * (state // labels)
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
                label += by_oldest
        return np.frombuffer(path, np.uint8)
