"""The CuPy kernels: run as C++ where there is a compiler, on a GPU where there is one.

The C++ run puts the very .cu source behind a shim that runs the threads of a block one after the other, each up to its
next barrier, in either order: where two threads touch the same memory between two barriers, one of the orders computes
something else.  It checks the logic, the GPU tests (marker gpu) check the rest.  What needs neither:
test_cuda_compile.py, test_launch.py and test_backends.py.
"""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch

from diffpress.kernels import get_backend
from diffpress.kernels.backend import normal_table
from diffpress.kernels.cuda import source
from diffpress.kernels.viterbi import decision_bytes, label_steps, max_score, search_reference

SHIM = """
#include <algorithm>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
#define __device__
#define __launch_bounds__(threads)
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
struct Dim { long long x, y; };
struct Fiber { ucontext_t context; std::vector<char> stack; bool done; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
static std::vector<Fiber> block;
static std::function<void()> body;
static ucontext_t scheduler;
static int running, backwards;
static float lanes[1024];
extern "C" void set_order(int last_thread_first) { backwards = last_thread_first; }
static void __syncthreads() { swapcontext(&block[running].context, &scheduler); }
static void run_fiber() { body(); block[running].done = true; }
static float __int_as_float(unsigned i) { float f; std::memcpy(&f, &i, 4); return f; }
static float __shfl_xor_sync(unsigned, float v, int step) {  // one warp per block: all threads take part
    lanes[threadIdx.x] = v; __syncthreads();
    float other = lanes[threadIdx.x ^ step]; __syncthreads();
    return other;
}
static long long min(long long a, long long b) { return std::min(a, b); }
static int max(int a, int b) { return std::max(a, b); }
template <class F> void launch(int gx, int gy, int threads, F kernel) {
    blockDim = {threads, 1}; gridDim = {gx, gy}; body = kernel;
    for (int y = 0; y < gy; ++y) for (int x = 0; x < gx; ++x) {
        blockIdx = {x, y};
        block = std::vector<Fiber>(threads);
        for (Fiber& fiber : block) {
            getcontext(&fiber.context);
            fiber.stack.resize(1 << 16);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = &scheduler;
            makecontext(&fiber.context, run_fiber, 0);
        }
        for (bool alive = true; alive;) {
            alive = false;
            for (int n = 0; n < threads; ++n) {  // each up to its next barrier
                running = backwards ? threads - 1 - n : n;
                if (block[running].done) continue;
                threadIdx = {running, 0};
                swapcontext(&scheduler, &block[running].context);
                alive |= !block[running].done;
            }
        }
    }
}
"""
ENTRY = """
extern "C" void run_words(const long long* c, long long n, u64 key, u64 stream, long long* out) {
    launch((n + 3) / 4, 1, 4, [=] { random_words(c, n, key, stream, out); });
}
extern "C" void run_normals(const long long* rows, long long n, long long width, long long per_row, long long pitch,
                            u64 key, u64 stream, const float* table, float* out) {
    launch((n * per_row + 3) / 4, 1, 4, [=] { normal_rows(rows, n, width, per_row, pitch, key, stream, table, out); });
}
extern "C" void run_signs(const long long* rows, long long n, long long width, long long per_row, u64 key, u64 stream,
                          float* out) {
    launch(n * per_row, 1, 32, [=] { sign_rows(rows, n, width, per_row, key, stream, out); });
}
"""
ENTRY_PFR = """
extern "C" void run_pfr(const float* mu, long long n, long long width, u64 key, u64 stream, long long first,
                        long long count, const float* times, float energy, long long tile, const float* table,
                        float* best, long long* index) {
    launch(n, (count + tile - 1) / tile, 32, [=] {
        fused_pfr(mu, n, width, key, stream, first, count, times, energy, tile, table, best, index); });
}
"""
ENTRY_TRELLIS = """
extern "C" void run_trellis(const short* scores, const long long* starts, long long T, int log_labels, int by_symbol,
                            int by_top, int L, int flush, int in_shared, short* spare, Choices* decisions,
                            unsigned char* symbols, long long* total) {
    launch(T, 1, 8, [=] { trellis_search(scores, starts, log_labels, by_symbol, by_top, L, flush, in_shared, spare,
                                         decisions, symbols, total); });
}
"""


