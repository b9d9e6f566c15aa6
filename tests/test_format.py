"""A second decoder, written from docs/format.md alone: entropy coding, shared randomness and the trellis' labels."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence

import constriction
import numpy as np
import torch

from diffpress.codecs.diffc.header import DICTIONARY
from diffpress.kernels import get_backend
from diffpress.kernels.backend import normal_table
from diffpress.kernels.viterbi import path_labels

MASK = 2**64 - 1
Cumulative = list[int]  # C(0) ... C(n), the last one 2^24


def categorical(weights: Sequence[float]) -> Cumulative:
    sums = [0.0, *np.add.accumulate(weights).tolist()]
    scale = (2**24 - len(weights)) / sums[-1]
    return [int(before * scale) + k for k, before in enumerate(sums[:-1])] + [2**24]


def gaussian(mean: float, std: float, low: int, high: int) -> Cumulative:
    free = 2**24 - 1 - high + low
    below = [math.erfc((mean + 0.5 - v) / std / math.sqrt(2)) / 2 for v in range(low + 1, high + 1)]
    return [0, *(int(free * mass) + k for k, mass in enumerate(below, 1)), 2**24]


def uniform(count: int) -> Cumulative:
    return [k * (2**24 // count) for k in range(count)] + [2**24]


class RangeDecoder:
    def __init__(self, words: Sequence[int]) -> None:
        self.words, self.lower, self.range = iter([*map(int, words), *[0] * 8]), 0, MASK
        self.point = next(self.words) << 32 | next(self.words)

    def next(self, ends: Cumulative) -> int:
        scale = self.range >> 24
        k = bisect_right(ends, (self.point - self.lower & MASK) // scale) - 1
        self.lower, self.range = self.lower + scale * ends[k] & MASK, scale * (ends[k + 1] - ends[k])
        if self.range < 1 << 32:
            self.lower, self.range = self.lower << 32 & MASK, self.range << 32
            self.point = self.point << 32 & MASK | next(self.words)
        return k


class Stack:
    def __init__(self, words: Sequence[int]) -> None:
        self.words = [*map(int, words)]
        self.state = self.words.pop() << 32 | self.words.pop()

    def pop(self, ends: Cumulative) -> int:
        low = self.state & (1 << 24) - 1
        k = bisect_right(ends, low) - 1
        self.state = (self.state >> 24) * (ends[k + 1] - ends[k]) + low - ends[k]
        if self.state < 1 << 32:
            self.state = self.state << 32 | self.words.pop()
        return k


def test_range_coder() -> None:
    rng, model = np.random.default_rng(0), constriction.stream.model
    encoder, symbols, ends = constriction.stream.queue.RangeEncoder(), [], []
    for _ in range(100):
        weights = np.maximum(np.rint(rng.random(9) * 2**18), 1.0)
        mean, std = rng.random() * 255, 0.06 + rng.random() * 40
        drawn = [int(rng.integers(9)), int(np.clip(round(mean + std * rng.standard_normal()), 0, 255)), 17]
        encoder.encode(np.array(drawn[:1], np.int32), model.Categorical(weights, perfect=False))
        encoder.encode(
            np.array(drawn[1:2], np.int32), model.QuantizedGaussian(0, 255), np.array([mean]), np.array([std])
        )
        encoder.encode(drawn[2], model.Uniform(24))
        symbols += drawn
        ends += [categorical(weights.tolist()), gaussian(mean, std, 0, 255), uniform(24)]
    decoder = RangeDecoder(encoder.get_compressed())
    assert [decoder.next(one) for one in ends] == symbols


def test_stack() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(0, 2**32, 60, dtype=np.uint32)
    means, stds = rng.random(100) * 255, 0.1 + rng.random(100) * 30
    coder = constriction.stream.stack.AnsCoder(words, seal=True)
    drawn = coder.decode(constriction.stream.model.QuantizedGaussian(0, 255), means, stds)
    stack = Stack([*words, 1])
    assert [stack.pop(gaussian(*one, 0, 255)) for one in zip(means, stds, strict=True)] == drawn.tolist()
    assert [*stack.words, stack.state & 2**32 - 1, stack.state >> 32] == coder.get_compressed().tolist()


def philox(key: int, stream: int, position: int) -> list[int]:
    c, k = [position % 2**32, position >> 32, stream % 2**32, stream >> 32], [key % 2**32, key >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q % 2**32, p >> 32 ^ c[3] ^ k[1], p % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def test_normals_and_signs() -> None:
    key, stream = 0x0123456789ABCDEF, (3 << 32) + 1
    words = philox(key, stream, 65) + philox(key, stream, 66)
    halves = [half for word in words for half in (word % 2**16, word >> 16)]
    rows = get_backend("cpu").normal_rows(key, stream, torch.tensor([1]), 100, 64)[0]
    assert rows[8:24].tolist() == normal_table()[halves].tolist()
    bits = [word >> bit & 1 for word in philox(key, stream, 2) for bit in range(32)]
    signs = get_backend("cpu").sign_rows(key, stream, torch.tensor([1]), 200)[0]
    assert signs[:128].tolist() == [1.0 - 2.0 * bit for bit in bits]


def test_normal_table() -> None:
    edges = torch.special.ndtri(0.5 + torch.arange(32769, dtype=torch.float64) / 65536)
    density = torch.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
    values = (density[:-1] - density[1:]) * 65536
    upper = (values / values.square().mean().sqrt()).numpy()
    np.testing.assert_allclose(normal_table()[32768:], upper, rtol=1e-6)
    np.testing.assert_array_equal(normal_table()[:32768], -normal_table()[:32767:-1])


def test_trellis_labels() -> None:
    symbols = np.random.default_rng(2).integers(0, 4, 50)
    for length in (12, 14, 16):
        digits, moved = length // 2, length // 4
        ring, expected = [0] * digits, []
        for stage, symbol in enumerate(symbols.tolist()):
            i = stage % digits
            rest = [digit for place, digit in enumerate(ring) if place != i]
            if i >= digits - moved:  # the last digits are read first
                first = digits - moved
                rest = ring[first:i] + ring[i + 1 :] + ring[:first]
            c = int("".join(map(str, rest)), 4)
            expected.append((c % 2048 + 37 * (c // 2048) + 512 * (symbol - ring[i])) % 2048)
            ring[i] = symbol
        assert path_labels(symbols, np.array([len(symbols)]), length, 2, 2048).tolist() == expected


def test_prompt_dictionary() -> None:
    assert hashlib.sha256(DICTIONARY).hexdigest() == "b73e8f520d0d7e0b64b627d57392b030a661b00034d9dc3caa4a3718898df2f6"
