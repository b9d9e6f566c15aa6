"""The CUDA backend: CuPy kernels that equal backend.py, on tensors that stay on the GPU.

Randomness is bit-identical to the CPU backend; the trellis search gives the same path for the same scores; PFR scores
differ in the order of additions.  Kernels get the addresses of torch tensors and run on the current torch stream of
the backend's device; launch.py says with how many blocks and threads.  Matrix-product scoring is torch's own GEMM:
``torch.set_float32_matmul_precision("high")`` moves it to the tensor cores, which can only change which candidate wins.
CuPy is imported when the first backend is made.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import launch
from .backend import Backend, normal_table_on, upload
from .errors import KernelError
from .viterbi import check, decision_bytes, label_steps

OPTIONS = ("--std=c++17", "--fmad=false")  # CuPy adds -ftz=true and the architecture


def source(name: str) -> str:
    """CUDA source of one .cu file, behind philox.cu that all of them use."""
    package = resources.files(__package__)
    common = package.joinpath("philox.cu").read_text()
    return common if name == "philox.cu" else common + package.joinpath(name).read_text()


@lru_cache(maxsize=64)
def _kernel(device: int, file: str, name: str, options: tuple[str, ...] = ()) -> Any:
    """The compiled kernel, for the current device, whose index is `device`."""
    import cupy

    return cupy.RawModule(code=source(file), options=(*OPTIONS, *options)).get_function(name)


class TorchStream:
    """A torch stream as CuPy takes it: torch's own has `__cuda_stream__` from 2.10 only.

    Protocol: (version 0, address of the cudaStream_t), as cuda.core and CuPy 14 define it.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._address = stream.cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


