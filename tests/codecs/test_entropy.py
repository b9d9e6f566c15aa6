"""Entropy coding: round trips, prefixes, escapes, rates."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpress.codecs import CodecError
from diffpress.codecs.entropy import (
    BitStack,
    GaussianDecoder,
    SegmentDecoder,
    SegmentEncoder,
    StackEmpty,
    Table,
    integer_weights,
)
from helpers import encode_gaussians


@lru_cache
def gaussian_table(number: int) -> Table:
    k = np.arange(-15, 16)
    mass = np.exp(-0.5 * (k / (1 + number / 50)) ** 2)
    return Table(-15, integer_weights(np.concatenate([[1e-4], mass / mass.sum()])))


symbols_and_tables = st.lists(st.tuples(st.integers(-(2**23), 2**23) | st.integers(-20, 20), st.integers(0, 5)))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(symbols_and_tables, min_size=1, max_size=4))
def test_any_prefix_of_segments_decodes(segments: list[list[tuple[int, int]]]) -> None:
    """Symbols in the tables' range, -15 .. 15, and any others, which take the escape; segments without any, too."""
    encoder = SegmentEncoder()
    parts = [np.array(segment, np.int64).reshape(-1, 2).T for segment in segments]
    for symbols, index in parts:
        encoder.encode(symbols, index, gaussian_table)
        encoder.end_segment()
    written = encoder.segments()
    assert len(written) == len(segments)
    for sent in range(1, len(segments) + 1):
        decoder = SegmentDecoder(written[:sent])
        for symbols, index in parts[:sent]:
            assert np.array_equal(decoder.decode(index, gaussian_table), symbols)


def test_prefixes_of_long_segments_decode() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        encoder, parts = SegmentEncoder(), []
        for _ in range(4):
            index = rng.integers(0, 40, int(rng.integers(0, 300)))
            parts.append((np.rint(rng.normal(0, 1 + index / 50)).astype(int), index))
            encoder.encode(*parts[-1], gaussian_table)
            encoder.end_segment()
        segments = encoder.segments()
        for sent in range(1, 5):
            decoder = SegmentDecoder(segments[:sent])
            for symbols, index in parts[:sent]:
                assert np.array_equal(decoder.decode(index, gaussian_table), symbols)


gaussian = st.tuples(st.integers(-300, 300), st.floats(-1e6, 1e6), st.floats(2**-8, 1e6))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(gaussian, max_size=40), st.integers(0, 40))
def test_gaussians_code_any_integers_however_unlikely(values: list[tuple[int, float, float]], cut: int) -> None:
    symbols, means, stds = (np.array([value[i] for value in values]) for i in range(3))
    data = encode_gaussians(symbols.astype(np.int64), means, stds, -300, 300)
    decoder = GaussianDecoder(data, -300, 300)
    decoded = [decoder.decode(means[:cut], stds[:cut]), decoder.decode(means[cut:], stds[cut:])]
    assert np.array_equal(np.concatenate(decoded), symbols)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(gaussian, min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_stack_is_undone_in_the_opposite_order(values: list[tuple[int, float, float]], seed: int) -> None:
    """A sender that pops latents and pushes symbols, and a receiver that pops the symbols and pushes the latents."""
    words = np.random.default_rng(seed).integers(0, 2**32, 200, dtype=np.uint32)
    symbols, means, stds = (np.array([value[i] for value in values]) for i in range(3))
    sender = BitStack(words)
    latents = sender.pop(means, stds, -300, 300)
    sender.push(symbols.astype(np.int64), means, stds, -300, 300)
    receiver = BitStack(sender.words(), sealed=False)
    assert np.array_equal(receiver.pop(means, stds, -300, 300), symbols)
    receiver.push(latents, means, stds, -300, 300)
    assert np.array_equal(receiver.bottom(), words)


def test_stack_gives_back_what_was_drawn_from_it() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 500, dtype=np.uint32)
    stack = BitStack(words)
    means, stds = np.linspace(-0.5, 0.5, 1000), np.full(1000, 3.0)
    drawn = stack.pop(means, stds, -25, 25)
    assert abs((drawn - means).std() - 3.0) < 0.3
    stack.push(drawn, means, stds, -25, 25)
    assert np.array_equal(stack.bottom(), words)
    with pytest.raises(StackEmpty):
        BitStack(words[:20]).pop(means, stds, -25, 25)
    with pytest.raises(CodecError, match="outside"):
        stack.push(np.array([26]), means[:1], stds[:1], -25, 25)


def test_rate_is_the_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    index = rng.integers(0, 40, 100_000)
    symbols = np.clip(np.rint(rng.normal(0, 1 + index / 50)), -15, 15).astype(int)
    encoder = SegmentEncoder()
    encoder.encode(symbols, index, gaussian_table)
    encoder.end_segment()
    bits = 0.0
    for number in range(40):
        weights = gaussian_table(number).weights
        bits -= np.log2(weights[symbols[index == number] + 16] / weights.sum()).sum()
    assert 8 * len(encoder.segments()[0]) == pytest.approx(bits, rel=2e-4, abs=64)


@pytest.mark.parametrize("value", [16, -16, 17, 1000, -1000, 2**23, -(2**23)])
def test_escapes_return_any_value(value: int) -> None:
    encoder = SegmentEncoder()
    encoder.encode(np.array([0, value, 3]), np.zeros(3, int), gaussian_table)
    encoder.end_segment()
    assert SegmentDecoder(encoder.segments()).decode(np.zeros(3, int), gaussian_table).tolist() == [0, value, 3]


def test_impossible_values_and_lengths_are_refused() -> None:
    with pytest.raises(CodecError, match="too far"):
        SegmentEncoder().encode(np.array([2**30]), np.zeros(1, int), gaussian_table)
    for decoder in (SegmentDecoder, lambda data: GaussianDecoder(data[0], 0, 255)):
        with pytest.raises(CodecError, match="multiple of 4"):
            decoder([b"abc"])
    with pytest.raises(CodecError, match="usable number"):
        GaussianDecoder(bytes(8), 0, 255).decode(np.array([np.nan]), np.array([1.0]))


def test_gaussians_decode_in_pieces_at_the_expected_rate() -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(0, 256, 20_000)
    stds = rng.uniform(0.5, 8.0, values.size)
    means = values + rng.normal(0, stds)
    data = encode_gaussians(values, means, stds, 0, 255)
    decoder = GaussianDecoder(data, 0, 255)
    pieces = [decoder.decode(means[a:b], stds[a:b]) for a, b in ((0, 0), (0, 7), (7, 20_000))]
    assert np.array_equal(np.concatenate(pieces), values)
    ideal = (np.log2(stds) + 0.5 * np.log2(2 * np.pi * np.e)).mean()
    assert 8 * len(data) / values.size == pytest.approx(ideal, rel=0.02)


def test_stream_stays_readable() -> None:
    """Golden bytes: a change here breaks every file ever written."""
    encoder = SegmentEncoder()
    encoder.encode(np.array([0, 1, -2, 40, 5]), np.array([0, 3, 3, 1, 0]), gaussian_table)
    encoder.end_segment()
    assert encoder.segments()[0].hex() == "06e711b36f7ecd89"
    data = encode_gaussians(np.array([7, 200]), np.array([8.5, 190.0]), np.array([2.0, 5.0]), 0, 255)
    assert data.hex() == "d9efe14d"
