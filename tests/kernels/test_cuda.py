"""The CuPy kernels and their launches: run by an emulator where there is a compiler, on a GPU where there is one.

The emulator checks the logic, the arguments and the barriers, the GPU tests (marker gpu) the rest.  What needs neither:
test_cuda_compile.py, test_launch.py and test_backends.py.
"""

import contextlib
import sys
import types

import numpy as np
import pytest
import torch
from cuda_emulator import EmulatedCupy, without_barrier

from diffpress.kernels import cuda, get_backend
from diffpress.kernels.cuda import CudaBackend, source
from diffpress.kernels.viterbi import max_score, search_reference

CPU = get_backend("cpu")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """Every kernel: the trellis for each k and size of cluster, and for k = 2 also without each of its barriers."""
    trellis = source("trellis.cu").removeprefix(source("philox.cu"))
    sources = {((), ""): source("pfr.cu")}
    sources |= {(options(k, cluster), ""): trellis for k in (1, 2, 4) for cluster in (1, 2, 4, 8)}
    for number in range(6):
        sources[options(2, 1), f"without {number}"] = without_barrier(trellis, number)
        sources[options(2, 2), f"without {number}"] = without_barrier(trellis, number, "__syncthreads()")
    with pytest.raises(IndexError):
        without_barrier(trellis, 6)
    return EmulatedCupy(tmp_path_factory.mktemp("emulator"), sources)


def options(k, cluster):
    return f"-DK={k}", f"-DCLUSTER={cluster}"


def share_trellises(backend, monkeypatch, trellises, cluster):
    """From now on `cluster` blocks share each of `trellises` trellises."""
    monkeypatch.setattr(cuda.launch, "CLUSTER_GROUPS", 1)
    monkeypatch.setattr(backend, "_clustered", trellises * cluster)


@pytest.fixture(params=["first thread first", "last thread first"])
def backend(emulated, monkeypatch, request):
    """The CUDA backend over the emulator, its tensors in main memory."""
    monkeypatch.setitem(sys.modules, "cupy", emulated)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=0))
    emulated.library.set_order(int(request.param == "last thread first"))
    cuda._kernel.cache_clear()
    made = object.__new__(CudaBackend)
    made.device, made._cupy = torch.device("cpu"), emulated
    made._shared_limit, made._clustered = 227 << 10, 0
    yield made
    cuda._kernel.cache_clear()


def test_randomness_equals_the_cpus(backend):
    key, stream, rows = 0x0123456789ABCDEF, 3 << 33, torch.tensor([0, 1, 5, (7 << 32) + 9, 77])
    assert torch.equal(backend.random_words(key, stream, rows), CPU.random_words(key, stream, rows))
    for columns, pitch in ((37, 64), (8, None), (1, None)):
        expected = CPU.normal_rows(key, stream, rows, columns, pitch)
        assert torch.equal(backend.normal_rows(key, stream, rows, columns, pitch), expected)
    for columns in (1, 128, 333):
        assert torch.equal(backend.sign_rows(key, stream, rows, columns), CPU.sign_rows(key, stream, rows, columns))


def test_fused_pfr_equals_the_cpus(backend):
    rng = np.random.default_rng(4)
    mu, times = torch.from_numpy(rng.standard_normal((2, 43)).astype(np.float32)), torch.linspace(-2, 2, 300)
    best, index = backend.fused_pfr(mu, 8, 9, 500, 300, times, 0.1)
    expected, where = CPU.fused_pfr(mu, 8, 9, 500, 300, times, 0.1)
    assert torch.allclose(best, expected, atol=1e-4)
    assert torch.equal(index, where)


@pytest.mark.parametrize(("shared_limit", "cluster"), [(0, 1), *[(227 << 10, cluster) for cluster in (1, 2, 4, 8)]])
@pytest.mark.parametrize(("length", "k", "flush"), [(6, 2, 3), (4, 1, 0), (10, 2, 1), (8, 4, 1), (2, 2, 0), (12, 2, 4)])
def test_trellis_equals_the_cpus(backend, length, k, flush, shared_limit, cluster, monkeypatch):
    rng, lengths = np.random.default_rng(5), torch.tensor([9, 1, 6])
    share_trellises(backend, monkeypatch, len(lengths), cluster)
    monkeypatch.setattr(backend, "_shared_limit", shared_limit)
    scores = torch.from_numpy(rng.integers(-9, 10, (16, 16)).astype(np.int16))  # few values, so that ties occur
    path, total = backend.trellis_search(scores, lengths, length, k, flush)
    expected, best = search_reference(scores.numpy(), lengths.numpy(), length, k, flush)
    assert np.array_equal(path, expected)
    assert np.array_equal(total, best)


@pytest.mark.parametrize("multiprocessors", [0, 132])
def test_trellis_at_the_size_in_use(backend, multiprocessors, monkeypatch):
    """2^16 states: one block of 1,024 threads, or as launch.py has it eight of them."""
    monkeypatch.setattr(backend, "_clustered", multiprocessors)
    scores = np.random.default_rng(6).integers(-500, 501, (11, 2048)).astype(np.int16)
    path, total = backend.trellis_search(torch.from_numpy(scores), torch.tensor([11]), 16, 2, 4)
    expected, best = search_reference(scores, np.array([11]), 16, 2, 4)
    assert np.array_equal(path, expected)
    assert np.array_equal(total, best)


