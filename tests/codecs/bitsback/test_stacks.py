"""Integers around means on a stack, and the stand-in that counts their bits."""

from __future__ import annotations

import numpy as np
import pytest

from diffpress.codecs.bitsback.stacks import MEANS_PER_BIN, CountingStack, GridGaussian
from diffpress.codecs.entropy import BitStack


def test_arrays_of_any_shape_come_back_and_lie_around_their_means() -> None:
    rng = np.random.default_rng(0)
    means = [rng.integers(-(2**30), 2**30, shape) for shape in ((3, 8, 5), (1, 1), (2, 40, 40))]
    words = rng.integers(0, 2**32, 2000, dtype=np.uint32)
    stack, gaussian = BitStack(words), GridGaussian(std=2.5, reach=17)
    drawn = gaussian.pop_from(stack, means)
    errors = np.concatenate([(z - mean / MEANS_PER_BIN).ravel() for z, mean in zip(drawn, means, strict=True)])
    assert [z.shape for z in drawn] == [mean.shape for mean in means]
    assert errors.mean() == pytest.approx(0, abs=0.2)
    assert errors.std() == pytest.approx((2.5**2 + 1 / 12) ** 0.5, rel=0.05)  # rounding adds 1/12
    gaussian.push_onto(stack, drawn, means)
    assert np.array_equal(stack.bottom(), words)


def test_counted_bits_are_those_a_stack_takes_and_gives() -> None:
    rng = np.random.default_rng(0)
    means, stds = rng.uniform(-0.5, 0.5, 5000), rng.uniform(0.6, 6.0, 5000)
    symbols = np.rint(means + stds * rng.standard_normal(5000)).astype(np.int64)
    stack, counting = BitStack(np.zeros(1, np.uint32)), CountingStack()
    before = len(stack.words())
    for one in (stack, counting):
        one.push(symbols, means, stds, -60, 60)
    assert counting.bits == pytest.approx(32 * (len(stack.words()) - before), abs=64, rel=2e-3)
    counting.pop(means, stds, -60, 60)
    assert abs(counting.bits) < 200  # other symbols of the same distribution: the same entropy
