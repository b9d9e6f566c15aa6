"""What a compute backend offers, and what every call means: shared randomness, candidate scores, trellis search.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) makes the randomness that both sides
share: ten rounds of two 32x32 -> 64-bit products on a 128-bit counter with a 64-bit key.  Normals come from a shipped
table, the means of 65,536 equally likely bins scaled to unit variance: no transcendental function runs on the decode
path, so a sample is the same float on every machine.  The largest value is 4.39; not for anything that needs tails
beyond.

NumPy and torch code for the CPU, which is also the fallback on a CUDA device without CuPy: the same arithmetic as torch
operations there.  cuda.py must return the same randomness bit for bit and the same search results for the same scores;
scores may differ in rounding, which only moves the encoder's choice.  A kernel knows no images, no diffusion steps and
no payload format, and imports nothing of the project.
"""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import KernelError

M0, M1 = 0xD2511F53, 0xCD9E8D57  # multipliers of the two halves
W0, W1 = 0x9E3779B9, 0xBB67AE85  # key schedule (golden ratio, sqrt(3) - 1)
ROUNDS = 10
MASK = 0xFFFFFFFF
SHA256 = "0341c656f3cf5dc9e4d24a76f4bd975275259f316facdf352806ebc651e17b22"  # of the table's upper half
BLOCK = 1 << 12  # counters per NumPy pass: 6 x 32 KiB of state stays in the second-level cache
TILE = 1 << 24  # floats per candidate tile of the fused search, 64 MiB


