"""What a compute backend offers: shared randomness, candidate scores and trellis search.

This file holds the interface and the errors only.  `cpu.py` defines what every call means, `cuda.py` must return the
same randomness bit for bit and the same search results for the same scores.  A kernel knows no images, no diffusion
steps and no payload format, and imports nothing of the project.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class KernelError(RuntimeError):
    """A backend that is not available or was called with arguments it cannot serve; one sentence for the user."""


class Backend(Protocol):
    """A set of kernels on one device.

    name    "cpu" or "cuda"
    device  where arguments are expected and results are returned
    """

    name: str
    device: torch.device

    def random_words(self, key: int, stream: int, counters: Tensor) -> Tensor:
        """Philox4x32-10 blocks.  counters int64 [N] >= 0; returns int64 [N, 4] with values in [0, 2^32).

        key    64-bit integer, the shared secret of sender and receiver
        stream 64-bit integer that separates uses of the same key
        """
        ...

    def normal_rows(self, key: int, stream: int, rows: Tensor, columns: int, pitch: int | None = None) -> Tensor:
        """Standard normals, float32 [R, columns], row r made of the counters rows[r] * pitch + 0, 1, 2, ...

        rows   int64 [R]; any subset of rows can be drawn without the others
        pitch  counters per row (8 normals each); None: just enough for `columns`.  A fixed pitch makes the first
               columns of a row independent of how many columns are asked for.
        """
        ...

    def sign_rows(self, key: int, stream: int, rows: Tensor, columns: int) -> Tensor:
        """Random signs, float32 [R, columns] of +1 and -1, 128 per counter, drawn like `normal_rows`."""
        ...

    def codebook_scores(self, codebook: Tensor, mu: Tensor) -> Tensor:
        """Inner products <mu_r, z_i>: codebook float32 [K, w], mu float32 [R, w] -> float32 [R, K], one GEMM."""
        ...

    def fused_pfr(
        self, mu: Tensor, key: int, stream: int, first: int, count: int, log_times: Tensor, energy: float
    ) -> tuple[Tensor, Tensor]:
        """Generate-and-score: the best of `count` fresh candidates per chunk, none of them kept in memory.

        mu         float32 [n, w], one chunk per row, padded with zeros
        first      index of the first candidate; candidate i of chunk c is row i * n + c of `normal_rows`
        log_times  float32 [count], log of the arrival times
        energy     weight of |z|^2 in the score
        Returns (best float32 [n], index int64 [n] relative to `first`) of the maximum over i of
        <mu_c, z_i> - energy |z_i|^2 - log_times[i]; the lowest index wins a tie.
        """
        ...

    def trellis_search(
        self, scores: Tensor, lengths: Tensor, constraint_length: int, k: int, flush: int
    ) -> tuple[Tensor, Tensor]:
        """Viterbi search of several shift-register trellises; trellis.py says how branches are labelled.

        scores   int16 [N, M]: score of label m at a stage, at most trellis.max_score in absolute value; the stages of
                 all trellises one behind the other, M a power of two
        lengths  int64 [T], on the CPU: stages of each trellis, N together
        flush    the last stages of each trellis shift in zeros instead of free symbols
        Start state 0, free end.  Returns (symbols uint8 [N], sum int64 [T]) of the path of largest sum; among equal
        predecessors the one of lowest oldest symbol wins, among equal final states the lowest.
        """
        ...