@pytest.mark.parametrize(("length", "k", "cluster"), [(4, 2, 1), (8, 2, 1), (8, 2, 4), (6, 1, 1)])
def test_long_paths_at_the_largest_scores_do_not_overflow(backend, length, k, cluster, monkeypatch):
    """16-bit metrics: the best path's sum outgrows them many times over."""
    share_trellises(backend, monkeypatch, 1, cluster)
    top, lengths = max_score(length, k), np.array([400])
    scores = np.random.default_rng(length).choice([-top, top], (400, 64)).astype(np.int16)
    scores[300:] = -top  # and falls again
    symbols, total = backend.trellis_search(torch.from_numpy(scores), torch.from_numpy(lengths), length, k, 4)
    path, best = search_reference(scores, lengths, length, k, 4)
    assert np.array_equal(symbols.numpy(), path)
    assert int(total) == best[0] > 100 * top


@pytest.mark.parametrize("backend", ["first thread first"], indirect=True)
@pytest.mark.parametrize(("cluster", "barrier"), [*[(1, n) for n in range(5)], *[(2, n) for n in range(1, 6)]])
def test_a_missing_barrier_is_found(emulated, backend, cluster, barrier, monkeypatch):
    """Without one of the barriers, or with one of a block in place of a cluster's, one order gives another path.

    In a cluster the first one is of a block; only a cluster has the last one.
    """
    share_trellises(backend, monkeypatch, 1, cluster)
    lengths = np.array([30])
    scores = np.random.default_rng(1).integers(-99, 100, (30, 64)).astype(np.int16)
    path, best = search_reference(scores, lengths, 6, 2, 2)
    monkeypatch.setattr(emulated, "suffix", f"without {barrier}")
    agree = []
    for order in (0, 1):
        emulated.library.set_order(order)
        symbols, total = backend.trellis_search(torch.from_numpy(scores), torch.from_numpy(lengths), 6, 2, 2)
        agree.append(np.array_equal(symbols.numpy(), path) and int(total) == best[0])
    assert not all(agree)


@pytest.fixture(scope="module")
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    pytest.importorskip("cupy")
    return get_backend("cuda")


@pytest.mark.gpu
def test_gpu_randomness_equals_cpu(gpu):
    cpu, rows = get_backend("cpu"), torch.arange(300) * 12345
    for ours, theirs in [
        (gpu.random_words(3, 4, rows.cuda()), cpu.random_words(3, 4, rows)),
        (gpu.normal_rows(3, 4, rows.cuda(), 77, 64), cpu.normal_rows(3, 4, rows, 77, 64)),
        (gpu.sign_rows(3, 4, rows.cuda(), 333), cpu.sign_rows(3, 4, rows, 333)),
    ]:
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("cluster", [1, 2, 4, 8])
@pytest.mark.parametrize(("length", "k"), [(12, 2), (16, 2), (12, 4), (11, 1)])
def test_gpu_trellis_equals_cpu(gpu, length, k, cluster, monkeypatch):
    if cluster > 1 and not gpu._clustered:
        pytest.skip("needs a GPU that can launch clusters")
    rng = torch.Generator().manual_seed(1)
    lengths = torch.tensor([60, 3, 59, 60, 17])
    scores = torch.randint(-300, 301, (int(lengths.sum()), 256), generator=rng, dtype=torch.int16)
    share_trellises(gpu, monkeypatch, len(lengths), cluster)
    path, total = gpu.trellis_search(scores.cuda(), lengths, length, k, 2)
    expected, best = get_backend("cpu").trellis_search(scores, lengths, length, k, 2)
    assert torch.equal(path.cpu(), expected)
    assert torch.equal(total.cpu(), best)


@pytest.mark.gpu
def test_gpu_pfr_equals_cpu(gpu):
    rng = torch.Generator().manual_seed(2)
    mu, times = 0.3 * torch.randn(4, 500, generator=rng), torch.arange(1, 3001).log()
    best, index = gpu.fused_pfr(mu.cuda(), 7, 8, 11, 3000, times.cuda(), 0.05)
    expected, where = get_backend("cpu").fused_pfr(mu, 7, 8, 11, 3000, times, 0.05)
    assert torch.allclose(best.cpu(), expected, atol=1e-3)
    assert torch.equal(index.cpu(), where)
    codebook = get_backend("cpu").normal_rows(1, 2, torch.arange(100), 500)
    scores = gpu.codebook_scores(codebook.cuda(), mu.cuda()).cpu()
    assert torch.allclose(scores, get_backend("cpu").codebook_scores(codebook, mu), atol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["pfr", "trellis"])
def test_gpu_samples_equal_cpu_samples(gpu, name):
    from diffpress.codecs.reverse_channel import get_coder

    coder = get_coder(name)
    mu = torch.from_numpy(np.random.default_rng(3).standard_normal(5000).astype(np.float32)).cuda() * 0.1
    payload, sample = coder.encode(mu, 36.0, 5)
    assert sample.is_cuda
    assert torch.equal(coder.decode(payload, 5000, 36.0, 5), sample.cpu())
    assert torch.equal(coder.decode(payload, 5000, 36.0, 5, like=mu), sample)
