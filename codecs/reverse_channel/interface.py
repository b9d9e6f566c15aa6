"""What both reverse-channel coders share: the calls, the named errors, argument checks and the variance of p.

At each diffusion step the sender holds q = N(mu, I_d), both sides hold p = N(0, v I_d); a coder sends one sample of q
in about KL(q || p) bits (Theis et al., "Lossy compression with Gaussian diffusion", 2022).  Nothing here knows images.
"""

from __future__ import annotations

import abc
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels import Backend, get_backend

Vector = NDArray[np.float32] | Tensor
Buffer = bytes | bytearray | memoryview
Variance = Literal["calibrated", "unit"]

MAX_RATE = 12.0  # bits per coordinate; beyond it 16-bit normals are coarser than the unit noise of the sample
KEYS = 1 << 64


class CoderError(ValueError):
    """What a reverse-channel coder cannot do; its message is one sentence meant for the user."""


class InputError(CoderError):
    """A mean, budget, key, size or option that is not acceptable."""


class PayloadError(CoderError):
    """A payload that is too short, too long or not decodable."""


@dataclass(frozen=True)
class SharedStep:
    """What sender and receiver both know of a step.

    size     number of coordinates d
    bits     KL budget in bits
    key      shared secret of the step
    backend  kernels of the device that codes it
    """

    size: int
    bits: float
    key: int
    backend: Backend

    @classmethod
    def of(cls, size: int, bits: float, key: int, device: torch.device) -> SharedStep:
        """A step on a device; raises InputError if a number is not acceptable."""
        return cls(*check_step(size, bits, key), get_backend(device=device))


class ReverseChannelCoder(abc.ABC):
    """Sends samples of N(mu, I).  Both sides give the same `bits` and `key`; no state is kept between calls.

    name  registry name
    """

    name: str

    def encode(self, mu: Vector, bits: float, key: int) -> tuple[bytes, Vector]:
        """(payload, sample ~ N(mu, I)) for a step of `bits` bits of KL.

        mu    float32 [d], NumPy or torch on any device; finite, d >= 1
        bits  the step's KL budget in bits, finite, 0 < bits <= 12 d
        key   the shared secret, 0 <= key < 2^64, another one for every step
        The sample has the kind and the device of mu.  Raises InputError.
        """
        return self.encode_many([mu], [bits], [key])[0]

    def decode(self, payload: Buffer, size: int, bits: float, key: int, *, like: Vector | None = None) -> Vector:
        """The encoder's sample, bit for bit: float32 [size], kind and device as of `like` (None: torch, CPU).

        Raises InputError, or PayloadError if the payload has the wrong length.
        """
        device = like.device if isinstance(like, Tensor) else torch.device("cpu")
        return _as_kind(self._decode(payload, SharedStep.of(size, bits, key, device)), like)

    @abc.abstractmethod
    def payload_size(self, buffer: Buffer, size: int, bits: float, key: int) -> int:
        """Bytes that the payload at the start of `buffer` occupies; raises PayloadError if the buffer is too short."""

    def fixed_size(self, size: int, bits: float, key: int) -> int | None:
        """Bytes that the payload of this step will have whatever is sent; None where that takes a search to know."""
        return None

    def cost(self, payload: Buffer, size: int | None = None, bits: float | None = None, key: int | None = None) -> int:
        """Length in bits: of the whole bytes, or without the padding at the end where the step is given too."""
        return 8 * len(payload)

    def encode_many(
        self, mus: Sequence[Vector], bits: Sequence[float], keys: Sequence[int]
    ) -> list[tuple[bytes, Vector]]:
        """`encode` for several steps, images or coded groups; lists of equal length."""
        _check_lengths(mus, bits, keys)
        tensors = as_tensors(mus)
        steps = [SharedStep.of(len(mu), kl, key, mu.device) for mu, kl, key in zip(tensors, bits, keys, strict=True)]
        coded = self._encode_many(tensors, steps)
        return [(payload, _as_kind(sample, mu)) for (payload, sample), mu in zip(coded, mus, strict=True)]

    def decode_many(
        self, payloads: Sequence[Buffer], sizes: Sequence[int], bits: Sequence[float], keys: Sequence[int],
        *, like: Vector | None = None,
    ) -> list[Vector]:
        """`decode` for several steps, images or coded groups; lists of equal length."""
        _check_lengths(payloads, sizes, bits, keys)
        return [self.decode(*step, like=like) for step in zip(payloads, sizes, bits, keys, strict=True)]

    def for_step(self, bits: float) -> Self:
        """The coder for the groups of a step that carry `bits` together: what it searches may depend on that sum."""
        return self

    @abc.abstractmethod
    def _encode_many(self, mus: Sequence[Tensor], steps: Sequence[SharedStep]) -> list[tuple[bytes, Tensor]]:
        """(payload, sample float32 [d] on the device of mu) of every step; mu float32 [d], checked."""

    @abc.abstractmethod
    def _decode(self, payload: Buffer, step: SharedStep) -> Tensor:
        """The sample float32 [d] on the step's device; raises PayloadError."""


