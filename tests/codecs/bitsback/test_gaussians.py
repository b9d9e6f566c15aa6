"""Integers around means on a stack, the stand-in that counts their bits, and the side information."""

from __future__ import annotations

import numpy as np
import pytest

from diffpress.codecs.bitsback.gaussians import MEANS_PER_BIN, CountingStack, GridGaussian, SideInformation
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


def test_side_information_describes_the_residuals() -> None:
    """Channels with unit noise each and a common error of the denoiser: stds and gains are those of regression."""
    rng = np.random.default_rng(0)
    common = 2.0 * rng.standard_normal(20000)
    side = SideInformation.fit([np.stack([common + rng.standard_normal(20000) for _ in range(3)])] * 3)
    assert side.gains(1)[0] / 64 == pytest.approx(4 / 5, abs=0.03)  # covariance over variance
    assert [gain / 64 for gain in side.gains(1)[1:]] == pytest.approx([4 / 9, 4 / 9], abs=0.03)
    variances = [side.std(1, position) ** 2 for position in range(3)]
    assert variances == pytest.approx([5, 5 - 16 / 5, 5 - 2 * 16 / 9], rel=0.05)


def test_side_information_is_interpolated_between_its_nodes() -> None:
    """20 steps whose stds grow evenly in log scale, as well described by 8 of them as by all."""
    rng = np.random.default_rng(0)
    residuals = [2.0 ** (step / 8) * rng.standard_normal((3, 5000)) for step in range(20)]
    few, every = SideInformation.fit(residuals), SideInformation.fit(residuals, 255)
    assert (len(few.data), len(every.data)) == (6 * 8, 6 * 20)
    for step in range(20):
        assert few.std(step, 0) == pytest.approx(2.0 ** (step / 8), rel=0.05)
        assert every.std(step, 0) == pytest.approx(2.0 ** (step / 8), rel=0.05)
        assert max(map(abs, few.gains(step))) < 5
