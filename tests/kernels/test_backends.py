"""Which backend a device gets, and how the CUDA backend launches: with CuPy and the GPU replaced by records."""

import contextlib
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from diffpress import kernels
from diffpress.kernels import Backend, KernelError, cuda, get_backend


class FakeCupy:
    """What the backend uses of CuPy; launches are recorded as (device, stream, kernel, grid, block, values, shared)."""

    def __init__(self, broken=None):
        self.launches, self.stream, self.broken, self.refuses = [], None, broken, None
        self.cuda = types.SimpleNamespace(
            Device=lambda index: types.SimpleNamespace(
                attributes={"MaxSharedMemoryPerBlockOptin": 227 << 10, "MultiProcessorCount": 132}
            ),
            runtime=types.SimpleNamespace(deviceGetAttribute=lambda which, index: int(which == 120 and index == 1)),
            Stream=types.SimpleNamespace(from_external=self.on_stream),
        )

    @contextlib.contextmanager
    def on_stream(self, stream):
        self.stream = stream.__cuda_stream__()
        yield
        self.stream = None

    def RawModule(self, code, options):
        if self.broken:
            raise RuntimeError(self.broken)

        def get_function(name):
            def launch(grid, block, values, shared_mem):
                if self.refuses:
                    raise RuntimeError(self.refuses)
                self.launches.append((CURRENT[-1], self.stream, name, grid, block, values, shared_mem))

            return launch

        return types.SimpleNamespace(get_function=get_function)


CURRENT = [torch.device("cuda", 0)]  # devices that torch.cuda.device made current, the last one on top


@pytest.fixture
def cupy(monkeypatch):
    """A machine with two GPUs and CuPy, as far as the backend can see."""
    fake = FakeCupy()

    @contextlib.contextmanager
    def device(chosen):
        CURRENT.append(chosen)
        try:
            yield
        finally:
            CURRENT.pop()

    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(kernels, "find_spec", lambda name: name == "cupy")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", device)
    streams = types.SimpleNamespace
    monkeypatch.setattr(torch.cuda, "current_stream", lambda chosen: streams(cuda_stream=700 + (chosen.index or 0)))
    cuda._kernel.cache_clear()
    kernels._best_on_gpu.cache_clear()
    yield fake
    cuda._kernel.cache_clear()
    kernels._best_on_gpu.cache_clear()


def test_the_backend_is_of_the_device_asked_for(cupy):
    assert get_backend().device == torch.device("cuda:0")
    for device in ("cuda:1", torch.device("cuda", 1)):
        assert get_backend(device=device).name == "cuda"
        assert get_backend(device=device).device == torch.device("cuda:1")
        assert get_backend("cuda", device).device == torch.device("cuda:1")
    assert get_backend(device="cuda").device == torch.device("cuda:0")
    assert get_backend(device="cpu").name == get_backend("cpu").name == "cpu"
    assert get_backend("cpu", "cuda:1").device == torch.device("cuda:1")  # torch operations there
    with pytest.raises(KernelError, match="cannot run on the device cpu"):
        get_backend("cuda", "cpu")


def test_kernels_run_on_the_backends_device_and_stream(cupy, monkeypatch):
    backend = get_backend("cuda", "cuda:1")
    monkeypatch.setattr(backend, "device", torch.device("meta", 1))  # tensors without memory: there is no GPU here
    scores = torch.empty(64 * 1000, 256, dtype=torch.int16, device="meta")
    shape = cuda.launch.trellis(3, 12, 2, 99 << 10, 0)
    backend._launch(("trellis.cu", "trellis_search"), shape, scores, 5, np.int32(6))
    device, stream, name, grid, block, values, shared = cupy.launches[-1]
    assert (device.index, stream, name) == (1, (0, 701), "trellis_search")
    assert (grid, block, shared) == ((3, 1), (1024,), 8192)  # 2^12 metrics of 16 bits
    assert [type(value) for value in values] == [np.uint64, np.uint64, np.int32]
    assert len(CURRENT) == 1


def test_clusters_are_used_where_the_device_can_launch_them(cupy):
    assert [get_backend("cuda", f"cuda:{index}")._clustered for index in (0, 1)] == [0, 132]


def test_a_launch_that_fails_is_one_sentence(cupy, monkeypatch):
    backend = get_backend("cuda", "cuda:1")
    cupy.refuses = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested for launch\nand more"
    with pytest.raises(KernelError, match=r"random_words cannot run on cuda:1: .* requested for launch$"):
        backend._launch(("philox.cu", "random_words"), cuda.launch.per_item(1), 5)
    assert len(CURRENT) == 1


def test_arguments_of_another_type_or_device_are_refused(cupy):
    backend = get_backend("cuda", "cuda:1")
    for x in (torch.zeros(3), torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(KernelError, match="a kernel on cuda:1 needs"):
            backend.fused_pfr(x, 1, 2, 0, 5, x, 0.0)
    with pytest.raises(KernelError, match="int64"):
        backend.random_words(1, 2, torch.zeros(3))


@pytest.mark.parametrize("how", ["import", "compiler"])
def test_a_cupy_that_does_not_work_gives_torch_operations_and_one_warning(cupy, monkeypatch, how):
    if how == "import":
        monkeypatch.setitem(sys.modules, "cupy", None)  # Python's own way to make an import fail
    else:
        cupy.broken = "libnvrtc.so.13 was not found\nand a page of advice"
    with pytest.raises(KernelError, match="CuPy"):
        get_backend("cuda")
    with pytest.warns(RuntimeWarning, match="torch operations replace the CUDA kernels") as caught:
        backend = get_backend(device="cuda:1")
    assert len(caught) == 1
    assert "advice" not in str(caught[0].message)
    assert type(backend) is Backend
    assert backend.device == torch.device("cuda:1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_backend(device="cuda:1") is backend


def test_without_cupy_there_is_nothing_to_warn_of(cupy, monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(get_backend(device="cuda")) is Backend
