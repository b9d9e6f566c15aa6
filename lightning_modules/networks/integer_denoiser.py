"""The denoiser in integers: the same estimate, bit for bit, on every machine, and several times as fast where there is
int8 arithmetic.

A convolution multiplies 8-bit weights by 8-bit activations and adds in 32 bits (in the first and the last layer weights
and inputs are wider, as far as sums allow).  Its result is (sum + bias) n / 2^e, with an exponent e and a factor n of
1, 3, 5 or 7 of its own for every output channel.  Such a product is exact, so that one rounding, half to even, is left:
to the 8 bits of the next layer's input.  With q the rounding to integers, clamped to the range in brackets,

    h = stem(q[-2047, 2047](256 y))                              y the noisy image at unit variance
    h = h + conv_out(q[0, 255](conv_in(q[-128, 127](2^a h))))    for every residual block
    F = head(q[-255, 255](2^a h))

The lower bound 0 of a block's inner rounding is its ReLU.  The factors by which the noise level scales channels (FiLM)
go into the weights of conv_out, which are rounded after that for every noise level (`IntegerDenoiser.at`); they are
tabulated, so that no exponential is left whose last bit would differ between machines.  docs/method/integers.md.

Why every engine computes the same: no sum exceeds 2^24 (`largest_sum`, checked for every noise level that is used),
so that float32 holds each one exactly in any order, and with or without fused multiply-adds.  Everything else is single
IEEE operations, one after the other.  Terms as in Nagel et al., "A white paper on neural network quantization", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..identity import ModelError
from .denoiser import SIGMA_DATA, load_network, save_network

INPUT_SCALE, INPUT_MAX, HEAD_MAX = 256, 2047, 255  # rounding of the input and of what the head sees
SUM_LIMIT = 1 << 24  # the largest integer up to which float32 has them all
LARGEST_BIAS = 1 << 20  # of a block's first convolution, in units of its sums
LEVELS_KEPT = 64  # networks of one noise level that are kept; a file needs a few dozen


@dataclass(frozen=True, eq=False)
class IntegerConvolution:
    """A 3 x 3 convolution: (sum + bias) * scale.

    weight  int8, or int32 where it is wider, [out, in, 3, 3]
    bias    int32 [out]
    scale   float32 [out], n / 2^e with n 1, 3, 5 or 7
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def on(self, device: torch.device) -> IntegerConvolution:
        """The same on `device`; the host does not wait for it."""
        from ...kernels import upload

        return IntegerConvolution(*(upload(x, device) for x in (self.weight, self.bias, self.scale)))

    def largest_sum(self, low: int, high: int) -> int:
        """The largest magnitude that a sum of inputs in low..high, or a part of it, reaches with its bias, times n."""
        weight = self.weight.long().flatten(1)
        positive, negative = weight.clamp(min=0).sum(1), -weight.clamp(max=0).sum(1)
        top = torch.maximum(high * positive - low * negative, high * negative - low * positive)
        eighths = (8 * torch.frexp(self.scale).mantissa).long()  # 4, 5, 6 or 7, of n = 1, 5, 3 or 7
        return int(((top + self.bias.long().abs()) * (eighths // (eighths & -eighths))).max())


@dataclass(frozen=True, eq=False)
class LevelBlock:
    """A residual block at one noise level; channel c of its input is rounded at `scale`[c], a power of two."""

    scale: Tensor
    conv_in: IntegerConvolution
    conv_out: IntegerConvolution


@dataclass(frozen=True, eq=False)
class LevelNetwork:
    """The network at one noise level: constants alone; `scale` is that of the head's input."""

    stem: IntegerConvolution
    blocks: tuple[LevelBlock, ...]
    scale: Tensor
    head: IntegerConvolution

    def largest_sum(self) -> int:
        """The largest magnitude that any sum can reach, whatever the input."""
        return max(
            self.stem.largest_sum(-INPUT_MAX, INPUT_MAX), self.head.largest_sum(-HEAD_MAX, HEAD_MAX),
            *(block.conv_in.largest_sum(-128, 127) for block in self.blocks),
            *(block.conv_out.largest_sum(0, 255) for block in self.blocks),
        )  # fmt: skip


class Engine(Protocol):
    """What runs a LevelNetwork on a device; all of them give the same numbers."""

    name: str

    def trunk(self, network: LevelNetwork, x: Tensor) -> Tensor:
        """F [B, 12, h, w] of x [B, 12, h, w], integers of at most INPUT_MAX in float32."""
        ...


class FloatEngine:
    """Integers carried in floating point, on any device: float32, or the slow reference in float64."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self.name = dtype, str(dtype).removeprefix("torch.")

    def trunk(self, network: LevelNetwork, x: Tensor) -> Tensor:
        """See Engine.trunk."""
        h = convolved(network.stem, x, self.dtype)
        for block in network.blocks:
            hidden = convolved(block.conv_in, rounded(h, block.scale, -128, 127), self.dtype)
            h = h + convolved(block.conv_out, hidden.round_().clamp_(0, 255), self.dtype)
        return convolved(network.head, rounded(h, network.scale, -HEAD_MAX, HEAD_MAX), self.dtype)


class Int8Engine:
    """oneDNN's 8-bit convolutions, for CPUs whose instructions add four products to a 32-bit sum (VNNI, AMX).

    Older ones add in 16 bits, which overflow: `works` finds out by computing the worst case.
    """

    name = "int8"

    def trunk(self, network: LevelNetwork, x: Tensor) -> Tensor:
        """See Engine.trunk."""
        from ...kernels.rounding import to_uint8

        h = convolved(network.stem, x).contiguous(memory_format=torch.channels_last)
        byte = torch.empty_like(h, dtype=torch.uint8)
        for block in network.blocks:
            to_uint8(h, block.scale, byte)
            hidden = _packed(block.conv_in, 128)(byte, None)
            _packed(block.conv_out, 0)(hidden, h)
        return convolved(network.head, rounded(h, network.scale, -HEAD_MAX, HEAD_MAX))

    @staticmethod
    @lru_cache(maxsize=1)
    def works() -> bool:
        """Whether this torch has the operations and this CPU computes them without overflow."""
        try:
            worst = torch.full((64, 64, 3, 3), 127, dtype=torch.int8)
            worst[1::2] = -128
            bias = torch.arange(64, dtype=torch.int32) - 1000
            x = torch.full((1, 64, 8, 8), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
            out = torch.zeros(1, 64, 8, 8).contiguous(memory_format=torch.channels_last)
            layer = IntegerConvolution(worst, bias, torch.tensor([1.0, 3.0, 5.0, 7.0]).repeat(16) / 256)
            Packed(layer, 0)(x, out)
            return torch.equal(out, convolved(layer, x.double(), torch.float64).float())
        except (AttributeError, RuntimeError, NotImplementedError):
            return False


class Packed:
    """A convolution as oneDNN wants it: uint8 in; uint8 out, or added to float32."""

    def __init__(self, layer: IntegerConvolution, zero_point: int) -> None:
        self.zero_point, self.scale = zero_point, layer.scale
        self.bias = layer.bias.double().mul(layer.scale.double()).float()  # exact: both have few digits
        self.zero_points = torch.zeros(len(self.bias), dtype=torch.int64)
        self.weight = torch.ops.onednn.qconv_prepack(
            layer.weight, self.scale, 1.0, zero_point, [1, 1], [1, 1], [1, 1], 1, None
        )

    def __call__(self, x: Tensor, total: Tensor | None) -> Tensor:
        place = [1, 1], [1, 1], [1, 1], 1  # stride, padding, dilation, groups
        weight = self.weight, self.scale, self.zero_points
        if total is None:
            return torch.ops.onednn.qconv2d_pointwise(
                x, 1.0, self.zero_point, *weight, self.bias, *place, 1.0, 0, torch.uint8, "relu", [], ""
            )
        return torch.ops.onednn.qconv2d_pointwise.binary(
            x, 1.0, self.zero_point, *weight, total, self.bias, *place, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0,
            "none", [], "",
        )  # fmt: skip


def _packed(layer: IntegerConvolution, zero_point: int) -> Packed:
    """`layer` packed, once."""
    if "packed" not in layer.__dict__:
        layer.__dict__["packed"] = Packed(layer, zero_point)
    return layer.__dict__["packed"]


def convolved(layer: IntegerConvolution, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`layer` of integers x [B, in, h, w], in the dtype of x [B, out, h, w]; sums are carried in `dtype`."""
    weight = layer.weight.to(x.device, dtype).contiguous(memory_format=torch.channels_last)
    # cuDNN and NNPACK know convolutions that transform their input (Winograd), whose products are not integers
    with torch.backends.cudnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        sums = F.conv2d(x.to(dtype), weight, padding=1).to(x.dtype)
    bias, scale = (value.to(x.device, x.dtype)[:, None, None] for value in (layer.bias, layer.scale))
    return sums.add_(bias).mul_(scale)


def rounded(h: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """round(scale h), half to even, clamped to low..high, in h's dtype; h [B, C, h, w], scale float32 [C]."""
    return h.mul(scale.to(h)[:, None, None]).round_().clamp_(low, high)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, float64, exactly (torch's own power need not be)."""
    return torch.from_numpy(np.ldexp(1.0, exponent.numpy().astype(np.int32)))


class IntegerDenoiser:
    """x0_hat of variance-preserving z, in integers; made from a trained Denoiser by training/integers.py.

    config    "nodes": log-SNRs, ascending, at which the tables are given; "widths", "blocks" as in Denoiser
    tensors   by name; for block k
              k.columns, k.exponent  int8 [C], [nodes]: the input is rounded at 2^(their sum)
              k.conv_in.weight       int8 [width, C, 3, 3]; times .scale float32 [width] is the weight for inputs so
                                     scaled by the columns; .bias float32 [width]
              k.film                 float16 [nodes, 2, width]: factor and summand after conv_in
              k.top, k.mean          float16 [nodes, width]: largest and mean of the hidden activations
              k.conv_out.weight      float16 [C, width, 3, 3]; .bias float32 [C]
              stem.weight, stem.bias, head.weight, head.bias; head.columns, head.exponent, head.mean as of a block,
              the mean that of the head's input, float16 [nodes, C]
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.config, self.tensors = dict(config), dict(tensors)
        self.nodes: list[float] = list(config["nodes"])
        self.count = int(config["blocks"])
        self.multiple = 2
        self.at = lru_cache(maxsize=LEVELS_KEPT)(self._at)
        self.to(torch.device("cpu"))
        weight, bias = self._doubles("stem.weight", "stem.bias")
        self._stem = folded(weight / INPUT_SCALE, bias, largest=INPUT_MAX)

    @property
    def reach(self) -> int:
        """Pixels from which on an input no longer changes an output."""
        return 2 * (2 * self.count + 2)

    def _doubles(self, *names: str) -> list[Tensor]:
        return [self.tensors[name].double() for name in names]

    def _at(self, log_snr: float) -> LevelNetwork:
        """The network at log-SNR `log_snr`, the tables interpolated between nodes; beyond the last ones as there.

        Raises ModelError where a sum could exceed what float32 holds.
        """
        below, share = self._place(log_snr)
        nearest = below + (share >= 0.5)
        blocks = tuple(self._block(k, below, share, nearest) for k in range(self.count))
        exponents = self.tensors["head.exponent"][nearest] + self.tensors["head.columns"].int()
        weight, bias, mean = self._doubles("head.weight", "head.bias", "head.mean")
        scale = power_of_two(exponents)
        head = folded(weight / scale[:, None, None], bias, mean[nearest] * scale, HEAD_MAX)
        network = LevelNetwork(self._stem, blocks, scale.float(), head)
        if network.largest_sum() >= SUM_LIMIT:
            raise ModelError("the integer network's sums could exceed 2^24")
        return network

    def _block(self, k: int, below: int, share: float, nearest: int) -> LevelBlock:
        """Block k.  relu(f (w q + b) + s) = |f| relu(sign(f) (w q + b + s / f)): the factor f waits for conv_out.

        Where f all but vanishes at this noise level, s / f would be too large: f then makes the weights smaller.
        """
        exponent = int(self.tensors[f"{k}.exponent"][nearest])
        film = self.tensors[f"{k}.film"][below : below + 2].double()
        factor, summand = film[0] + (film[1] - film[0]) * share
        scale, bias = self._doubles(f"{k}.conv_in.scale", f"{k}.conv_in.bias")
        scale, bias = factor * scale * 2.0**-exponent, factor * bias + summand
        unit = torch.maximum(scale.abs(), bias.abs() / LARGEST_BIAS).clamp(min=2.0**-100)
        weight = (self.tensors[f"{k}.conv_in.weight"] * (scale / unit)[:, None, None, None]).round()
        # the least exponent at which what is rounded stays within a byte: top <= 255 * 2^exponent * unit
        _, hidden = torch.frexp(self.tensors[f"{k}.top"][nearest].double() / (255.0 * unit))
        hidden = hidden.clamp(-8, 24)
        conv_in = IntegerConvolution(weight.to(torch.int8), whole_bias(bias / unit), power_of_two(-hidden).float())
        unit = unit * power_of_two(hidden)  # what 1 of the hidden activations stands for
        weight, bias, mean = self._doubles(f"{k}.conv_out.weight", f"{k}.conv_out.bias", f"{k}.mean")
        conv_out = folded(weight * unit[:, None, None], bias, mean[nearest] / unit)
        columns = self.tensors[f"{k}.columns"].int()
        return LevelBlock(power_of_two(columns + exponent).float(), conv_in, conv_out)

    def _place(self, log_snr: float) -> tuple[int, float]:
        """(the node below, how far towards the next in 1024ths)."""
        nodes = self.nodes
        place = min(max(log_snr, nodes[0]), nodes[-1])
        below = max(k for k, node in enumerate(nodes[:-1]) if node <= place)
        return below, round(1024 * (place - nodes[below]) / (nodes[below + 1] - nodes[below])) / 1024

    def __call__(self, z: Tensor, log_snr: float) -> Tensor:
        """x0_hat, float32 [B, 3, H, W], of z float32 [B, 3, H, W] at `log_snr`; H and W even."""
        to_unit, skip, out = (float(np.float32(factor)) for factor in self.factors(log_snr))
        unit = z * (to_unit * INPUT_SCALE)  # a product with a power of two: rounded as `to_unit` alone
        x = F.pixel_unshuffle(unit.round_().clamp_(-INPUT_MAX, INPUT_MAX), 2)
        x = x.float().contiguous(memory_format=torch.channels_last)
        residual = self.engine.trunk(self.at(log_snr), x).to(z.dtype)
        return F.pixel_shuffle(residual, 2).mul_(out).add_(z * skip)

    @staticmethod
    def factors(log_snr: float) -> tuple[float, float, float]:
        """(what brings z to unit variance, factor of z in x0_hat, factor of F), as in Denoiser.forward."""
        noise = math.exp(-0.5 * log_snr)  # of Karras et al. 2022, table 1
        variance = noise**2 + SIGMA_DATA**2
        grown = math.sqrt(1.0 + noise**2)  # y = grown z
        return grown / math.sqrt(variance), SIGMA_DATA**2 / variance * grown, noise * SIGMA_DATA / math.sqrt(variance)

    def to(self, device: torch.device) -> Self:
        """Run on `device`: 8-bit convolutions on a CPU that has them, 8-bit products on a GPU, else float32."""
        self.engine: Engine = FloatEngine()
        if device.type == "cpu" and Int8Engine.works():
            self.engine = Int8Engine()
        elif device.type == "cuda" and all(self.tensors["0.conv_in.weight"].shape[k] % 8 == 0 for k in (0, 1)):
            from .integer_matmul import MatmulEngine

            self.engine = MatmulEngine(device)
        return self

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The network that was saved into `folder`; raises ModelError."""
        return load_network(folder, cls)

    def save(self, folder: Path) -> None:
        """Write configuration and weights into `folder`, which is made."""
        save_network(folder, self.config, self.tensors)


def folded(
    weight: Tensor, bias: Tensor, mean: Tensor | None = None, largest: int | None = None
) -> IntegerConvolution:
    """A convolution with weight [out, in, 3, 3] and bias [out], float64, in integers.

    mean     [in] of its input: what the rounding of weights changes at the mean, the bias takes back
    largest  magnitude of its input: weights as large as sums below SUM_LIMIT allow; None: of 8 bits, inputs in 0..255
    """
    # frexp(x): x < 2^e.  So |weight| 2^(7 - e) rounds to at most 128, and sums stay a little below SUM_LIMIT
    n, ends = torch.ones(len(weight), dtype=torch.float64), weight.flatten(1).abs().amax(1).clamp(min=2.0**-20)
    if largest is None:
        limit, factors = 127, torch.tensor([1.0, 3.0, 5.0, 7.0], dtype=torch.float64)
        best = factors[torch.frexp(ends[:, None] / factors).mantissa.argmax(1)]  # a row's largest is then 102 or more
        _, e = torch.frexp(ends / best)
        sums = 1.02 * (255 * in_order(weight.abs()) + bias.abs()) * power_of_two(7 - e)  # times n
        n = torch.where(sums < SUM_LIMIT, best, n)
        exponent = 7 - torch.frexp(ends / n).exponent
    else:
        _, e = torch.frexp(1.02 * (largest * in_order(weight.abs()) + bias.abs()).clamp(min=2.0**-20))
        exponent, limit = SUM_LIMIT.bit_length() - 1 - e, SUM_LIMIT
    factor = power_of_two(exponent) / n
    exact = weight * factor[:, None, None, None]
    whole = exact.round().clamp(-limit, limit)
    bias = bias * factor
    if mean is not None:
        bias = bias + in_order((exact - whole) * mean[:, None, None])
    integers = whole.to(torch.int8 if largest is None else torch.int32)
    return IntegerConvolution(integers, whole_bias(bias), (n * power_of_two(-exponent)).float())


def whole_bias(bias: Tensor) -> Tensor:
    """int32 [out] of float64 [out]."""
    return bias.round().clamp(-(SUM_LIMIT >> 2), SUM_LIMIT >> 2).to(torch.int32)


def in_order(terms: Tensor) -> Tensor:
    """Sums [out] of float64 terms [out, in, 3, 3], the same everywhere: of integers, in 2^-20."""
    return (terms * 2.0**20).round().flatten(1).sum(1) * 2.0**-20
