"""The trellis coder: a whole step as one codeword of fixed length (or a few, for very large steps).

reverse_channel.md, section 3.  Every stage of the trellis owns some coordinates and k bits; a branch carries a label
that stands for a Gaussian vector; the Viterbi search maximises log q(z) / p(z) over all paths, and the symbols of the
best path are the payload.  The search sees mu only through inner products, so everything orthogonal to mu stays exactly
N(0, I) and only the projection of the sample on mu has a smaller spread than a true draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels import Backend
from . import base
from .layout import Codebook, Layout
from .rotation import rotate, rotate_back
from .trellis_plan import Layer, Plan, branch_labels, make_plan, path_labels

# Streams of the step's key.  Layer l of a step adds l to the last two.
DITHER, ROTATION, CODEBOOK, SIGNS = (tag << 32 for tag in range(1, 5))


@dataclass(frozen=True)
class TrellisCoder:
    """``get_coder("trellis")``; see base.ReverseChannelCoder for the calls.

    constraint_length  L, bits of the register, 4 <= L <= 20, a multiple of k; None: the largest that keeps a step cheap
    k                  bits per stage: 1, 2 or 4
    labels             codewords of a stage, a power of two, in antipodal pairs; the 2^(L + k) branches share them
    variance           "calibrated": v = 2^(2 bits / d); "unit": v = 1
    """

    constraint_length: int | None = None
    k: int = 2
    labels: int = 2048
    variance: base.Variance = "calibrated"
    name = "trellis"

    def __post_init__(self) -> None:
        if self.k not in (1, 2, 4):
            raise base.InputError("k must be 1, 2 or 4 bits per stage")
        length = self.constraint_length
        if length is not None and (not 4 <= length <= 20 or length % self.k):
            raise base.InputError("the constraint length must lie between 4 and 20 and be a multiple of k")
        if self.labels < 2 or self.labels > 1 << 16 or self.labels & (self.labels - 1):
            raise base.InputError("the number of labels must be a power of two between 2 and 65536")
        if self.variance not in ("calibrated", "unit"):
            raise base.InputError("the variance must be 'calibrated' or 'unit'")

    def encode(self, mu: base.Vector, bits: float, key: int) -> tuple[bytes, base.Vector]:
        """See ReverseChannelCoder.encode."""
        tensor = base.as_tensor(mu)
        size, bits, key = base.check_step(len(tensor), bits, key)
        backend = base.backend_for(tensor.device)
        plan = self._plan(size, bits, key)
        signs = backend.sign_rows(key, ROTATION, torch.zeros(1, dtype=torch.int64, device=backend.device), size)[0]
        target = rotate(tensor, signs)
        total = torch.zeros_like(target)
        payload = bytearray()
        for index, layer in enumerate(plan.layers):
            part, sample = self._encode_layer(backend, plan, index, layer, target * layer.gain, key)
            payload += part
            sample.mul_(layer.noise)
            total.add_(sample * layer.weight)
            target = (target - sample) * layer.shrink
        return bytes(payload), base.as_kind(rotate_back(total, signs), mu)

    def decode(
        self, payload: base.Buffer, size: int, bits: float, key: int, *, like: base.Vector | None = None
    ) -> base.Vector:
        """See ReverseChannelCoder.decode."""
        size, bits, key = base.check_step(size, bits, key)
        plan = self._plan(size, bits, key)
        if len(payload) != plan.bytes:
            raise base.PayloadError(f"the payload of this step has {plan.bytes} bytes, not {len(payload)}")
        backend = base.backend_for(base.device_of(like))
        signs = backend.sign_rows(key, ROTATION, torch.zeros(1, dtype=torch.int64, device=backend.device), size)[0]
        total = torch.zeros(size, device=backend.device)
        start = 0
        for index, layer in enumerate(plan.layers):
            part = bytes(payload[start : start + layer.bytes])
            start += layer.bytes
            sample = self._decode_layer(backend, plan, index, layer, part, key)
            sample.mul_(layer.noise)
            total.add_(sample * layer.weight)
        return base.as_kind(rotate_back(total, signs), like)

    def payload_size(self, buffer: base.Buffer, size: int, bits: float, key: int) -> int:
        """See ReverseChannelCoder.payload_size; a function of size, bits and key alone."""
        needed = self._plan(*base.check_step(size, bits, key)).bytes
        if len(buffer) < needed:
            raise base.PayloadError(f"the payload of this step has {needed} bytes, but only {len(buffer)} are left")
        return needed

    def cost(
        self, payload: base.Buffer, size: int | None = None, bits: float | None = None, key: int | None = None
    ) -> int:
        """Length in bits; every bit of every byte is used."""
        return 8 * len(payload)

    def encode_many(
        self, mus: Sequence[base.Vector], bits: Sequence[float], keys: Sequence[int]
    ) -> list[tuple[bytes, base.Vector]]:
        """`encode` for several steps or images."""
        base.check_lengths(mus, bits, keys)
        return [self.encode(*step) for step in zip(mus, bits, keys, strict=True)]

    def decode_many(
        self,
        payloads: Sequence[base.Buffer],
        sizes: Sequence[int],
        bits: Sequence[float],
        keys: Sequence[int],
    ) -> list[base.Vector]:
        """`decode` for several steps or images."""
        base.check_lengths(payloads, sizes, bits, keys)
        return [self.decode(*step) for step in zip(payloads, sizes, bits, keys, strict=True)]

    def _plan(self, size: int, bits: float, key: int) -> Plan:
        word = base.backend_for(torch.device("cpu")).random_words(key, DITHER, torch.zeros(1, dtype=torch.int64))[0, 0]
        return make_plan(size, bits, int(word) / 2.0**32, self.constraint_length, self.k, self.variance)

    def _codebook(self, backend: Backend, index: int, layout: Layout, key: int) -> Codebook:
        return Codebook(backend, key, CODEBOOK + index, self.labels // 2, layout.blocks, layout.width)

    def _signs(self, backend: Backend, index: int, size: int, key: int) -> Tensor:
        return backend.sign_rows(key, SIGNS + index, torch.zeros(1, dtype=torch.int64, device=backend.device), size)[0]

    def _encode_layer(
        self, backend: Backend, plan: Plan, index: int, layer: Layer, mu: Tensor, key: int
    ) -> tuple[bytes, Tensor]:
        """Payload and sample ~ N(mu, I) of one layer, in rotated coordinates."""
        if layer.bytes == 0:
            return b"", self._decode_layer(backend, plan, index, layer, b"", key)
        signs = self._signs(backend, index, plan.size, key)
        payload = bytearray()
        branches = branch_labels(plan.constraint_length, self.k, self.labels).to(backend.device)
        deviation = math.sqrt(layer.variance)
        matrix: Tensor | None = None
        for group in layer.groups(plan, self.labels):
            codebook = self._codebook(backend, index, group.layout, key)
            if matrix is None or matrix.shape[1] != codebook.width:
                matrix = codebook.matrix()
            part = (mu[group.coordinates] * signs[group.coordinates]).mul_(deviation)
            scores = codebook.scores(matrix, group.layout.pad(part))
            scores = torch.cat([scores, -scores], 1)
            if layer.variance != 1.0:
                distinct, where = torch.unique(group.layout.lengths, return_inverse=True)
                energy = codebook.energies(matrix, distinct) * (0.5 * (layer.variance - 1.0))
                scores.view(len(scores), 2, -1).sub_(energy[where.to(energy.device), None])
            rows = group.stage_rows().to(backend.device)
            stages = torch.tensor(group.stages, device=backend.device)
            symbols, _ = backend.trellis_search(
                scores[rows], stages, branches, plan.constraint_length, self.k, plan.flush
            )
            payload += group.pack(symbols.cpu().numpy())
        return bytes(payload), self._decode_layer(backend, plan, index, layer, bytes(payload), key)

    def _decode_layer(
        self, backend: Backend, plan: Plan, index: int, layer: Layer, payload: bytes, key: int
    ) -> Tensor:
        """The layer's sample, in rotated coordinates."""
        deviation = math.sqrt(layer.variance)
        if layer.bytes == 0:  # nothing is sent: a shared draw from p
            row = torch.zeros(1, dtype=torch.int64, device=backend.device)
            return backend.normal_rows(key, CODEBOOK + index, row, plan.size)[0].mul_(deviation)
        sample = self._signs(backend, index, plan.size, key)
        start = 0
        for group in layer.groups(plan, self.labels):
            end = start + sum(group.bytes)
            symbols = group.unpack(np.frombuffer(payload[start:end], np.uint8))
            start = end
            chosen = path_labels(symbols, plan.constraint_length, self.k, self.labels)
            codebook = self._codebook(backend, index, group.layout, key)
            chosen = chosen.to(backend.device)
            few = 2 * chosen.numel() * group.layout.blocks < self.labels
            words = codebook.codewords(chosen % codebook.size, None if few else codebook.matrix())
            words *= (1.0 - 2.0 * (chosen >= codebook.size))[:, None, None]
            sample[group.coordinates] *= group.layout.unpad(words)
        return sample.mul_(deviation)


def make(**options: Any) -> TrellisCoder:
    """The coder with `options`; raises InputError for an unknown one."""
    unknown = set(options) - set(TrellisCoder.__dataclass_fields__)
    if unknown:
        raise base.InputError(f"the trellis coder has no option {sorted(unknown)[0]!r}")
    return TrellisCoder(**options)
