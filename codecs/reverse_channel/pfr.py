"""Poisson functional representation in chunks: the coder of the DiffC paper, searched by matrix products.

The coordinates are dealt to chunks of equal expected KL; per chunk, candidates z_i ~ p arrive at times t_i (a unit
Poisson process) and the one of least log t_i - log w_i is sent, w = q / p (Li and El Gamal, "Strong functional
representation lemma", 2018).  The chunk's candidates are one base codebook with signs of their own (scoring="gemm": all
chunks of a step are one GEMM), or fresh draws that are never stored (scoring="fused").  The codebook of the first form
is a constant where chunks have coordinates enough for the signs to make the draws unrelated, and a function of the key
where they have not.  Equations: docs/method/reverse-channel.md, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...kernels import Backend, get_backend, upload
from . import interface as base
from .codebook import Codebook, CoordinateRows, equal_edges, rotate, rotate_back
from .index_code import MODELS, IndexCode, IndexModel, index_code

# Streams of the step's key; the round of the search is added to CODEBOOK.
ROTATION, CODEBOOK, SIGNS, FRESH, TIMES, OFFSET = (tag << 32 for tag in range(16, 22))

ROUND = 1 << 16  # candidates that are scored at once; further ones reuse the codebook with new signs
CONSTANT_COLUMNS = 16  # chunks at least this wide share one constant codebook
EXACT_PADDING, TRUNCATED_PADDING = 8, 2  # log2 of the candidates beyond the chunk's KL
MISSED = 1e-4  # exact search ends when this few later candidates are expected to win
SCORES = 1 << 25  # scores held at once, 128 MiB
ROWS = 64  # chunks times rounds that an exact search scores together after its first round


@dataclass(frozen=True)
class Chunks:
    """How a step is split into chunks.

    rows        coordinates of each chunk
    kl          expected KL of each chunk in bits
    candidates  per chunk at most
    variance    v of the candidates' law p = N(0, v I)
    """

    rows: CoordinateRows
    kl: float
    candidates: int
    variance: float

    @property
    def count(self) -> int:
        """Number of chunks."""
        return len(self.rows.edges) - 1

    @property
    def round(self) -> int:
        """Candidates per round of the search."""
        return min(ROUND, self.candidates)

    @property
    def constant(self) -> bool:
        """Whether the codebook is a constant: chunks are so wide that their signs alone make fresh candidates."""
        return self.rows.blocks * self.rows.columns >= CONSTANT_COLUMNS


@dataclass(frozen=True)
class PfrCoder(base.ReverseChannelCoder):
    """``get_coder("pfr")``; see ReverseChannelCoder for the calls.

    mode         "exact": search until no later candidate is expected to win, or `candidates` are through;
                 "truncated": the best of exactly `candidates`
    chunk_bits   largest KL of a chunk in bits, 1 to 24
    candidates   per chunk at most, 2 to 2^36; None: 2^(chunk KL + 8) exact, 2^(chunk KL + 2) truncated
    index_model  law that the index code is built for, "tabulated" (that of an exact search) or "zipf"
    scoring      "gemm": matrix products with a shared codebook; "fused": fresh candidates, generated and scored
    variance     "calibrated": v = 2^(2 bits / d); "unit": v = 1

    The scheme of the published implementation is mode="truncated", candidates=65536, index_model="zipf".
    """

    mode: Literal["exact", "truncated"] = "exact"
    chunk_bits: float = 14.0
    candidates: int | None = None
    index_model: IndexModel = "tabulated"
    scoring: Literal["gemm", "fused"] = "gemm"
    variance: base.Variance = "calibrated"
    name = "pfr"

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "truncated"):
            raise base.InputError("the mode must be 'exact' or 'truncated'")
        if not 1 <= self.chunk_bits <= 24:
            raise base.InputError("a chunk must carry between 1 and 24 bits")
        if self.candidates is not None and not 2 <= self.candidates <= 1 << 36:
            raise base.InputError("the number of candidates must lie between 2 and 2^36")
        if self.index_model not in MODELS:
            raise base.InputError("the index model must be 'tabulated' or 'zipf'")
        if self.scoring not in ("gemm", "fused"):
            raise base.InputError("the scoring must be 'gemm' or 'fused'")
        if self.variance not in ("calibrated", "unit"):
            raise base.InputError("the variance must be 'calibrated' or 'unit'")

    def _encode_many(self, mus: Sequence[Tensor], steps: Sequence[base.SharedStep]) -> list[tuple[bytes, Tensor]]:
        return [self._encode(mu, step) for mu, step in zip(mus, steps, strict=True)]

    def _encode(self, mu: Tensor, step: base.SharedStep) -> tuple[bytes, Tensor]:
        chunks = self._chunks(step.size, step.bits)
        target = chunks.rows.pad(rotate(mu, _rotation(step.backend, step.size, step.key)))
        index = self._search(step.backend, chunks, target, step.key).cpu()
        payload = self._code(chunks).encode(index.tolist())
        return payload, self._sample(step.backend, chunks, index, step.size, step.key)

    def _decode(self, payload: base.Buffer, step: base.SharedStep) -> Tensor:
        chunks = self._chunks(step.size, step.bits)
        indices, used = self._code(chunks).decode(payload, chunks.count)
        if len(payload) != -(-used // 8):
            raise base.PayloadError(f"the payload of this step has {-(-used // 8)} bytes, not {len(payload)}")
        index = torch.tensor(indices, dtype=torch.int64)
        return self._sample(step.backend, chunks, index, step.size, step.key)

    def payload_size(self, buffer: base.Buffer, size: int, bits: float, key: int) -> int:
        size, bits, key = base.check_step(size, bits, key)
        chunks = self._chunks(size, bits)
        return -(-self._code(chunks).decode(buffer, chunks.count)[1] // 8)

    def cost(
        self, payload: base.Buffer, size: int | None = None, bits: float | None = None, key: int | None = None
    ) -> int:
        if size is None or bits is None:
            return 8 * len(payload)
        size, bits, _ = base.check_step(size, bits, 0 if key is None else key)
        chunks = self._chunks(size, bits)
        return self._code(chunks).decode(payload, chunks.count)[1]

    def _chunks(self, size: int, bits: float) -> Chunks:
        count = min(size, math.ceil(bits / self.chunk_bits))
        kl = bits / count
        if self.candidates is not None:
            candidates = self.candidates
        else:
            candidates = 1 << math.ceil(kl) + (EXACT_PADDING if self.mode == "exact" else TRUNCATED_PADDING)
        rows = CoordinateRows(torch.from_numpy(equal_edges(size, count)))
        return Chunks(rows, kl, candidates, base.variance_of(self.variance, bits, size))

    def _code(self, chunks: Chunks) -> IndexCode:
        return index_code(self.index_model, chunks.kl, chunks.candidates)

    def _search(self, backend: Backend, chunks: Chunks, target: Tensor, key: int) -> Tensor:
        """Index of the winning candidate of each chunk, int64 [n]."""
        v = chunks.variance
        shrink = 1.0 - 1.0 / v
        scaled = target * math.sqrt(v)
        best = torch.full((chunks.count,), -torch.inf, device=backend.device)
        index = torch.zeros(chunks.count, dtype=torch.int64, device=backend.device)
        active = torch.arange(chunks.count, device=backend.device)
        # Moments of ln w under q (nats), for the stopping bound; ln w = score + constant.
        energy = target.double().square().sum((1, 2))
        length = upload(chunks.rows.lengths.double(), backend.device)
        constant = 0.5 * (length * math.log(v) - energy)
        mean = 0.5 * (energy / v - shrink * length + length * math.log(v))
        std = (energy / v**2 + 0.5 * shrink**2 * length).clamp(min=1e-12).sqrt()
        now = torch.zeros((), dtype=torch.float64, device=backend.device)
        number, rounds = 0, -(-chunks.candidates // chunks.round)
        while number < rounds and len(active):
            together = 1 if number == 0 else min(rounds - number, max(1, ROWS // len(active)))
            times = _arrivals(backend, key, number, together * chunks.round, now)
            times[chunks.candidates - number * chunks.round :] = torch.inf  # the last round may be a partial one
            log_times = times.log().to(torch.float32)
            first = number * chunks.round
            if self.scoring == "fused":
                top, where = backend.fused_pfr(
                    scaled.view(chunks.count, -1), key, FRESH, first, len(times), log_times, 0.5 * shrink * v
                )
                top, where = top[active], where[active]
            else:
                top, where = self._best_of_rounds(backend, chunks, scaled, active, number, log_times, key)
            better = top > best[active]
            index[active] = torch.where(better, where + first, index[active])
            best[active] = torch.where(better, top, best[active])
            number += together
            if number < rounds:
                now = times[-1]
            if self.mode == "exact" and number < rounds:
                # later winners expected: integral over t > now of P_p(w > t / theta), theta = exp(-best) the score to
                # beat, is at most theta P_q(w > now / theta); ln w is taken as normal
                log_theta = -(best.double() + constant)[active]
                tail = torch.special.ndtr(-(now.log() - log_theta - mean[active]) / std[active])
                active = active[log_theta.exp() * tail > MISSED]
        return index

    def _best_of_rounds(
        self, backend: Backend, chunks: Chunks, scaled: Tensor, active: Tensor, number: int, log_times: Tensor, key: int
    ) -> tuple[Tensor, Tensor]:
        """(score, candidate from round `number` on) of the best candidate for each active chunk.

        All rounds that log_times covers are scored at once: another round is another row of signs.
        """
        rows, v = chunks.rows, chunks.variance
        shape, row_size = (-1, rows.blocks, rows.columns), rows.blocks * rows.columns
        distinct, which = torch.unique(rows.lengths, return_inverse=True)
        which = upload(which, backend.device)
        offset = _offset(chunks, key)
        log_times = log_times.view(-1, chunks.round).roll(offset, 1)  # from candidates to rows of the codebook
        tops, wheres = [], []
        rounds = torch.arange(len(log_times), device=backend.device)
        for group in rounds.split(len(log_times) if chunks.constant else 1):
            codebook = _codebook(backend, chunks, number + int(group[0]), key)
            matrix = _matrix(backend, codebook)
            energy = codebook.energies(matrix, distinct) * (0.5 * (v - 1.0))
            pairs = torch.cartesian_prod(group, active).view(-1, 2)
            for part in pairs.split(max(1, SCORES // (chunks.round * rows.blocks))):
                r, chunk = part.unbind(1)
                signs = backend.sign_rows(key, SIGNS, (number + r) * chunks.count + chunk, row_size)
                scores = codebook.scores(matrix, scaled[chunk] * signs.view(shape))
                scores.sub_(energy[which[chunk]]).sub_(log_times[r])
                top, where = scores.max(1)
                tops.append(top)
                wheres.append((where - offset) % chunks.round + r * chunks.round)
        top = torch.cat(tops).view(-1, len(active))
        best, which_round = top.max(0)
        return best, torch.cat(wheres).view(-1, len(active)).gather(0, which_round[None])[0]

    def _sample(self, backend: Backend, chunks: Chunks, index: Tensor, size: int, key: int) -> Tensor:
        """The sample that the indices int64 [n], on the CPU, stand for, float32 [d]; a GPU is not waited for."""
        rows, chunk = chunks.rows, torch.arange(chunks.count)
        row_size = rows.blocks * rows.columns
        if self.scoring == "fused":
            z = backend.normal_rows(key, FRESH, upload(index * chunks.count + chunk, backend.device), row_size)
        else:
            number, row = index // chunks.round, (index + _offset(chunks, key)) % chunks.round
            z = backend.sign_rows(key, SIGNS, upload(number * chunks.count + chunk, backend.device), row_size)
            for r in torch.unique(number).tolist():
                here = torch.nonzero(number == r)[:, 0]
                words = _codebook(backend, chunks, r, key).codewords(upload(row[here], backend.device))
                z[upload(here, backend.device)] *= words.view(-1, row_size)
        flat = rows.unpad(z.view(chunks.count, rows.blocks, rows.columns))
        return rotate_back(flat * math.sqrt(chunks.variance), _rotation(backend, size, key))


def _rotation(backend: Backend, size: int, key: int) -> Tensor:
    return backend.sign_rows(key, ROTATION, torch.zeros(1, dtype=torch.int64, device=backend.device), size)[0]


def _offset(chunks: Chunks, key: int) -> int:
    """Row of the codebook that is the first candidate.

    Early candidates win most often; without an offset the norms of a constant codebook's first rows would show in
    every sample.
    """
    return int(get_backend("cpu").random_words(key, OFFSET, torch.zeros(1, dtype=torch.int64))[0, 0]) % chunks.round


def _codebook(backend: Backend, chunks: Chunks, number: int, key: int) -> Codebook:
    """The codebook of one round: a constant for wide chunks, fresh for narrow ones, where signs are too few."""
    rows = chunks.rows
    if chunks.constant:
        return Codebook(backend, 0, CODEBOOK, chunks.round, rows.blocks, rows.columns)
    return Codebook(backend, key, CODEBOOK + number, chunks.round, rows.blocks, rows.columns)


_constant: dict[tuple[torch.device, int], Tensor] = {}  # the widest matrix of each number of rows that was asked for


def _matrix(backend: Backend, codebook: Codebook) -> Tensor:
    """The codebook's matrix; the constant one is drawn once (at most 128 MiB), for chunks of all widths and steps."""
    if codebook.key or codebook.stream != CODEBOOK:
        return codebook.matrix()
    place = backend.device, codebook.size
    known = _constant.get(place)
    if known is None or known.shape[1] < codebook.columns:
        _constant.clear()
        columns = -(-codebook.columns // 64) * 64
        known = _constant[place] = Codebook(backend, 0, CODEBOOK, codebook.size, 1, columns).matrix()
    return known[:, : codebook.columns]


def _arrivals(backend: Backend, key: int, number: int, count: int, now: Tensor) -> Tensor:
    """Arrival times of a unit Poisson process after `now`, float64 [count]; only the encoder needs them."""
    counters = torch.arange(-(-count // 4), dtype=torch.int64, device=backend.device)
    words = backend.random_words(key, TIMES + number, counters).reshape(-1)[:count]
    return now + ((words.double() + 0.5) / 2.0**32).log().neg().cumsum(0)
