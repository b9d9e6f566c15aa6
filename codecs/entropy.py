"""Entropy coding: integers to bytes under known probabilities.  The only importer of constriction.

Four uses:
- `GaussianDecoder`: integers with a Gaussian each, as files of before 2026-11 have them;
- `SegmentEncoder`, `SegmentDecoder`: integers whose probabilities come from shared integer tables.  Symbols are grouped
  by table, so that each table is built once, and the stream is cut into segments of which any prefix decodes;
- `WeightsEncoder`, `WeightsDecoder`: integers with a row of weights each, in as many pieces as one likes;
- `BitStack`: a stack of bits from which samples can be drawn, for bits-back coding.

Everything runs in 24-bit fixed point on a range coder: the same parameters give the same bits on every machine.
Truncated or foreign data mostly decodes to garbage without an error; checking for that is the container's job.

>>> tables = lambda index: Table(-1, np.array([1.0, 10, 20, 10]))  # escape, then -1, 0, 1
>>> encoder = SegmentEncoder()
>>> encoder.encode(np.array([0, 1, -1, 7]), np.zeros(4, np.int64), tables)
>>> encoder.end_segment()
>>> SegmentDecoder(encoder.segments()).decode(np.zeros(4, np.int64), tables)
array([ 0,  1, -1,  7], dtype=int32)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from .base import CodecError

_model = constriction.stream.model
_queue = constriction.stream.queue
_stack = constriction.stream.stack

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
MAX_ESCAPE_BITS = 24  # escapes hold values up to 2^23 beyond their table


class Table(NamedTuple):
    """Probabilities of low, low + 1, ...: `weights` float64 [1 + K], any scale, all positive, the escape's first."""

    low: int
    weights: Floats


Tables = Callable[[int], Table]  # the table with a number, built on demand


def integer_weights(probabilities: Floats) -> Floats:
    """Probabilities rounded to whole multiples of 2^-20, at least one: the last bit of exp() no longer matters."""
    return np.maximum(np.rint(probabilities * (1 << 20)), 1.0)


class SegmentEncoder:
    """One range coder for a whole image, cut into segments of whole 32-bit words."""

    def __init__(self) -> None:
        self._coder = _queue.RangeEncoder()
        self._ends: list[int] = []

    def encode(self, symbols: Ints, index: Ints, tables: Tables) -> None:
        """Append integers `symbols` [N], the n-th under tables(index[n]); `index` [N] >= 0."""
        symbols, index = np.asarray(symbols, np.int64).ravel(), np.asarray(index, np.int64).ravel()
        excess = np.zeros_like(symbols)  # signed distance beyond the table, for escaped symbols
        for number, places in _groups(index):
            table = tables(number)
            code = symbols[places] - table.low + 1
            last = len(table.weights) - 1
            above, below = code - last, code - 1
            excess[places] = np.where(above > 0, above, np.where(below < 0, below, 0))
            code = np.where((above > 0) | (below < 0), 0, code)
            self._coder.encode(code.astype(np.int32), _categorical(table))
        self._encode_escapes(excess[excess != 0])

    def _encode_escapes(self, excess: Ints) -> None:
        for value in excess.tolist():
            size = abs(value).bit_length()
            if size > MAX_ESCAPE_BITS:
                raise CodecError("a value is too far from its prediction to be coded")
            self._coder.encode(int(value < 0), _model.Uniform(2))
            self._coder.encode(size - 1, _model.Uniform(MAX_ESCAPE_BITS))
            if size > 1:  # the leading bit is known
                self._coder.encode(abs(value) - (1 << size - 1), _model.Uniform(1 << size - 1))

    def end_segment(self) -> None:
        """Everything encoded so far decodes from the segments up to here."""
        # One word more than has been written is needed to tell the last symbols: num_words() alone failed 12 of 1,406
        # times (the coder holds back up to one word of state).
        self._ends.append(self._coder.num_words() + 1)

    def segments(self) -> list[bytes]:
        """All segments, little-endian; the last call of `end_segment` must come after the last `encode`."""
        words = np.asarray(self._coder.get_compressed(), "<u4")
        ends = [min(end, len(words)) for end in self._ends[:-1]] + [len(words)]
        return [words[a:b].tobytes() for a, b in zip([0, *ends[:-1]], ends, strict=True)]


