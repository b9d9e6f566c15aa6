"""Viterbi search of a circular shift-register trellis: the definition, in NumPy.

What runs is viterbi_numba.py on the CPU and trellis.cu on a GPU; both must make the decisions of this file.  Source:
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
`search_reference` is the plain form: it does without the turning, but for the labels, and without 16-bit metrics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import KernelError

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
    if not k <= constraint_length <= 24 or constraint_length % k:
        raise KernelError("the constraint length must be a multiple of k, from k to 24")


def label_steps(labels: int, k: int) -> tuple[int, int]:
    """What the label grows by with the new symbol, and with the part of the state's other bits above the labels."""
    return max(1, labels >> k), 37


def decision_bytes(constraint_length: int, k: int) -> int:
    """Bytes of decisions per stage: k bits for each of 2^L states, whole bytes for each group of 2^k states."""
    return max(1, k << k >> 3) << constraint_length - k


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


def branch_labels(state: Any, digit: int, difference: Any, constraint_length: int, k: int, labels: int) -> Any:
    """Labels of branches at a stage that overwrites `digit`: ints, or arrays of one shape.

    state       the ring before or after the branch, which differ in that digit alone
    difference  u - w
    """
    seen, shift = turned(state, digit, constraint_length, k), digit_shift(digit, constraint_length, k)
    rest = seen >> k + shift << shift | seen & (1 << shift) - 1  # without the digit
    by_symbol, by_top = label_steps(labels, k)
    return (rest % labels + by_top * (rest // labels) + by_symbol * difference) % labels


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
    difference, result = symbols - symbol(digits), np.zeros_like(state)
    for digit in range(digits):
        here = np.flatnonzero(stage % digits == digit)
        result[here] = branch_labels(state[here], digit, difference[here], constraint_length, k, labels)
    return result


def search_reference(
    scores: Shorts, lengths: Integers, constraint_length: int, k: int, flush: int
) -> tuple[NDArray[np.uint8], Integers]:
    """Backend.trellis_search for NumPy arrays: the form that tests hold the compiled ones to.

    scores int16 [N, M], lengths int64 [T] -> (symbols uint8 [N], sums int64 [T]).  Raises KernelError.
    """
    check(scores.shape, lengths, constraint_length, k)
    symbols, sums = np.zeros(len(scores), np.uint8), np.zeros(len(lengths), np.int64)
    state, oldest = np.arange(1 << constraint_length, dtype=np.int32), np.arange(1 << k, dtype=np.int32)[:, None]
    shifts = [constraint_length - k * (digit + 1) for digit in range(constraint_length // k)]
    branches = []  # for each digit: the states [2^k, 2^L] that lead to a state, and the labels on the way
    for digit, shift in enumerate(shifts):
        new = state >> shift & (1 << k) - 1
        label = branch_labels(state, digit, new - oldest, constraint_length, k, scores.shape[1])
        branches.append((state - (new << shift) + (oldest << shift), label))
    for t, end in enumerate(np.cumsum(lengths)):
        rows = range(end - lengths[t], end)
        metrics = np.full(len(state), -(1 << 40))  # of states that cannot be reached
        metrics[0] = 0
        decisions = np.empty((len(rows), len(state)), np.uint8)
        for j, row in enumerate(rows):
            digit = j % len(shifts)
            previous, label = branches[digit]
            reached = metrics[previous] + scores[row][label]
            decisions[j] = reached.argmax(0)  # the first of equal ones
            metrics = reached.max(0)
            if j >= len(rows) - flush:
                metrics[state >> shifts[digit] & (1 << k) - 1 > 0] = -(1 << 40)
        sums[t] = metrics.max()
        best = np.flatnonzero(metrics == sums[t])
        final = int(best[turned(best, digit, constraint_length, k).argmin()])
        for j, row in reversed(list(enumerate(rows))):
            shift = shifts[j % len(shifts)]
            symbols[row] = final >> shift & (1 << k) - 1
            final += (int(decisions[j, final]) - int(symbols[row])) << shift
    return symbols, sums
