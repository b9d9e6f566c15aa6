"""The trellis coder: a whole step as one codeword of fixed length (or a few, for very large steps).

Every stage of the trellis owns some coordinates and k bits; a branch carries a label that stands for a Gaussian vector;
the Viterbi search maximises log q(z) / p(z) over all paths, and the symbols of the best path are the payload.  The
search sees mu only through inner products, so everything orthogonal to mu stays exactly N(0, I), and only the
projection of the sample on mu has a smaller variance than a true draw.
Trellis-coded quantisation of memoryless sources: Marcellin and Fischer, 1990; here the code words are random and the
distortion is the log-likelihood ratio.  Equations: docs/method/reverse-channel.md, section 3.

What both sides derive from (size, bits, key) before anything is sent is in trellis_format.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels import get_backend, upload
from ...kernels.viterbi import max_score, path_labels
from . import interface as base
from .codebook import Codebook, CoordinateRows, rotate, rotate_back
from .trellis_format import (
    GROUP_SCORES,
    CodewordGroup,
    RefinementLayer,
    StepFormat,
    automatic_constraint_length,
    step_format,
)

# Streams of the step's key.  Layer l of a step adds l to the last two.
DITHER, ROTATION, CODEBOOK, SIGNS = (tag << 32 for tag in range(1, 5))

BRANCHES = 8e9  # default of TrellisCoder.branches, about 3 s of one core


@dataclass(frozen=True)
class TrellisCoder(base.ReverseChannelCoder):
    """``get_coder("trellis")``; see ReverseChannelCoder for the calls.

    constraint_length  L, bits of the register, 4 <= L <= 18, a multiple of k; None: the largest that keeps a step cheap
    k                  bits per stage: 1, 2 or 4
    labels             codewords of a stage, a power of two, in antipodal pairs; the 2^(L + k) branches share them
    variance           "calibrated": v = 2^(2 bits / d); "unit": v = 1
    branches           what the automatic constraint length lets the search of a step visit, in trellis branches
    """

    constraint_length: int | None = None
    k: int = 2
    labels: int = 2048
    variance: base.Variance = "calibrated"
    branches: float = BRANCHES
    name = "trellis"

    def __post_init__(self) -> None:
        if self.k not in (1, 2, 4):
            raise base.InputError("k must be 1, 2 or 4 bits per stage")
        length = self.constraint_length
        if length is not None and (not 4 <= length <= 18 or length % self.k):
            raise base.InputError("the constraint length must lie between 4 and 18 and be a multiple of k")
        if self.labels < 2 or self.labels > 1 << 16 or self.labels & (self.labels - 1):
            raise base.InputError("the number of labels must be a power of two between 2 and 65536")
        if self.variance not in ("calibrated", "unit"):
            raise base.InputError("the variance must be 'calibrated' or 'unit'")

    def _encode_many(self, mus: Sequence[Tensor], steps: Sequence[base.SharedStep]) -> list[tuple[bytes, Tensor]]:
        coded = [_CodedStep(self, mu, step) for mu, step in zip(mus, steps, strict=True)]
        for index in range(max((len(one.format.layers) for one in coded), default=0)):
            active = [one for one in coded if index < len(one.format.layers)]
            waiting: list[_Search] = []
            for search in (search for one in active for search in one.searches(index)):
                waiting.append(search)
                if sum(len(one.scores) for one in waiting) * self.labels >= GROUP_SCORES:
                    self._run(waiting)
                    waiting = []
            self._run(waiting)
            for one in active:
                one.refine(index)
        return [(one.payload, rotate_back(one.total, one.signs)) for one in coded]

    def _run(self, searches: Sequence[_Search]) -> None:
        """Find the paths of these searches: trellises of one shape in one call, in which a GPU searches side by side.

        The host waits for a GPU once, for the symbols of all paths.
        """
        if not searches:
            return
        searches = sorted(searches, key=lambda one: one.shape)
        found: list[Tensor] = []
        for shape, same in groupby(searches, key=lambda one: one.shape):
            alike = list(same)
            scores = alike[0].scores if len(alike) == 1 else torch.cat([one.scores for one in alike])
            stages = torch.from_numpy(np.concatenate([one.group.stages for one in alike]))
            found.append(alike[0].codebook.backend.trellis_search(scores, stages, *shape)[0])
        symbols, first = torch.cat(found).cpu().numpy(), 0
        for one in searches:
            last = first + len(one.scores)
            one.take(symbols[first:last], self)
            first = last

    def _decode(self, payload: base.Buffer, step: base.SharedStep) -> Tensor:
        coded = self._format(step.size, step.bits, step.key)
        if len(payload) != coded.num_bytes:
            raise base.PayloadError(f"the payload of this step has {coded.num_bytes} bytes, not {len(payload)}")
        total = torch.zeros(step.size, device=step.backend.device)
        data, start = np.frombuffer(bytes(payload), np.uint8), 0
        for index, layer in enumerate(coded.layers):
            sample = self._decode_layer(step, coded, index, layer, data[start : start + layer.num_bytes])
            start += layer.num_bytes
            total.add_(sample.mul_(layer.noise) * layer.weight)
        return rotate_back(total, _signs(step, ROTATION))

    def fixed_size(self, size: int, bits: float, key: int) -> int:
        return self._format(*base.check_step(size, bits, key)).num_bytes

    def payload_size(self, buffer: base.Buffer, size: int, bits: float, key: int) -> int:
        needed = self.fixed_size(size, bits, key)
        if len(buffer) < needed:
            raise base.PayloadError(f"the payload of this step has {needed} bytes, but only {len(buffer)} are left")
        return needed

    def for_step(self, bits: float) -> Self:
        """With the constraint length that suits the step."""
        length = self.constraint_length or automatic_constraint_length(bits, self.k, self.branches)
        return replace(self, constraint_length=length)

    def _format(self, size: int, bits: float, key: int) -> StepFormat:
        word = get_backend("cpu").random_words(key, DITHER, torch.zeros(1, dtype=torch.int64))[0, 0]
        length = self.constraint_length or automatic_constraint_length(bits, self.k, self.branches)
        return step_format(size, bits, int(word) / 2.0**32, length, self.k, self.variance)

    def _codebook(self, step: base.SharedStep, index: int, rows: CoordinateRows) -> Codebook:
        return Codebook(step.backend, step.key, CODEBOOK + index, self.labels // 2, rows.blocks, rows.columns)

    def _decode_layer(
        self, step: base.SharedStep, coded: StepFormat, index: int, layer: RefinementLayer, payload: NDArray[np.uint8]
    ) -> Tensor:
        """The layer's sample, in rotated coordinates."""
        std = math.sqrt(layer.variance)
        if layer.num_bytes == 0:  # nothing is sent: a shared draw from p
            row = torch.zeros(1, dtype=torch.int64, device=step.backend.device)
            return step.backend.normal_rows(step.key, CODEBOOK + index, row, coded.size)[0].mul_(std)
        sample = _signs(step, SIGNS + index)
        start = 0
        for group in layer.groups(coded, self.labels):
            end = start + sum(group.num_bytes)
            codebook = self._codebook(step, index, group.rows)
            few = 2 * int(group.stages.sum()) * group.rows.blocks < self.labels
            matrix = None if few else codebook.matrix()
            sample[group.coordinates] *= self._words(coded, group, codebook, group.unpack(payload[start:end]), matrix)
            start = end
        return sample.mul_(std)

    def _words(
        self, coded: StepFormat, group: CodewordGroup, codebook: Codebook, symbols: NDArray[Any], matrix: Tensor | None
    ) -> Tensor:
        """The codewords along the paths of a group, float32 [its coordinates]; the symbols are on the CPU."""
        chosen = path_labels(symbols.astype(np.int64), group.stages, coded.constraint_length, self.k, self.labels)
        label = upload(torch.from_numpy(chosen), codebook.backend.device)
        words = codebook.codewords(label % codebook.size, matrix)
        words *= (1.0 - 2.0 * (label >= codebook.size))[:, None, None]  # labels come in antipodal pairs
        return group.rows.unpad(words)