class SegmentDecoder:
    """Decodes what :class:`SegmentEncoder` wrote, from its first segments."""

    def __init__(self, segments: Sequence[bytes]) -> None:
        """Raises CodecError if the segments are not whole words."""
        data = b"".join(segments)
        if len(data) % 4:
            raise CodecError("a segment's length is not a multiple of 4 bytes")
        self._coder = _queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def decode(self, index: Ints, tables: Tables) -> NDArray[np.int32]:
        """int32 [N], one value under each of tables(index[n]).  CodecError for data that no encoder has written."""
        index = np.asarray(index, np.int64).ravel()
        out = np.empty(len(index), np.int64)
        escaped = np.zeros(len(index), bool)
        high = np.zeros(len(index), np.int64)
        for number, places in _groups(index):
            table = tables(number)
            with _damage_as_codec_error():
                code = np.asarray(self._coder.decode(_categorical(table), len(places)), np.int64)
            out[places] = code + (table.low - 1)
            escaped[places] = code == 0
            high[places] = table.low + len(table.weights) - 2
        for place in np.flatnonzero(escaped):
            negative, excess = self._decode_escape()
            # an escaped place holds code 0, so out is one below the lowest value
            out[place] = out[place] + 1 - excess if negative else high[place] + excess
        return out.astype(np.int32)

    def _decode_escape(self) -> tuple[bool, int]:
        with _damage_as_codec_error():
            negative = self._coder.decode(_model.Uniform(2))
            size = self._coder.decode(_model.Uniform(MAX_ESCAPE_BITS)) + 1
            rest = self._coder.decode(_model.Uniform(1 << size - 1)) if size > 1 else 0
        return bool(negative), (1 << size - 1) + rest


