"""Searches of the CPU backend against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpress.kernels import KernelError, get_backend
from diffpress.kernels.viterbi import max_score, path_labels, search_reference
from diffpress.kernels.viterbi_numba import search_many


def path_score(scores, symbols, length, k):
    """Sum of the labels' scores along a path; symbols include the flush."""
    labels = path_labels(np.array(symbols, np.int64), np.array([len(scores)]), length, k, scores.shape[1])
    return int(np.take_along_axis(scores, labels[:, None], 1).sum())


@pytest.mark.parametrize(
    ("length", "k", "stages", "flush", "labels"),
    [(4, 1, 9, 0, 8), (4, 2, 5, 1, 8), (2, 2, 5, 0, 8), (4, 4, 3, 1, 8), (6, 2, 6, 1, 4), (5, 1, 12, 2, 256)],
)
def test_viterbi_is_exhaustive_search(length, k, stages, flush, labels):
    rng = np.random.default_rng(length * k)
    scores = rng.integers(-99, 100, (stages, labels)).astype(np.int16)
    path, total = search_reference(scores, np.array([stages]), length, k, flush)
    every = itertools.product(*[range(1 << k)] * (stages - flush))
    best = max(path_score(scores, (*free, *[0] * flush), length, k) for free in every)
    assert total[0] == best
    assert path_score(scores, path, length, k) == best
    assert (path[stages - flush :] == 0).all()


@pytest.mark.parametrize(("length", "k"), [(4, 2), (10, 2), (16, 2), (12, 1), (12, 4)])
def test_labels_tell_neighbouring_branches_apart(length, k):
    """All symbols out of a state, and all oldest symbols into one, have labels of their own at every stage."""
    digits, rng = length // k, np.random.default_rng(1)
    for stage in range(2 * digits):
        path = rng.integers(0, 1 << k, 2 * digits)
        for place in {stage, stage - digits} & set(range(stage + 1)):
            symbols = np.tile(path, (1 << k, 1))
            symbols[:, place] = np.arange(1 << k)
            lengths = np.full(1 << k, 2 * digits)
            labels = path_labels(symbols.reshape(-1), lengths, length, k, 2048).reshape(1 << k, -1)
            assert len(set(labels[:, stage].tolist())) == 1 << k
            assert len(set((labels[:, stage] % (2048 >> k)).tolist())) == 1  # half of them negatives of the others
            assert (labels == labels[0])[:, :place].all()  # a label depends on what came before it


def test_long_paths_at_the_largest_scores_do_not_overflow():
    """16-bit metrics: the best path's sum outgrows them many times over."""
    for length, k, flush in [(4, 2, 4), (12, 2, 4), (12, 1, 4), (2, 2, 0)]:
        top = max_score(length, k)
        scores = np.random.default_rng(length).choice([-top, top], (400, 64)).astype(np.int16)
        scores[300:] = -top  # and falls again
        path, total = search_reference(scores, np.array([400]), length, k, flush)
        assert total[0] == path_score(scores, path, length, k)
        assert total[0] > 150 * top
        assert (path[400 - flush :] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(k * digits, k) for k in (1, 2, 4) for digits in (1, 2, 3, 5, 6, 8) if k * digits <= 16]),
    log_labels=st.integers(1, 12),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    flush=st.integers(0, 5),
    few=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1 << 30),
)
def test_compiled_search_makes_the_decisions_of_the_reference(shape, log_labels, lengths, flush, few, threads, seed):
    """Few distinct scores, so that ties occur, or scores as large as they may be."""
    length, k = shape
    top = 2 if few else max_score(length, k)
    size = sum(lengths), 1 << log_labels
    scores = np.random.default_rng(seed).integers(-top, top + 1, size).astype(np.int16)
    path, total = search_many(scores, np.array(lengths), length, k, flush, threads)
    expected, best = search_reference(scores, np.array(lengths), length, k, flush)
    assert np.array_equal(path, expected)
    assert np.array_equal(total, best)


@pytest.mark.parametrize(("length", "k", "stages", "labels"), [(16, 2, 504, 2048), (14, 2, 90, 2048), (18, 2, 40, 256)])
def test_compiled_search_at_the_sizes_in_use(length, k, stages, labels):
    noise = np.random.default_rng(length).standard_normal((stages, labels))
    scores = np.clip(100 * noise, -max_score(length, k), max_score(length, k)).astype(np.int16)
    path, total = search_many(scores, np.array([stages]), length, k, 4, 1)
    expected, best = search_reference(scores, np.array([stages]), length, k, 4)
    assert np.array_equal(path, expected)
    assert np.array_equal(total, best)


def test_trellises_of_different_length_are_independent():
    rng = np.random.default_rng(1)
    lengths = torch.tensor([12, 7, 9])
    scores = torch.from_numpy(rng.integers(-99, 100, (28, 16)).astype(np.int16))
    symbols, total = get_backend("cpu").trellis_search(scores, lengths, 6, 2, 2)
    for t, part in enumerate(scores.split(lengths.tolist())):
        alone, best = get_backend("cpu").trellis_search(part, lengths[t : t + 1], 6, 2, 2)
        assert torch.equal(symbols.split(lengths.tolist())[t], alone)
        assert total[t] == best[0]


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
    scores = torch.zeros(4, 8, dtype=torch.int16)
    with pytest.raises(KernelError, match="multiple of k"):
        backend.trellis_search(scores, torch.tensor([4]), 5, 2, 0)
    with pytest.raises(KernelError, match="power of two"):
        backend.trellis_search(scores[:, :6], torch.tensor([4]), 4, 2, 0)
    with pytest.raises(KernelError, match="stage"):
        backend.trellis_search(scores, torch.tensor([5]), 4, 2, 0)
    with pytest.raises(KernelError, match="shape"):
        backend.trellis_search(scores[0], torch.tensor([4]), 4, 2, 0)