def without_barrier(text, number):
    """The trellis search without one of its barriers."""
    parts = text.split("__syncthreads();")
    assert len(parts) == 7
    return "__syncthreads();".join(parts[: number + 1]) + ";" + "__syncthreads();".join(parts[number + 1 :])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Every .cu compiled behind the shim: the trellis as "1", "2" and "4" for each k, "2_0" to "2_5" less a barrier."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++20 compiler")
    text = source("trellis.cu").removeprefix(source("philox.cu"))
    text = text.replace("extern __shared__ short shared_metrics[];", "static short shared_metrics[65536];")
    versions = {str(k): text for k in (1, 2, 4)} | {f"2_{n}": without_barrier(text, n) for n in range(6)}
    parts = [SHIM, source("pfr.cu"), ENTRY, ENTRY_PFR]
    for version, trellis in versions.items():
        trellis += ENTRY_TRELLIS
        for name in ("trellis_search", "run_trellis", "turned", "Choices"):
            trellis = trellis.replace(name, f"{name}_{version}")
        parts.append(f"#undef K\n#undef SYMBOLS\n#undef UNREACHED\n#define K {version[0]}\n{trellis}")
    path = tmp_path_factory.mktemp("cuda_as_cpp") / "all.cpp"
    path.write_text("".join(parts))
    command = [compiler, "-std=c++20", "-O0", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
    subprocess.run([*command, str(path), "-o", str(path.with_suffix(".so"))], check=True)
    return ctypes.CDLL(str(path.with_suffix(".so")))


@pytest.fixture(params=["first thread first", "last thread first"])
def library(built, request):
    built.set_order(int(request.param == "last thread first"))
    return built


def pointer(array):
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def wide(value):
    return ctypes.c_uint64(value)


def test_randomness_source_equals_cpu(library):
    cpu = get_backend("cpu")
    key, stream, table = 0x0123456789ABCDEF, 3 << 33, normal_table().copy()
    counters = np.array([0, 1, 5, (7 << 32) + 9, 77])
    words = np.zeros((5, 4), np.int64)
    library.run_words(pointer(counters), wide(5), wide(key), wide(stream), pointer(words))
    assert np.array_equal(words, cpu.random_words(key, stream, torch.from_numpy(counters)).numpy())
    out = np.zeros((5, 37), np.float32)
    shape = [wide(x) for x in (5, 37, 5, 64)]
    library.run_normals(pointer(counters), *shape, wide(key), wide(stream), pointer(table), pointer(out))
    assert np.array_equal(out, cpu.normal_rows(key, stream, torch.from_numpy(counters), 37, 64).numpy())
    out = np.zeros((5, 133), np.float32)
    library.run_signs(pointer(counters), wide(5), wide(133), wide(2), wide(key), wide(stream), pointer(out))
    assert np.array_equal(out, cpu.sign_rows(key, stream, torch.from_numpy(counters), 133).numpy())


def test_fused_pfr_source_equals_cpu(library):
    cpu = get_backend("cpu")
    rng, table = np.random.default_rng(4), normal_table().copy()
    mu, times = rng.standard_normal((2, 43)).astype(np.float32), np.linspace(-2, 2, 24, dtype=np.float32)
    best, index = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int64)
    library.run_pfr(
        pointer(mu), *[wide(x) for x in (2, 43, 8, 9, 500, 24)], pointer(times), ctypes.c_float(0.1), wide(10),
        pointer(table), pointer(best), pointer(index),
    )  # fmt: skip
    expected, where = cpu.fused_pfr(torch.from_numpy(mu), 8, 9, 500, 24, torch.from_numpy(times), 0.1)
    assert best.max(1) == pytest.approx(expected.numpy(), abs=1e-4)
    assert [index[c, best[c].argmax()] for c in range(2)] == where.tolist()


def search(library, scores, lengths, length, k, flush, in_shared, version=None):
    """Symbols and sums by the kernel's source, eight threads a block."""
    count, labels = scores.shape
    symbols, total = np.zeros(count, np.uint8), np.zeros(len(lengths), np.int64)
    spare = np.zeros((len(lengths), 1 << length), np.int16)
    decisions = np.zeros((count, decision_bytes(length, k)), np.uint8)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    getattr(library, f"run_trellis_{version or k}")(
        pointer(scores), pointer(starts), wide(len(lengths)), labels.bit_length() - 1, *label_steps(labels, k), length,
        flush, in_shared, pointer(spare), pointer(decisions), pointer(symbols), pointer(total),
    )  # fmt: skip
    return symbols, total


@pytest.mark.parametrize("in_shared", [0, 1])
@pytest.mark.parametrize(("length", "k", "flush"), [(6, 2, 3), (4, 1, 0), (10, 2, 1), (8, 4, 1), (2, 2, 0), (12, 2, 4)])
def test_trellis_source_equals_cpu(library, length, k, flush, in_shared):
    rng, lengths = np.random.default_rng(5), np.array([9, 1, 6])
    scores = rng.integers(-9, 10, (16, 16)).astype(np.int16)  # few values, so that ties occur
    symbols, total = search(library, scores, lengths, length, k, flush, in_shared)
    path, best = get_backend("cpu").trellis_search(*map(torch.from_numpy, (scores, lengths)), length, k, flush)
    assert np.array_equal(symbols, path.numpy())
    assert np.array_equal(total, best.numpy())


@pytest.mark.parametrize(("length", "k"), [(4, 2), (8, 2), (6, 1)])
def test_long_paths_at_the_largest_scores_do_not_overflow(built, length, k):
    """16-bit metrics: the best path's sum outgrows them many times over."""
    top, lengths = max_score(length, k), np.array([400])
    scores = np.random.default_rng(length).choice([-top, top], (400, 64)).astype(np.int16)
    scores[300:] = -top  # and falls again
    symbols, total = search(built, scores, lengths, length, k, 4, 1)
    path, best = search_reference(scores, lengths, length, k, 4)
    assert np.array_equal(symbols, path)
    assert total[0] == best[0] > 100 * top


@pytest.mark.parametrize("barrier", [0, 2, 3, 4, 5])
def test_a_missing_barrier_is_found(built, barrier):
    """Without one of the barriers, one of the two orders of threads gives another path.

    Only the second may miss unnoticed here: it makes what is subtracted from all metrics the very best one.
    """
    lengths = np.array([30])
    scores = np.random.default_rng(1).integers(-99, 100, (30, 64)).astype(np.int16)
    path, total = search_reference(scores, lengths, 4, 2, 2)
    agree = []
    for order in (0, 1):
        built.set_order(order)
        found, best = search(built, scores, lengths, 4, 2, 2, 1, f"2_{barrier}")
        agree.append(np.array_equal(found, path) and np.array_equal(best, total))
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
@pytest.mark.parametrize(("length", "k"), [(12, 2), (16, 2), (12, 4), (11, 1)])
def test_gpu_trellis_equals_cpu(gpu, length, k):
    rng = torch.Generator().manual_seed(1)
    lengths = torch.tensor([60, 3, 59, 60, 17])
    scores = torch.randint(-300, 301, (int(lengths.sum()), 256), generator=rng, dtype=torch.int16)
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
