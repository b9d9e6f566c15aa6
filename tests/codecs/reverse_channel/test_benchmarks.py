"""The benchmarks of the coders run on what the coders offer."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.codecs.reverse_channel import get_coder

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
import diffc_latent


@pytest.mark.parametrize("name", ["pfr", "trellis"])
def test_a_coder_under_a_clock_is_still_that_coder(name):
    """DiffC asks for the coder of a step, then for many groups at once: both go through the clock."""
    clock = diffc_latent.Clock(torch.device("cpu"))
    coder, timed = get_coder(name).for_step(9.0), diffc_latent.TimedCoder(get_coder(name), clock).for_step(9.0)
    mus = [np.full(40, 0.3, np.float32), np.full(60, 0.2, np.float32)]
    pairs = timed.encode_many(mus, [5.0, 4.0], [1, 2])
    assert [payload for payload, _ in pairs] == [payload for payload, _ in coder.encode_many(mus, [5.0, 4.0], [1, 2])]
    samples = timed.decode_many([payload for payload, _ in pairs], [40, 60], [5.0, 4.0], [1, 2], like=mus[0])
    assert all(np.array_equal(sample, x) for sample, (_, x) in zip(samples, pairs, strict=True))
    assert timed.name == name
    assert timed.fixed_size(40, 5.0, 1) == coder.fixed_size(40, 5.0, 1)
    assert clock.spent["coder"] > 0