class _Search:
    """A group of codewords on its way: scores int16 [stages, labels], the payload and codewords once it is searched.

    shape  constraint length, k, and the stages that flush: what one call of the search has in common
    """

    def __init__(
        self, format: StepFormat, group: CodewordGroup, codebook: Codebook, matrix: Tensor, scores: Tensor
    ) -> None:
        self.format, self.group, self.codebook, self.matrix, self.scores = format, group, codebook, matrix, scores
        self.shape = format.constraint_length, format.k, format.flush
        self.payload: bytes
        self.words: Tensor

    def take(self, symbols: NDArray[np.uint8], coder: TrellisCoder) -> None:
        """Go on with the best paths' symbols; the scores are let go."""
        self.payload = self.group.pack(symbols)
        self.words = coder._words(self.format, self.group, self.codebook, symbols, self.matrix)
        del self.scores, self.matrix


class _CodedStep:
    """A step on its way: `target` is the mean, in rotated coordinates, that its next layer refines."""

    def __init__(self, coder: TrellisCoder, mu: Tensor, step: base.SharedStep) -> None:
        self.coder, self.step = coder, step
        self.format = coder._format(step.size, step.bits, step.key)
        self.signs = _signs(step, ROTATION)
        self.target = rotate(mu, self.signs)
        self.total, self.payload = torch.zeros_like(self.target), b""
        self._searches: list[_Search] = []

    def searches(self, index: int) -> Iterator[_Search]:
        """What is to be searched for layer `index`, group by group."""
        layer, self._searches = self.format.layers[index], []
        if layer.num_bytes == 0:
            return
        self._layer_signs = _signs(self.step, SIGNS + index)
        target = (self.target * layer.gain * self._layer_signs).mul_(math.sqrt(layer.variance))
        matrix: Tensor | None = None
        for group in layer.groups(self.format, self.coder.labels):
            codebook = self.coder._codebook(self.step, index, group.rows)
            if matrix is None or matrix.shape[1] != codebook.columns:
                matrix = codebook.matrix()
            scores = codebook.scores(matrix, group.rows.pad(target[group.coordinates]))
            limit = max_score(self.format.constraint_length, self.coder.k)
            whole = _quantised(scores, codebook, matrix, group.rows, layer.variance, limit)
            self._searches.append(_Search(self.format, group, codebook, matrix, whole))
            yield self._searches[-1]

    def refine(self, index: int) -> None:
        """Add layer `index`, all of whose groups have been searched, to payload and sample."""
        layer = self.format.layers[index]
        if layer.num_bytes == 0:
            sample = self.coder._decode_layer(self.step, self.format, index, layer, np.zeros(0, np.uint8))
        else:
            sample = self._layer_signs
            for search in self._searches:
                self.payload += search.payload
                sample[search.group.coordinates] *= search.words
            sample.mul_(math.sqrt(layer.variance))
        sample.mul_(layer.noise)
        self.total.add_(sample * layer.weight)
        self.target = (self.target - sample) * layer.shrink


