"""Samples have the law they should have, and cost what they may.

Statistics over fixed keys, so nothing here is random from run to run; tolerances are about four standard errors.
"""

import math

import numpy as np
import pytest
import torch
from gaussian_source import Source, coded, extra_bits, pfr_law, run

from diffpress.codecs.reverse_channel import get_coder
from diffpress.codecs.reverse_channel.codebook import Codebook, CoordinateRows, rotate, rotate_back
from diffpress.codecs.reverse_channel.index_code import MODELS, IndexCode, class_of, index_of, raw_bits
from diffpress.codecs.reverse_channel.trellis_format import stage_bounds
from diffpress.kernels import get_backend


def draws(name, options, size, bits, count):
    """(mu [d], samples [count, d]) with |mu|^2 = (v - 1) d, all float64."""
    mu = np.random.default_rng(size).standard_normal(size)
    mu *= math.sqrt(size * (2 ** (2 * bits / size) - 1)) / np.linalg.norm(mu)
    coder = get_coder(name, **options)
    samples = [coder.encode(mu.astype(np.float32), bits, key)[1] for key in range(count)]
    return mu, np.array(samples, np.float64)


@pytest.mark.parametrize(
    ("name", "options", "size", "bits", "count", "spread"),
    [
        ("pfr", {"chunk_bits": 6}, 64, 12.0, 150, (0.8, 1.2)),
        ("pfr", {"chunk_bits": 6}, 12, 18.0, 150, (0.8, 1.2)),  # v = 8
        ("pfr", {"chunk_bits": 5, "scoring": "fused"}, 40, 10.0, 100, (0.75, 1.25)),
        ("pfr", {"chunk_bits": 6, "variance": "unit"}, 300, 12.0, 100, (0.75, 1.25)),
        ("trellis", {"constraint_length": 10}, 64, 12.0, 150, (0.0, 1.15)),
        ("trellis", {"constraint_length": 10}, 1000, 100.0, 60, (0.0, 1.15)),
        ("trellis", {"constraint_length": 12}, 64, 80.0, 60, (0.0, 1.25)),  # v = 5.7
        ("trellis", {"constraint_length": 10, "variance": "unit"}, 1000, 24.0, 100, (0.0, 1.15)),
    ],
)
def test_samples_are_mu_plus_white_unit_noise(name, options, size, bits, count, spread):
    mu, samples = draws(name, options, size, bits, count)
    unit = mu / np.linalg.norm(mu)
    noise = samples - mu
    along = noise @ unit
    assert abs(along.mean()) / np.linalg.norm(mu) < 0.06  # the mean in the direction that is sent
    assert spread[0] < along.std() < spread[1]
    across = noise - along[:, None] * unit
    numbers = count * (size - 1)
    assert (across**2).sum() / numbers == pytest.approx(1, abs=4 * math.sqrt(2 / numbers) + 0.1 * min(1, bits / size))
    assert np.abs(across.mean(0)).max() * math.sqrt(count) < 4.5  # no coordinate is biased
    assert abs((across[:, 1:] * across[:, :-1]).mean()) < 4 / math.sqrt(numbers) + 1 / size  # neighbours
    assert (across**4).mean() / (across**2).mean() ** 2 == pytest.approx(3, abs=0.1 + 4 * math.sqrt(24 / numbers))


def test_truncation_delivers_less():
    """Why exact is the default: 2^(D + 2) candidates deliver a shrunken mean (docs/decisions/0011-pfr.md)."""
    mu, samples = draws("pfr", {"chunk_bits": 7, "mode": "truncated"}, 200, 7.0, 150)
    assert 0.7 < (samples @ mu).mean() / (mu @ mu) < 0.95


def test_searched_indices_follow_the_tabulated_law():
    """The law of index_masses.npy was simulated without a search; real searches must agree with it."""
    coder = get_coder("pfr", chunk_bits=6)
    bits, size = 60.0, 1500
    mu = np.random.default_rng(1).standard_normal(size)
    mu = (mu * math.sqrt(size * (2 ** (2 * bits / size) - 1)) / np.linalg.norm(mu)).astype(np.float32)
    lengths = [coder.cost(coder.encode(mu, bits, key)[0], size, bits, key) / 10 for key in range(12)]
    code = IndexCode("tabulated", 6.0, 1 << 40)
    masses = np.exp2(-np.array(code.lengths, float))  # Huffman's own idea of the law, within half a percent
    expected = (masses * (code.lengths + np.array([raw_bits(c) for c in range(len(masses))]))).sum() / masses.sum()
    assert np.mean(lengths) == pytest.approx(expected, abs=4 * 3.4 / math.sqrt(120))


