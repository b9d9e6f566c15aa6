"""Searches of the CPU backend against brute force."""

import itertools

import numpy as np
import pytest
import torch

from diffpress.kernels import KernelError, get_backend
from diffpress.kernels.trellis import search


def path_score(scores, labels, symbols, length, k):
    """Sum of the labels' scores along a path; symbols include the flush."""
    digits, state, total = length // k, 0, np.float32(0)
    for j, symbol in enumerate(map(int, symbols)):
        shift = length - k * (j % digits + 1)
        oldest = (state >> shift) & ((1 << k) - 1)
        state = (state & ~(((1 << k) - 1) << shift)) | (symbol << shift)
        total = np.float32(total + scores[j, labels[(oldest << length) + state]])
    return total


@pytest.mark.parametrize(("length", "k", "stages", "flush"), [(4, 1, 9, 0), (4, 2, 5, 1), (2, 2, 5, 0), (4, 4, 3, 1)])
def test_viterbi_is_exhaustive_search(length, k, stages, flush):
    rng = np.random.default_rng(length * k)
    scores = rng.standard_normal((stages, 8)).astype(np.float32)
    labels = rng.integers(0, 8, 1 << (length + k))
    path, metric = search(scores, labels, length, k, flush)
    every = itertools.product(*[range(1 << k)] * (stages - flush))
    best = max(path_score(scores, labels, (*free, *[0] * flush), length, k) for free in every)
    assert metric == pytest.approx(best, abs=1e-5)
    assert path_score(scores, labels, path, length, k) == metric
    assert (path[stages - flush :] == 0).all()


def test_trellises_of_different_length_are_independent():
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.standard_normal((3, 12, 16)).astype(np.float32))
    lengths, labels = torch.tensor([12, 7, 9]), torch.from_numpy(rng.integers(0, 16, 1 << 8))
    symbols, metric = get_backend("cpu").trellis_search(scores, lengths, labels, 6, 2, 2)
    for t, stages in enumerate(lengths.tolist()):
        alone, best = search(scores[t, :stages].numpy(), labels.numpy(), 6, 2, 2)
        assert symbols[t].tolist() == alone.tolist() + [0] * (12 - stages)
        assert metric[t] == best


def test_fused_pfr_equals_direct_scoring():
    backend = get_backend("cpu")
    mu = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 21)).astype(np.float32))
    times = torch.linspace(-3, 2, 500)
    best, index = backend.fused_pfr(mu, 9, 4, 1000, 500, times, 0.2)
    for c in range(3):
        z = backend.normal_rows(9, 4, (torch.arange(500) + 1000) * 3 + c, 21)
        score = (z @ mu[c] - 0.2 * (z * z).sum(1) - times).double()
        assert index[c] == score.argmax()
        assert best[c] == pytest.approx(float(score.max()), abs=1e-4)


def test_matrix_product_scoring_equals_direct_scoring():
    backend = get_backend("cpu")
    rng = np.random.default_rng(3)
    codebook, mu = (torch.from_numpy(rng.standard_normal(s).astype(np.float32)) for s in [(100, 40), (5, 40)])
    direct = np.array([[np.dot(z, m) for z in codebook.double().numpy()] for m in mu.double().numpy()])
    assert np.abs(backend.codebook_scores(codebook, mu).numpy() - direct).max() < 1e-4


def test_trellis_arguments_are_checked():
    backend = get_backend("cpu")
    scores, labels = torch.zeros(1, 4, 8), torch.zeros(64, dtype=torch.int64)
    with pytest.raises(KernelError, match="multiple of k"):
        backend.trellis_search(scores, torch.tensor([4]), labels, 5, 2, 0)
    with pytest.raises(KernelError, match="label"):
        backend.trellis_search(scores, torch.tensor([4]), labels, 6, 2, 0)
    with pytest.raises(KernelError, match="stage"):
        backend.trellis_search(scores, torch.tensor([5]), labels, 4, 2, 0)
    with pytest.raises(KernelError, match="shape"):
        backend.trellis_search(scores[0], torch.tensor([4]), labels, 4, 2, 0)