def _signs(step: base.SharedStep, stream: int) -> Tensor:
    row = torch.zeros(1, dtype=torch.int64, device=step.backend.device)
    return step.backend.sign_rows(step.key, stream, row, step.size)[0]


def _quantised(
    scores: Tensor, codebook: Codebook, matrix: Tensor, rows: CoordinateRows, variance: float, limit: int
) -> Tensor:
    """Scores of all labels, int16 [R, M] within +-limit, from the products float32 [R, M / 2], which are overwritten.

    log q / p of a codeword and its negative is +-<mu, z> - (v - 1) |z|^2 / 2 and a constant.  The scale is common to
    all rows, so the sum along a path keeps its meaning; a unit is about a hundredth of a deviation.
    """
    count, half = scores.shape
    distinct, where = torch.unique(rows.lengths, return_inverse=True)
    energy = codebook.energies(matrix, distinct) * (0.5 * (variance - 1.0))
    energy -= energy.mean(1, keepdim=True)  # a constant per stage moves no path
    low, high = scores.aminmax()
    scale = limit / (torch.maximum(-low, high) + energy.abs().max()).clamp(min=1e-30)
    whole = torch.empty(count, 2 * half, dtype=torch.int16, device=scores.device)
    energy, where = energy.mul_(scale), upload(where, scores.device)
    for first in range(0, count, 256):  # pieces that stay in the cache
        piece = slice(first, first + 256)
        part, offset, out = scores[piece].mul_(scale), energy[where[piece]], whole[piece]
        out[:, :half] = (part - offset).round_()
        out[:, half:] = part.add_(offset).neg_().round_()
    return whole