class Backend:
    """A set of kernels: NumPy operations on the CPU, torch operations on any other device.

    name    "cpu" or "cuda"
    device  where arguments are expected and results are returned
    """

    name = "cpu"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def random_words(self, key: int, stream: int, counters: Tensor) -> Tensor:
        """Philox4x32-10 blocks.  counters int64 [N] >= 0; returns int64 [N, 4] with values in [0, 2^32).

        key    64-bit integer, the shared secret of sender and receiver
        stream 64-bit integer that separates uses of the same key
        """
        if self.device.type != "cpu":
            return self._words_on_device(key, stream, counters).T
        words = _words(key, stream, counters.numpy().astype(np.uint64))
        return torch.from_numpy(words.astype(np.int64))

    def normal_rows(self, key: int, stream: int, rows: Tensor, columns: int, pitch: int | None = None) -> Tensor:
        """Standard normals, float32 [R, columns], row r made of the counters rows[r] * pitch + 0, 1, 2, ...

        rows   int64 [R]; any subset of rows can be drawn without the others
        pitch  counters per row (8 normals each); None: just enough for `columns`.  A fixed pitch makes the first
               columns of a row independent of how many columns are asked for.
        """
        per_row = -(-columns // 8)
        counters = _row_counters(rows, per_row, pitch)
        if self.device.type != "cpu":
            words = self._words_on_device(key, stream, counters).T.reshape(len(rows), -1)
            halves = torch.stack([words & 0xFFFF, words >> 16], 2).reshape(len(rows), -1)
            return normal_table_on(self.device)[halves[:, :columns]]
        integers = _words(key, stream, counters.numpy().astype(np.uint64)).view("<u2").reshape(len(rows), per_row * 8)
        return torch.from_numpy(normal_table().take(integers[:, :columns]))

    def sign_rows(self, key: int, stream: int, rows: Tensor, columns: int) -> Tensor:
        """Random signs, float32 [R, columns] of +1 and -1, 128 per counter, drawn like `normal_rows`."""
        per_row = -(-columns // 128)
        counters = _row_counters(rows, per_row, None)
        if self.device.type != "cpu":
            words = self._words_on_device(key, stream, counters).T.reshape(len(rows), -1, 1)
            bits = (words >> torch.arange(32, device=self.device)) & 1
            return 1 - 2 * bits.reshape(len(rows), -1)[:, :columns].float()
        drawn = _words(key, stream, counters.numpy().astype(np.uint64)).view(np.uint8).reshape(len(rows), -1)
        negative = np.unpackbits(drawn, axis=1, count=columns, bitorder="little")
        return torch.from_numpy(np.array([1, -1], np.float32).take(negative))

    def codebook_scores(self, codebook: Tensor, mu: Tensor) -> Tensor:
        """Inner products <mu_r, z_i>: codebook float32 [K, w], mu float32 [R, w] -> float32 [R, K], one GEMM."""
        return mu @ codebook.T

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
        n, columns = mu.shape
        best = torch.full((n,), -torch.inf, device=self.device)
        index = torch.zeros(n, dtype=torch.int64, device=self.device)
        step = max(1, TILE // (n * columns))
        chunks = torch.arange(n, device=self.device)
        for start in range(0, count, step):
            tile = torch.arange(start, min(start + step, count), device=self.device)
            rows = ((tile[:, None] + first) * n + chunks).reshape(-1)
            z = self.normal_rows(key, stream, rows, columns).reshape(len(tile), n, columns)
            score = (z * mu).sum(2) - energy * (z * z).sum(2) - log_times[tile, None]
            top, where = score.max(0)
            better = top > best
            best, index = torch.where(better, top, best), torch.where(better, tile[where], index)
        return best, index

    def trellis_search(
        self, scores: Tensor, lengths: Tensor, constraint_length: int, k: int, flush: int
    ) -> tuple[Tensor, Tensor]:
        """Viterbi search of several shift-register trellises; viterbi.py says how branches are labelled.

        scores   int16 [N, M]: score of label m at a stage, at most viterbi.max_score in absolute value; the stages of
                 all trellises one behind the other, M a power of two
        lengths  int64 [T], on the CPU: stages of each trellis, N together
        flush    the last stages of each trellis shift in zeros instead of free symbols
        Start state 0, free end.  Returns (symbols uint8 [N], sum int64 [T]) of the path of largest sum; among equal
        predecessors the one of lowest oldest symbol wins, among equal final states the lowest.
        """
        from .viterbi_numba import search_many  # numba takes half a second to import, and decoding searches nothing

        arrays = scores.cpu().numpy(), lengths.numpy()
        path, total = search_many(*arrays, constraint_length, k, flush, threads=torch.get_num_threads())
        return upload(torch.from_numpy(path), self.device), upload(torch.from_numpy(total), self.device)

    def _words_on_device(self, key: int, stream: int, counters: Tensor) -> Tensor:
        low, high = split64(stream)
        position = [counters & 0xFFFFFFFF, counters >> 32]
        rest = [torch.full_like(counters, low), torch.full_like(counters, high)]
        return philox_torch(torch.stack(position + rest), split64(key))


def upload(x: Tensor, device: torch.device) -> Tensor:
    """x, on the CPU, on `device`, without waiting for a GPU to finish what it was given before.

    Only from pinned memory is a copy just one more item in the GPU's queue; torch keeps that memory until it is done.
    """
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _row_counters(rows: Tensor, per_row: int, pitch: int | None) -> Tensor:
    """Counters int64 [R * per_row] of whole rows."""
    if pitch is not None and pitch < per_row:
        raise KernelError(f"a pitch of {pitch} counters cannot hold rows of {per_row} counters")
    return (rows[:, None] * (pitch or per_row) + torch.arange(per_row, device=rows.device)).reshape(-1)


def _words(key: int, stream: int, counters: np.ndarray) -> np.ndarray:
    """Philox words of counters uint64 [N], as little-endian uint32 [N, 4]."""
    low, high = split64(stream)
    out = np.empty((len(counters), 4), "<u4")
    for start in range(0, len(counters), BLOCK):
        part = counters[start : start + BLOCK]
        block = np.empty((4, len(part)), np.uint32)
        block[0] = part & np.uint64(0xFFFFFFFF)
        block[1] = part >> np.uint64(32)
        block[2], block[3] = low, high
        out[start : start + BLOCK] = philox_numpy(block, split64(key)).T
    return out


def split64(value: int) -> tuple[int, int]:
    """(low, high) 32-bit halves of a 64-bit integer."""
    return value & MASK, (value >> 32) & MASK


def philox_numpy(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 of counter uint32 [4, N] under key (k0, k1): uint32 [4, N]."""
    c0, c1, c2, c3 = (np.array(c, np.uint64) for c in counter)
    k0, k1 = key
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    low, shift = np.uint64(MASK), np.uint64(32)
    for _ in range(ROUNDS):
        np.multiply(c0, np.uint64(M0), out=p0)
        np.multiply(c2, np.uint64(M1), out=p1)
        # new c0 = hi(p1) ^ c1 ^ k0, c1 = lo(p1), c2 = hi(p0) ^ c3 ^ k1, c3 = lo(p0); written into the old arrays
        np.right_shift(p1, shift, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.bitwise_and(p1, low, out=c1)
        np.right_shift(p0, shift, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(p0, low, out=c3)
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def philox_torch(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """The same for counter int64 [4, N] with values in [0, 2^32), on any device: int64 [4, N].

    The products wrap around in two's complement; masking after the arithmetic shift recovers both halves.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK
        c2, c3 = ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return torch.stack([c0, c1, c2, c3])


@lru_cache(maxsize=1)
def normal_table() -> NDArray[np.float32]:
    """The whole map, float32 [65536], ascending and odd: table[65535 - i] = -table[i].

    Raises KernelError if the shipped file is damaged.
    """
    data = resources.files(__package__).joinpath("normal_u16.npy").read_bytes()
    upper = np.load(io.BytesIO(data), allow_pickle=False)
    if upper.dtype != np.float32 or hashlib.sha256(upper.tobytes()).hexdigest() != SHA256:
        raise KernelError("the normal table kernels/normal_u16.npy is damaged: its SHA-256 does not match")
    table = np.concatenate([-upper[::-1], upper])
    table.setflags(write=False)
    return table


@lru_cache(maxsize=8)
def normal_table_on(device: torch.device) -> Tensor:
    """The same table as a torch tensor on `device`."""
    return torch.from_numpy(normal_table().copy()).to(device)
