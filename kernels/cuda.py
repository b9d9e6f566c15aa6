"""The CUDA backend: CuPy kernels that equal cpu.py, on tensors that stay on the GPU.

Randomness is bit-identical to the CPU backend; the trellis search gives the same path for the same scores; PFR scores
differ in the order of additions.  Tensors are shared with torch through DLPack, kernels run on torch's current stream.
Matrix-product scoring is torch's own GEMM: ``torch.set_float32_matmul_precision("high")`` moves it to the tensor cores,
which can only change which candidate wins.  CuPy is imported when the first backend is made.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from .base import KernelError
from .cpu import CpuBackend
from .normal import normal_table_on
from .trellis import check, label_steps

THREADS = 256
TILE = 256  # candidates per block of the fused search
SCRATCH = 1 << 30  # bytes of trellis decisions held at once


def source(name: str) -> str:
    """CUDA source of one .cu file, behind philox.cu that all of them use."""
    package = resources.files(__package__)
    common = package.joinpath("philox.cu").read_text()
    return common if name == "philox.cu" else common + package.joinpath(name).read_text()


@lru_cache(maxsize=16)
def _kernel(file: str, name: str, options: tuple[str, ...] = ()) -> Any:
    import cupy

    return cupy.RawModule(code=source(file), options=("--std=c++17", "--fmad=false", *options)).get_function(name)


class CudaBackend(CpuBackend):
    """Backend of base.py on the current CUDA device.  Raises KernelError where there is no GPU or no CuPy."""

    name = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise KernelError("the cuda backend needs a CUDA GPU, and torch finds none")
        try:
            import cupy
        except ImportError as error:
            raise KernelError("the cuda backend needs CuPy: pip install 'diffpress[cuda13]' (or cuda12)") from error
        self._cupy = cupy
        super().__init__(torch.device("cuda", torch.cuda.current_device()))

    def random_words(self, key: int, stream: int, counters: Tensor) -> Tensor:
        """See Backend.random_words."""
        words = torch.empty((len(counters), 4), dtype=torch.int64, device=self.device)
        self._launch(("philox.cu", "random_words"), len(counters), counters, len(counters), key, stream, words)
        return words

    def normal_rows(self, key: int, stream: int, rows: Tensor, width: int, pitch: int | None = None) -> Tensor:
        """See Backend.normal_rows."""
        per_row = -(-width // 8)
        if pitch is not None and pitch < per_row:
            raise KernelError(f"a pitch of {pitch} counters cannot hold rows of {per_row} counters")
        out = torch.empty((len(rows), width), device=self.device)
        table = normal_table_on(self.device)
        shape = (len(rows), width, per_row, pitch or per_row)
        self._launch(("philox.cu", "normal_rows"), len(rows) * per_row, rows, *shape, key, stream, table, out)
        return out

    def sign_rows(self, key: int, stream: int, rows: Tensor, width: int) -> Tensor:
        """See Backend.sign_rows."""
        per_row = -(-width // 128)
        out = torch.empty((len(rows), width), device=self.device)
        self._launch(
            ("philox.cu", "sign_rows"), len(rows) * per_row, rows, len(rows), width, per_row, key, stream, out
        )
        return out

    def fused_pfr(
        self, mu: Tensor, key: int, stream: int, first: int, count: int, log_times: Tensor, energy: float
    ) -> tuple[Tensor, Tensor]:
        """See Backend.fused_pfr."""
        n, width = mu.shape
        tiles = -(-count // TILE)
        best = torch.empty((n, tiles), device=self.device)
        index = torch.empty((n, tiles), dtype=torch.int64, device=self.device)
        table, scale = normal_table_on(self.device), self._cupy.float32(energy)
        arguments = (mu, n, width, key, stream, first, count, log_times, scale, TILE, table, best, index)
        self._call(_kernel("pfr.cu", "fused_pfr"), (tiles, n), THREADS, 0, arguments)
        top, tile = best.max(1)
        # max does not promise the first of equal tiles; candidates ascend with tiles
        tile = torch.where(best == top[:, None], torch.arange(tiles, device=self.device), tiles).amin(1)
        return top, index.gather(1, tile[:, None])[:, 0]

    def thread_per_candidate(self, mu: Tensor, key: int, count: int) -> Tensor:
        """Scores float32 [count] of fresh candidates for mu float32 [d], one thread each: the benchmark's yardstick."""
        scores = torch.empty(count, device=self.device)
        table = normal_table_on(self.device)
        kernel = ("pfr.cu", "thread_per_candidate")
        self._launch(kernel, count, mu, len(mu), key, 0, count, table, scores)
        return scores

    def trellis_search(
        self, scores: Tensor, lengths: Tensor, constraint_length: int, k: int, flush: int
    ) -> tuple[Tensor, Tensor]:
        """See Backend.trellis_search."""
        check(tuple(scores.shape), lengths.numpy(), constraint_length, k)
        states, labels = 1 << constraint_length, scores.shape[1]
        symbols = torch.zeros(len(scores), dtype=torch.uint8, device=self.device)
        total = torch.zeros(len(lengths), dtype=torch.int64, device=self.device)
        kernel = _kernel("trellis.cu", "trellis_search", (f"-DK={k}",))
        limit = self._cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"] - 24 * 1024
        in_shared = 4 * states <= limit
        if in_shared:
            kernel.max_dynamic_shared_size_bytes = 4 * states
        scores = scores.contiguous()
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        edges, first = starts.to(self.device), 0
        while first < len(lengths):
            row = int(starts[first])
            last = max(first + 1, int((starts <= row + SCRATCH // states).sum()) - 1)  # trellises that fit the scratch
            count, rows = last - first, int(starts[last]) - row
            spare = torch.empty(1 if in_shared else count * states, dtype=torch.int32, device=self.device)
            decisions = torch.empty(rows * states, dtype=torch.uint8, device=self.device)
            arguments = (
                *(scores, edges[first : last + 1], labels, *label_steps(labels, k)),
                *(self._cupy.int32(x) for x in (constraint_length, flush, in_shared)),
                *(spare, decisions, symbols, total[first:last]),
            )
            self._call(kernel, (count,), 1024, 4 * states if in_shared else 0, arguments)
            first = last
        return symbols, total

    def _launch(self, kernel: tuple[str, str], threads: int, *arguments: Any) -> None:
        """One thread per item."""
        if threads:
            self._call(_kernel(*kernel), (-(-threads // THREADS),), THREADS, 0, arguments)

    def _call(self, kernel: Any, grid: tuple[int, ...], block: int, shared: int, arguments: tuple[Any, ...]) -> None:
        """Run on torch's current stream; tensors pass as DLPack views, Python integers as 64 bits."""
        cupy = self._cupy
        converted = []
        for x in arguments:
            if isinstance(x, Tensor):
                converted.append(cupy.from_dlpack(x.contiguous()))
            else:
                converted.append(cupy.uint64(x) if isinstance(x, int) else x)
        with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
            kernel(grid, (block,), tuple(converted), shared_mem=shared)