@contextmanager
def _damage_as_codec_error() -> Iterator[None]:
    """Data that no encoder can have written makes constriction raise AssertionError or a Rust panic."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # PanicException derives from BaseException and has no importable name
        raise CodecError("the data does not fit the probabilities it is decoded with") from error


def _groups(index: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(table number, places that use it) in ascending order of number; places ascending."""
    narrow = index.astype(np.uint16) if index.size and index.max() < 1 << 16 else index  # sorted six times faster
    order = np.argsort(narrow, kind="stable")
    ordered = index[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    if not len(starts):
        return
    yield from zip(ordered[starts].tolist(), np.split(order, starts[1:]), strict=True)


def _categorical(table: Table) -> Any:
    # float64 and contiguous, or rows fail on their last symbol now and then; perfect=False, or it takes 40 times longer
    return _model.Categorical(np.ascontiguousarray(table.weights, np.float64), perfect=False)


class GaussianDecoder:
    """Decodes integers in low..high, the n-th coded under N(means[n], stds[n]^2) integrated over x - 1/2 .. x + 1/2, in
    any number of consecutive pieces.
    """

    def __init__(self, data: bytes, low: int, high: int) -> None:
        """Raises CodecError if `data` is not whole words."""
        if len(data) % 4:
            raise CodecError("a segment's length is not a multiple of 4 bytes")
        self._coder = _queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._gaussian = _model.QuantizedGaussian(low, high)

    def decode(self, means: Floats, stds: Floats) -> NDArray[np.int32]:
        """The next N integers, given their means [N] and stds [N]; CodecError for data that no encoder has written."""
        if not len(means):
            return np.empty(0, np.int32)
        parameters = _checked(means, stds)
        with _damage_as_codec_error():
            return np.asarray(self._coder.decode(self._gaussian, *parameters), np.int32)


def _checked(means: Floats, stds: Floats) -> tuple[Floats, Floats]:
    """The parameters as constriction takes them; CodecError for what it would encode wrongly without an error."""
    mean, std = np.ascontiguousarray(means, np.float64).ravel(), np.ascontiguousarray(stds, np.float64).ravel()
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise CodecError("a Gaussian's mean or standard deviation is not a usable number")
    return mean, std


class WeightsEncoder:
    """Range coder of integers 0 ... K - 1, each under its own row of K weights: float64, any scale, all positive."""

    def __init__(self) -> None:
        self._coder, self._model = _queue.RangeEncoder(), _model.Categorical(perfect=False)

    def encode(self, symbols: Ints, weights: Floats) -> None:
        """Append `symbols` [N] under `weights` [N, K], contiguous, N >= 1."""
        self._coder.encode(np.ascontiguousarray(symbols, np.int32), self._model, weights)

    def data(self) -> bytes:
        """Everything so far, in 32-bit words, little-endian."""
        return np.asarray(self._coder.get_compressed(), "<u4").tobytes()


class WeightsDecoder:
    """Decodes what `WeightsEncoder` wrote, in pieces of any size."""

    def __init__(self, data: bytes) -> None:
        """Raises CodecError if `data` is not whole words."""
        if len(data) % 4:
            raise CodecError("a segment's length is not a multiple of 4 bytes")
        self._coder = _queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._model = _model.Categorical(perfect=False)

    def decode(self, weights: Floats) -> NDArray[np.int32]:
        """The next N integers under `weights` [N, K]; CodecError for data that no encoder has written."""
        with _damage_as_codec_error():
            return np.asarray(self._coder.decode(self._model, weights), np.int32)


class StackEmpty(CodecError):
    """More was taken from a BitStack than it held."""


class BitStack:
    """Integers under Gaussians on a last-in-first-out stack of bits: ANS (Duda 2009) for bits-back coding.

    `pop` decodes: it turns bits of the stack into samples.  `push` encodes: it turns integers into bits.  Each undoes
    the other exactly.
    """

    def __init__(self, words: Ints, sealed: bool = True) -> None:
        """A stack with `words` [N], uint32, as its content.

        sealed  True: `words` are any bits at all, which `bottom` gives back; False: they are what `words()` of another
                stack returned; raises CodecError for words that no stack returns
        """
        with _damage_as_codec_error():
            self._coder = _stack.AnsCoder(np.ascontiguousarray(words, np.uint32), seal=sealed)

    def push(self, symbols: Ints, means: Floats, stds: Floats, low: int, high: int) -> None:
        """Put integers [N] in low..high on the stack, the n-th under N(means[n], stds[n]^2); raises CodecError."""
        values = np.ascontiguousarray(symbols, np.int32)
        if values.min() < low or values.max() > high:
            raise CodecError(f"a symbol lies outside {low}..{high}")
        model = _model.QuantizedGaussian(low, high)
        self._coder.encode_reverse(values, model, *_checked(means, stds))

    def pop(self, means: Floats, stds: Floats, low: int, high: int) -> NDArray[np.int32]:
        """Take integers [N] in low..high from the stack, distributed as `push` says; raises StackEmpty."""
        model = _model.QuantizedGaussian(low, high)
        values = self._coder.decode(model, *_checked(means, stds))
        if self._coder.num_words() < 2:  # constriction goes on below the bottom without a word
            raise StackEmpty("the stack of bits is empty")
        return np.asarray(values, np.int32)

    def words(self) -> NDArray[np.uint32]:
        """Everything on the stack [N], for a decoder's BitStack(words, sealed=False)."""
        return np.asarray(self._coder.get_compressed(), np.uint32)

    def bottom(self) -> NDArray[np.uint32]:
        """The words that the stack was put on; raises CodecError unless everything above has been undone."""
        try:
            return np.asarray(self._coder.get_compressed(unseal=True), np.uint32)
        except Exception as error:  # of no documented kind
            raise CodecError("the data does not fit the probabilities it is decoded with") from error
