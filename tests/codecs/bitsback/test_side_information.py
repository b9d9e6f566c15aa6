"""What is measured of the denoiser's errors, and how it is interpolated."""

from __future__ import annotations

import numpy as np
import pytest

from diffpress.codecs.bitsback.side_information import SideInformation


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