def test_index_code_is_a_prefix_code_near_the_law():
    for model in MODELS:
        for kl in (0.5, 6, 14, 24):
            code = IndexCode(model, kl, 1 << 20)
            assert sum(2.0**-length for length in code.lengths) == 1
            indices = [0, 1, 2, 3, 6, 7, 100, 65535, (1 << 20) - 1]
            data = code.encode(indices)
            length = sum(code.lengths[label] + raw for label, _, raw in map(class_of, indices))
            assert code.decode(data + b"\x00\xff", len(indices)) == (indices, length)
    for index in [*range(3000), (1 << 40) - 2]:
        label, offset, raw = class_of(index)
        assert index_of(label, offset) == index
        assert raw == raw_bits(label)


def test_rotation_is_orthogonal_and_evens_out_energy():
    backend = get_backend("cpu")
    for size in (1, 2, 3, 100, 4097, 70000):
        signs = backend.sign_rows(1, 2, torch.zeros(1, dtype=torch.int64), size)[0]
        x = torch.zeros(size)
        x[: max(1, size // 50)] = 1.0
        y = rotate(x, signs)
        assert torch.allclose(rotate_back(y, signs), x, atol=1e-5)
        assert float(y.norm()) == pytest.approx(float(x.norm()), rel=1e-4)
        if size > 4000:
            quarters = torch.stack([q.square().sum() for q in y.chunk(4)])
            assert float(quarters.max() / quarters.min()) < 1.6


def test_codebook_blocks_equal_direct_scoring():
    backend = get_backend("cpu")
    rows = CoordinateRows(torch.tensor([0, 1300, 2600]))
    codebook = Codebook(backend, 3, 4, 64, rows.blocks, rows.columns)
    mu = backend.normal_rows(5, 6, torch.arange(1), 2600)[0]
    padded = rows.pad(mu)
    every = torch.stack([codebook.codewords(torch.tensor([i, i])) for i in range(64)], 1)
    direct = (every.double() * padded.double()[:, None]).sum((2, 3))
    assert torch.allclose(codebook.scores(codebook.matrix(), padded).double(), direct, atol=2e-3)
    energy = every[0].double().flatten(1)[:, :1300].square().sum(1)
    assert torch.allclose(codebook.energies(codebook.matrix(), torch.tensor([1300]))[0].double(), energy, atol=2e-2)
    assert torch.equal(rows.unpad(padded), mu)
    assert torch.equal(codebook.codewords(torch.tensor([7]), codebook.matrix()), codebook.codewords(torch.tensor([7])))


def test_stage_bounds_ramp_up_and_cover():
    for size, stages in [(1, 8), (50, 60), (8192, 100), (10**6, 500)]:
        bounds = stage_bounds(size, stages)
        assert bounds[0] == 0
        assert bounds[-1] == size
        assert (np.diff(bounds) >= 0).all()
    assert np.diff(stage_bounds(8192, 100))[0] * 5 < np.diff(stage_bounds(8192, 100))[-1]


def test_overhead_of_the_trellis_in_closed_loop():
    """Bits at equal MSE above ideal sampling, 200-bit steps on a small white source: below 10 %.

    Measured 2026-11-21: see docs/decisions/0010-trellis-coder.md.
    """
    source = Source(np.ones(1600))
    reference = source.expected(200.0, 6)

    def overhead(channel, seeds):
        each = []
        for seed in range(seeds):
            bits, mse, twin = run(source, channel, 200.0, 6, seed)
            each.append(extra_bits(bits, mse, *reference) - extra_bits(reference[0], twin, *reference))
        return np.mean(each)

    assert overhead(coded(get_coder("trellis")), 6) < 0.10
    assert overhead(pfr_law("zipf"), 40) > 0.20