class CudaBackend(Backend):
    """The calls of Backend on one GPU, by default the current one.

    Raises KernelError where there is no GPU, no CuPy, or no compiler that CuPy can use.
    """

    name = "cuda"

    def __init__(self, device: torch.device | str | None = None) -> None:
        if not torch.cuda.is_available():
            raise KernelError("the cuda backend needs a CUDA GPU, and torch finds none")
        chosen = torch.device("cuda" if device is None else device)
        if chosen.type != "cuda":
            raise KernelError(f"the cuda backend cannot run on the device {chosen}")
        index = torch.cuda.current_device() if chosen.index is None else chosen.index
        super().__init__(torch.device("cuda", index))
        try:
            import cupy

            self._cupy = cupy
            with torch.cuda.device(self.device):
                _kernel(index, "philox.cu", "random_words")  # a missing compiler shows here, not in the midst of a file
                attributes = cupy.cuda.Device(index).attributes
                self._shared_limit = int(attributes["MaxSharedMemoryPerBlockOptin"])
                clusters = cupy.cuda.runtime.deviceGetAttribute(launch.CLUSTER_LAUNCH, index)
                self._clustered = int(attributes["MultiProcessorCount"]) if clusters else 0
        except ImportError as error:
            raise KernelError(
                f"the cuda backend needs CuPy, which cannot be imported ({_first_line(error)}): "
                "pip install 'diffpress[cuda13]' (or cuda12)"
            ) from error
        except Exception as error:  # whatever CuPy, its driver or its compiler raise
            raise KernelError(f"CuPy does not work on {self.device}: {_first_line(error)}") from error

    def random_words(self, key: int, stream: int, counters: Tensor) -> Tensor:
        counters = self._checked(counters, torch.int64)
        words = torch.empty((len(counters), 4), dtype=torch.int64, device=self.device)
        self._per_item(("philox.cu", "random_words"), len(counters), counters, len(counters), key, stream, words)
        return words

    def normal_rows(self, key: int, stream: int, rows: Tensor, columns: int, pitch: int | None = None) -> Tensor:
        rows, per_row = self._checked(rows, torch.int64), -(-columns // 8)
        if pitch is not None and pitch < per_row:
            raise KernelError(f"a pitch of {pitch} counters cannot hold rows of {per_row} counters")
        out = torch.empty((len(rows), columns), device=self.device)
        table = normal_table_on(self.device)
        shape = (len(rows), columns, per_row, pitch or per_row)
        self._per_item(("philox.cu", "normal_rows"), len(rows) * per_row, rows, *shape, key, stream, table, out)
        return out

    def sign_rows(self, key: int, stream: int, rows: Tensor, columns: int) -> Tensor:
        rows, per_row = self._checked(rows, torch.int64), -(-columns // 128)
        out = torch.empty((len(rows), columns), device=self.device)
        shape = (len(rows), columns, per_row)
        self._per_item(("philox.cu", "sign_rows"), 32 * len(rows) * per_row, rows, *shape, key, stream, out)
        return out

    def fused_pfr(
        self, mu: Tensor, key: int, stream: int, first: int, count: int, log_times: Tensor, energy: float
    ) -> tuple[Tensor, Tensor]:
        mu, log_times = self._checked(mu, torch.float32), self._checked(log_times, torch.float32)
        n, columns = mu.shape
        shape, tile = launch.fused_pfr(n, count)
        tiles = shape.grid[1]
        best = torch.empty((n, tiles), device=self.device)
        index = torch.empty((n, tiles), dtype=torch.int64, device=self.device)
        scalars = n, columns, key, stream, first, count
        table = normal_table_on(self.device)
        self._launch(
            ("pfr.cu", "fused_pfr"), shape, mu, *scalars, log_times, np.float32(energy), tile, table, best, index
        )
        top = best.amax(1)
        # max does not promise the first of equal tiles; candidates ascend with tiles
        where = torch.where(best == top[:, None], torch.arange(tiles, device=self.device), tiles).amin(1)
        return top, index.gather(1, where[:, None])[:, 0]

    def trellis_search(
        self, scores: Tensor, lengths: Tensor, constraint_length: int, k: int, flush: int
    ) -> tuple[Tensor, Tensor]:
        check(tuple(scores.shape), lengths.numpy(), constraint_length, k)
        scores = self._checked(scores, torch.int16)
        labels = scores.shape[1]
        symbols = torch.zeros(len(scores), dtype=torch.uint8, device=self.device)
        total = torch.zeros(len(lengths), dtype=torch.int64, device=self.device)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        edges = upload(starts, self.device)
        shape = launch.trellis(len(lengths), constraint_length, k, self._shared_limit, self._clustered)
        kernel = "trellis.cu", "trellis_search", (f"-DK={k}", f"-DCLUSTER={shape.cluster}")
        in_shared = shape.shared > 0
        integers = [labels.bit_length() - 1, *label_steps(labels, k), constraint_length, flush, int(in_shared)]
        for first, last in launch.trellises_at_once(lengths.tolist(), constraint_length, k, in_shared):
            metrics = torch.empty(
                1 if in_shared else (last - first) << constraint_length, dtype=torch.int16, device=self.device
            )
            rows = int(starts[last] - starts[first])
            decisions = torch.empty(
                rows * decision_bytes(constraint_length, k), dtype=torch.uint8, device=self.device
            )
            self._launch(
                kernel, replace(shape, grid=((last - first) * shape.cluster, 1)),
                *(scores, edges[first : last + 1], *map(np.int32, integers)),
                *(metrics, decisions, symbols, total[first:last]),
            )  # fmt: skip
        return symbols, total

    def _checked(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x, contiguous; raises KernelError unless it has this dtype and lies on the backend's device."""
        if x.dtype != dtype or x.device != self.device:
            raise KernelError(f"a kernel on {self.device} needs {dtype} there, not {x.dtype} on {x.device}")
        return x.contiguous()

    def _per_item(self, kernel: tuple[str, str], items: int, *arguments: Any) -> None:
        """One thread per item."""
        if items:
            self._launch(kernel, launch.per_item(items), *arguments)

    def _launch(self, kernel: tuple[Any, ...], shape: launch.Launch, *arguments: Any) -> None:
        """Run on the device's current torch stream.

        Contiguous tensors pass as addresses, Python integers as 64 bits, NumPy scalars as they are.  The caller holds
        the tensors until after the launch; torch's allocator keeps freed memory in the order of the stream.
        """
        values = [np.uint64(x.data_ptr()) if isinstance(x, Tensor) else x for x in arguments]
        values = [np.uint64(x) if isinstance(x, int) else x for x in values]
        try:
            with torch.cuda.device(self.device):
                function = _kernel(self.device.index, *kernel)
                if shape.shared:
                    function.max_dynamic_shared_size_bytes = shape.shared
                stream = TorchStream(torch.cuda.current_stream(self.device))
                with self._cupy.cuda.Stream.from_external(stream):
                    function(shape.grid, (shape.block,), tuple(values), shared_mem=shape.shared)
        except Exception as error:  # whatever CuPy, its driver or its compiler raise
            raise KernelError(f"{kernel[1]} cannot run on {self.device}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """The first line of an error's message: CuPy's run over a page."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
