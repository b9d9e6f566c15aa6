"""A static prefix code for PFR indices: canonical Huffman over log-spaced classes, then raw offset bits.

Self-delimiting without a range coder's flush per step.  Class masses come from index_masses.npy as integers, for both
index models on a grid of chunk KLs, so every machine builds the same code (docs/decisions/0011-pfr.md says how they
were simulated).  Classes are quarters of octaves of index + 1, inside which both laws are nearly flat.
"""

from __future__ import annotations

import heapq
import io
from functools import lru_cache
from importlib import resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .interface import Buffer, PayloadError

IndexModel = Literal["tabulated", "zipf"]
MODELS: tuple[IndexModel, ...] = ("tabulated", "zipf")
MAX_OCTAVE = 40  # indices up to 2^40
GRID = 4  # table rows per bit of chunk KL
MAX_KL = 24.0


def class_of(index: int) -> tuple[int, int, int]:
    """(class, offset, offset bits) of an index >= 0."""
    m = index + 1
    octave = m.bit_length() - 1
    if octave < 2:
        return m - 1, 0, 0
    raw = octave - 2
    return 3 + 4 * raw + ((m >> raw) & 3), m & ((1 << raw) - 1), raw


def index_of(label: int, offset: int) -> int:
    """The index of class `label` with `offset`."""
    if label < 3:
        return label
    raw, quarter = divmod(label - 3, 4)
    return ((4 + quarter) << raw) + offset - 1


def raw_bits(label: int) -> int:
    """Offset bits of a class."""
    return 0 if label < 3 else (label - 3) // 4


@lru_cache(maxsize=1)
def _masses() -> NDArray[np.int64]:
    data = resources.files(__package__).joinpath("index_masses.npy").read_bytes()
    return np.load(io.BytesIO(data), allow_pickle=False).astype(np.int64)


def _code_lengths(masses: list[int]) -> list[int]:
    """Huffman code lengths; ties go to the symbol that was there first, so the code is unique."""
    if len(masses) == 1:
        return [1]
    heap = [(mass, i, [i]) for i, mass in enumerate(masses)]
    heapq.heapify(heap)
    lengths = [0] * len(masses)
    order = len(masses)
    while len(heap) > 1:
        mass0, _, members0 = heapq.heappop(heap)
        mass1, _, members1 = heapq.heappop(heap)
        for i in members0 + members1:
            lengths[i] += 1
        heapq.heappush(heap, (mass0 + mass1, order, members0 + members1))
        order += 1
    return lengths


class IndexCode:
    """The prefix code for chunks of `chunk_kl` bits and indices below `limit`."""

    def __init__(self, model: IndexModel, chunk_kl: float, limit: int) -> None:
        row = min(max(int(chunk_kl * GRID + 0.5), 1), int(MAX_KL * GRID)) - 1
        used = class_of(limit - 1)[0] + 1
        masses = _masses()[MODELS.index(model), row, :used]
        self.limit = limit
        self.lengths = _code_lengths(masses.tolist())
        self.codes = [0] * used
        self._symbols: dict[tuple[int, int], int] = {}
        code, length = 0, 0
        for label in sorted(range(used), key=lambda i: (self.lengths[i], i)):  # canonical: by length, then by class
            code <<= self.lengths[label] - length
            length = self.lengths[label]
            self.codes[label] = code
            self._symbols[length, code] = label
            code += 1

    def encode(self, indices: list[int]) -> bytes:
        """All indices, padded with zeros to whole bytes."""
        parts = []
        for index in indices:
            label, offset, raw = class_of(index)
            parts.append(f"{self.codes[label]:0{self.lengths[label]}b}" + (f"{offset:0{raw}b}" if raw else ""))
        text = "".join(parts)
        count = -(-len(text) // 8)
        value = int(text.ljust(8 * count, "0") or "0", 2)
        return value.to_bytes(count, "big")

    def decode(self, buffer: Buffer, count: int) -> tuple[list[int], int]:
        """(the first `count` indices in buffer, bits read); raises PayloadError where the buffer ends too early."""
        longest = (max(self.lengths) + MAX_OCTAVE) * count
        data = bytes(buffer[: -(-longest // 8)])
        text = bin(int.from_bytes(b"\x01" + data, "big"))[3:]
        position = 0
        indices = []
        for _ in range(count):
            code = length = 0
            while (length, code) not in self._symbols:
                if position == len(text):
                    raise PayloadError("the payload ends inside a chunk index")
                code = 2 * code + (text[position] == "1")
                position, length = position + 1, length + 1
            label = self._symbols[length, code]
            raw = raw_bits(label)
            if position + raw > len(text):
                raise PayloadError("the payload ends inside a chunk index")
            index = index_of(label, int(text[position : position + raw] or "0", 2))
            if index >= self.limit:
                raise PayloadError("the payload names a candidate that does not exist")
            indices.append(index)
            position += raw
        return indices, position


@lru_cache(maxsize=64)
def index_code(model: IndexModel, chunk_kl: float, limit: int) -> IndexCode:
    """The (cached) code; IndexCode objects are constants."""
    return IndexCode(model, chunk_kl, limit)
