"""Launches of the CUDA kernels at the smallest and largest sizes, held to what every device allows."""

import pytest

from diffpress.kernels import KernelError, launch, viterbi


def allowed(shape, shared_limit=99 << 10):
    x, y = shape.grid
    return 1 <= x <= 2**31 - 1 and 1 <= y <= 65535 and 32 <= shape.block <= 1024 and shape.shared <= shared_limit


@pytest.mark.parametrize("items", [1, 256, 257, 10**9, (2**31 - 1) * 256])
def test_one_thread_per_item(items):
    shape = launch.per_item(items)
    assert allowed(shape)
    assert 0 <= shape.grid[0] * shape.block - items < shape.block


@pytest.mark.parametrize("chunks", [1, 65536, 10**7])
@pytest.mark.parametrize("candidates", [1, 256, 257, 65535 * 256 + 1, 1 << 36])
def test_fused_pfr_covers_all_candidates(chunks, candidates):
    shape, tile = launch.fused_pfr(chunks, candidates)
    assert allowed(shape)
    assert shape.grid[0] == chunks
    assert (shape.grid[1] - 1) * tile < candidates <= shape.grid[1] * tile


@pytest.mark.parametrize("limit", [48 << 10, 99 << 10, 163 << 10, 227 << 10])
@pytest.mark.parametrize(("length", "k"), [(4, 1), (4, 4), (10, 2), (14, 2), (16, 2), (18, 2), (16, 4)])
def test_trellis_uses_shared_memory_where_it_fits(length, k, limit):
    for trellises in (1, 132, 10**6):
        shape = launch.trellis(trellises, length, k, limit, 0)
        assert allowed(shape, limit - launch.TRELLIS_STATIC)
        assert shape.block % 32 == 0
        assert shape.cluster == 1
        assert (shape.shared == 2 << length) == ((2 << length) + launch.TRELLIS_STATIC <= limit)


@pytest.mark.parametrize(("length", "k", "trellises", "limit", "cluster"), [
    (16, 2, 1, 227, 8), (16, 2, 16, 227, 8), (16, 2, 17, 227, 4), (16, 2, 33, 227, 4), (16, 2, 66, 227, 2),
    (16, 2, 67, 227, 1), (14, 2, 1, 227, 4), (12, 2, 1, 227, 1), (16, 4, 1, 227, 4), (18, 2, 16, 227, 8),
    (16, 2, 66, 99, 2), (18, 2, 1, 99, 8), (18, 2, 17, 99, 1),
])  # fmt: skip
def test_blocks_share_a_trellis_where_a_device_has_blocks_to_spare(length, k, trellises, limit, cluster):
    """Of 132 multiprocessors, each of which runs a block."""
    shape = launch.trellis(trellises, length, k, limit << 10, 132)
    assert allowed(shape, (limit << 10) - launch.TRELLIS_STATIC)
    assert shape.grid == (trellises * shape.cluster, 1)
    assert shape.cluster == cluster
    if cluster > 1:
        assert shape.grid[0] <= 132
        assert shape.cluster * shape.shared == 2 << length
        assert shape.block == 1024


@pytest.mark.parametrize("in_shared", [False, True])
@pytest.mark.parametrize(("length", "k"), [(4, 1), (10, 2), (16, 2), (18, 2), (16, 4)])
@pytest.mark.parametrize("lengths", [[1], [1] * 16384, [2048] * 40, [5, 2048, 1, 300]])
def test_scratch_memory_is_bounded(lengths, length, k, in_shared):
    """Metrics outside shared memory count: 16,384 one-stage trellises at L = 16 would need 2 GiB of them."""
    ranges = launch.trellises_at_once(lengths, length, k, in_shared)
    assert [t for first, last in ranges for t in range(first, last)] == list(range(len(lengths)))
    for first, last in ranges:
        metrics = 0 if in_shared else (last - first) * (2 << length)
        used = sum(lengths[first:last]) * viterbi.decision_bytes(length, k) + metrics
        assert used <= launch.SCRATCH or last == first + 1


def test_nothing_to_search_is_no_launch():
    assert launch.trellises_at_once([], 16, 2, False) == []


def test_too_many_items_are_named():
    with pytest.raises(KernelError, match="items"):
        launch.per_item(2**31 * 256)
    with pytest.raises(KernelError, match="chunks"):
        launch.fused_pfr(2**31, 10)