def check_step(size: int, bits: float, key: int) -> tuple[int, float, int]:
    """(size, bits, key) as plain Python numbers; raises InputError if one is not acceptable."""
    if isinstance(key, bool) or not isinstance(key, numbers.Integral):
        raise InputError(f"the key must be an integer, not {type(key).__name__}")
    if not 0 <= int(key) < KEYS:
        raise InputError("the key must lie between 0 and 2^64 - 1")
    if isinstance(size, bool) or not isinstance(size, numbers.Integral) or int(size) < 1:
        raise InputError("the size must be a positive integer")
    if isinstance(bits, bool) or not isinstance(bits, numbers.Real):
        raise InputError(f"the budget must be a number of bits, not {type(bits).__name__}")
    if not math.isfinite(bits) or bits <= 0:
        raise InputError(f"the budget must be a positive, finite number of bits, not {bits}")
    if bits > MAX_RATE * int(size):
        raise InputError(f"a budget of {bits} bits for {size} coordinates exceeds {MAX_RATE:g} bits per coordinate")
    return int(size), float(bits), int(key)


def as_tensors(mus: Sequence[Vector]) -> list[Tensor]:
    """Float32 tensors [d] on their devices; raises InputError unless all are finite, non-empty vectors.

    The host waits once for a GPU's answer, not once for each of them.
    """
    tensors = [_as_tensor(mu) for mu in mus]
    if not all(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).tolist() if tensors else ()):
        raise InputError("the mean must be finite, but it holds NaN or infinity")
    return tensors


def _as_tensor(mu: Vector) -> Tensor:
    if not isinstance(mu, np.ndarray | Tensor):
        raise InputError(f"the mean must be a NumPy array or a torch tensor, not {type(mu).__name__}")
    tensor = torch.from_numpy(np.ascontiguousarray(mu)) if isinstance(mu, np.ndarray) and mu.dtype.kind == "f" else mu
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise InputError("the mean must hold floating-point numbers")
    if tensor.ndim != 1 or len(tensor) == 0:
        raise InputError(f"the mean must be a vector with at least one coordinate, not of shape {list(tensor.shape)}")
    return tensor.detach().to(torch.float32).contiguous()


def _as_kind(sample: Tensor, like: Vector | None) -> Vector:
    """`sample` as NumPy array or torch tensor, whichever `like` is."""
    return sample.cpu().numpy() if isinstance(like, np.ndarray) else sample


def _check_lengths(*lists: Sequence[object]) -> None:
    """Raises InputError when the lists differ in length."""
    if len({len(x) for x in lists}) > 1:
        raise InputError("encode_many and decode_many need lists of equal length")


def exp2(x: float) -> float:
    """2^x from additions and products alone: every machine gets the same double (libm's differ in the last bit).

    Taylor series of exp(ln 2 * fraction) for a fraction in [-1/2, 1/2]; relative error below 1e-15.
    """
    whole = math.floor(x + 0.5)
    y = (x - whole) * 0.6931471805599453
    total = 1.0
    for i in range(18, 0, -1):
        total = 1.0 + total * y / i
    return math.ldexp(total, whole)


def variance_of(kind: Variance, bits: float, size: int) -> float:
    """v of p = N(0, v I): 1, or 2^(2 bits / d), for which d/2 log2 v = bits (docs/method/reverse-channel.md, eq. 3)."""
    return 1.0 if kind == "unit" else exp2(2.0 * bits / size)
