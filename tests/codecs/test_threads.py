"""Settings under which a network gives the same bits every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from diffpress.codecs.threads import fastest, reproducible, side_by_side

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def other_settings() -> Iterator[None]:
    """Two threads and less than full precision, so that what is restored differs from what is set."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_settings_hold_inside_and_are_restored_after_an_error(device: torch.device) -> None:
    """On `CUDA`, too, without a device: torch's settings do not need one."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    assert before[2] or device == CPU  # else the test would show nothing
    with suppress(KeyError), reproducible(device) as workers:
        assert workers == 2
        assert torch.get_num_threads() == 1
        assert torch.get_float32_matmul_precision() == "highest"
        if device == CUDA:
            assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, False, False)
        raise KeyError
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "high"
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == before


@pytest.mark.parametrize("workers", [1, 3])
def test_items_come_back_in_order_and_each_on_one_thread(workers: int) -> None:
    def evaluate(item: int) -> tuple[int, int, bool]:
        return item, torch.get_num_threads(), torch.is_inference_mode_enabled()

    assert side_by_side(evaluate, range(7), CPU, workers) == [(item, 1, True) for item in range(7)]


def test_items_of_another_device_run_one_after_the_other_in_this_thread() -> None:
    seen: list[int] = []

    def evaluate(item: int) -> int:
        seen.append(item)
        assert torch.is_inference_mode_enabled()
        return len(seen)

    assert side_by_side(evaluate, range(4), CUDA, 2) == [1, 2, 3, 4]


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    values = torch.randn(1, 32, 128, 128, generator=torch.Generator().manual_seed(0))
    kernel = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with reproducible(CPU) as workers:
            results.append(side_by_side(lambda x: torch.conv2d(x, kernel), [values] * 3, CPU, workers))
    assert all(torch.equal(a, results[0][0]) for result in results for a in result)


def test_lossy_coding_has_fast_convolutions_and_exact_products() -> None:
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=False):
        with fastest(CUDA):
            assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, True, True)
            assert torch.get_float32_matmul_precision() == "highest"
        assert not cudnn.allow_tf32
        with fastest(CPU):
            assert not cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"
