"""The known-answer test of reverse-channel coders: DiffC on a Gaussian source with an exact denoiser.

x ~ N(0, diag(lambda)), lambda_k ~ 1 / k with mean 1 (docs/method/reverse-channel.md, section 6).  In signal-to-noise
form a diffusion step from SNR g to g + delta is the observation u ~ N(sqrt(delta) x, I) of a sender who knows x; the
receiver expects N(sqrt(delta) x0_hat, v I) with x0_hat = g lambda / (1 + g lambda) z, so the coder is handed
mu = sqrt(delta) (x - x0_hat) and z becomes (g z + sqrt(delta) u) / (g + delta).  This is q(z_s | z_t, x), whitened.
Overhead is read at equal MSE, never as bits over nominal KL.  Table: benchmarks/rcc.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffpress.codecs.reverse_channel import ReverseChannelCoder
from diffpress.codecs.reverse_channel.codebook import CoordinateRows, equal_edges
from diffpress.codecs.reverse_channel.index_code import IndexModel, class_of, index_code
from diffpress.codecs.reverse_channel.interface import variance_of

Floats = NDArray[np.float64]
# (mu, bits, key) -> (bits spent, sample)
Channel = Callable[[NDArray[np.float32], float, int], tuple[float, NDArray[np.float32]]]


@dataclass(frozen=True)
class Source:
    """N(0, diag(variances)), float64 [d]."""

    variances: Floats

    @classmethod
    def make(cls, size: int) -> Source:
        """Variances proportional to 1 / k, with mean 1."""
        law = 1.0 / np.arange(1, size + 1)
        return cls(law / law.mean())

    def error(self, snr: float) -> float:
        """Sum of the posterior variances at an SNR: E |x - x0_hat|^2."""
        return float((self.variances / (1 + snr * self.variances)).sum())

    def schedule(self, bits: float, steps: int) -> Floats:
        """SNRs float64 [steps + 1] from 0 on, each step costing `bits` bits of KL at v = 1 + E |mu|^2 / d."""
        size = len(self.variances)
        energy = size * (2.0 ** (2 * bits / size) - 1)
        snrs = [0.0]
        for _ in range(steps):
            snrs.append(snrs[-1] + energy / self.error(snrs[-1]))
        return np.array(snrs)

    def expected(self, bits: float, steps: int) -> tuple[Floats, Floats]:
        """(cumulative bits, MSE) that ideal sampling with this schedule gives in expectation, float64 [steps]."""
        mse = np.array([self.error(snr) for snr in self.schedule(bits, steps)[1:]]) / len(self.variances)
        return bits * np.arange(1, steps + 1, dtype=np.float64), mse

    def limit(self, mse: Floats) -> Floats:
        """Bits that infinitely many steps of ideal sampling spend for an MSE: I(x; z) = 1/2 sum log2(1 + g lambda)."""
        low, high = np.zeros_like(mse), np.full_like(mse, 1e9)
        for _ in range(100):  # bisection for the SNR g
            snr = (low + high) / 2
            above = (self.variances / (1 + snr[:, None] * self.variances)).mean(1) > mse
            low, high = np.where(above, snr, low), np.where(above, high, snr)
        return 0.5 * np.log2(1 + low[:, None] * self.variances).sum(1)

    def rate(self, mse: Floats) -> Floats:
        """Rate-distortion function in bits for the whole vector, at a mean squared error per coordinate."""
        low, high = np.zeros_like(mse), np.full_like(mse, self.variances.max())
        for _ in range(100):  # bisection for the water level
            level = (low + high) / 2
            under = np.minimum(self.variances, level[:, None]).mean(1) < mse
            low, high = np.where(under, level, low), np.where(under, high, level)
        ratio = np.maximum(self.variances / low[:, None], 1)
        return 0.5 * np.log2(ratio).sum(1)


def run(source: Source, channel: Channel, bits: float, steps: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """(cumulative bits, MSE per coordinate, MSE of an ideal twin) after each step, float64 [steps].

    The twin has the same x and schedule and samples ideally, with the coder's own noise orthogonal to mu and fresh
    noise along mu.  Its expected MSE is known, so its deviation is a control variate for the coder's.
    """
    rng = np.random.default_rng(seed)
    lam = source.variances
    x = rng.standard_normal(len(lam)) * np.sqrt(lam)
    z = np.zeros((2, len(lam)))  # coder, twin
    snrs = source.schedule(bits, steps)
    spent, mse = np.zeros(steps), np.zeros((2, steps))
    for step in range(steps):
        now, later = snrs[step], snrs[step + 1]
        gain = math.sqrt(later - now)
        x0_hat = now * lam / (1 + now * lam) * z
        mu = gain * (x - x0_hat)
        spent[step], sample = channel(mu[0].astype(np.float32), bits, (seed << 20) + step)
        along = mu / np.linalg.norm(mu, axis=1, keepdims=True)
        noise = sample - (sample @ along[0]) * along[0]
        noise += (rng.standard_normal() - noise @ along[1]) * along[1]
        z = (now * z + gain * (np.stack([sample, mu[1] + noise]) + gain * x0_hat)) / later
        mse[:, step] = ((x - later * lam / (1 + later * lam) * z) ** 2).mean(1)
    return spent.cumsum(), mse[0], mse[1]


def extra_bits(bits: Floats, mse: Floats, ideal_bits: Floats, ideal_mse: Floats) -> float:
    """Mean of bits over the ideal curve's bits at equal MSE, minus 1, over the last half of the steps.

    Curves are interpolated linearly in log MSE and, at the end, extended with their last slope.
    """
    x, y = np.log(ideal_mse[::-1]), ideal_bits[::-1]
    at = np.log(mse)
    slope = (y[0] - y[1]) / (x[0] - x[1])
    equal = np.where(at < x[0], y[0] + slope * (at - x[0]), np.interp(at, x, y))
    half = len(bits) // 2
    return float((bits[half:] / equal[half:]).mean() - 1)


def kl_bits(mu: NDArray[np.float32], variance: float) -> float:
    """KL(N(mu, I) || N(0, v I)) in bits."""
    energy, size = float((mu.astype(np.float64) ** 2).sum()), len(mu)
    return ((size + energy) / variance - size + size * math.log(variance)) / (2 * math.log(2))


def ideal(mu: NDArray[np.float32], bits: float, key: int) -> tuple[float, NDArray[np.float32]]:
    """Sampling at exactly the KL: nothing is coded."""
    noise = np.random.default_rng([1, key]).standard_normal(len(mu), dtype=np.float32)
    return kl_bits(mu, variance_of("calibrated", bits, len(mu))), mu + noise


def coded(coder: ReverseChannelCoder) -> Channel:
    """A real coder: bits are those of its payload, without the padding to whole bytes."""

    def channel(mu: NDArray[np.float32], bits: float, key: int) -> tuple[float, NDArray[np.float32]]:
        payload, sample = coder.encode(mu, bits, key)
        return coder.cost(payload, len(mu), bits, key), np.asarray(sample)

    return channel


def pfr_law(model: IndexModel, chunk_bits: float = 14.0) -> Channel:
    """PFR without truncation: the sample is drawn directly, its index from the exact law given the sample.

    See docs/decisions/0011-pfr.md for the law.  A search of 2^14 candidates per chunk and more, through which only a
    part of the draws would be found, is thereby replaced by its outcome.
    """

    def channel(mu: NDArray[np.float32], bits: float, key: int) -> tuple[float, NDArray[np.float32]]:
        rng = np.random.default_rng([2, key])
        _, sample = ideal(mu, bits, key)
        count = math.ceil(bits / chunk_bits)
        v = variance_of("calibrated", bits, len(mu))
        code = index_code(model, bits / count, 1 << 40)
        total = 0
        rows = rng.permutation(len(mu))
        padded = CoordinateRows(torch.from_numpy(equal_edges(len(mu), count)))
        chunk_mu = padded.pad(torch.from_numpy(mu[rows])).double().flatten(1).numpy()
        chunk_z = padded.pad(torch.from_numpy(sample[rows])).double().flatten(1).numpy()
        length = padded.lengths.numpy()
        energy = (chunk_mu**2).sum(1)
        constant = 0.5 * (length * math.log(v) - energy)
        log_w = (chunk_mu * chunk_z).sum(1) - 0.5 * (1 - 1 / v) * (chunk_z**2).sum(1) + constant
        kl = 0.5 * (energy / v - (1 - 1 / v) * length + length * math.log(v))
        spread = np.sqrt(energy / v**2 + 0.5 * (1 - 1 / v) ** 2 * length)
        below_p = torch.special.ndtr(torch.from_numpy((log_w - kl + spread**2) / spread)).numpy()
        below_q = torch.special.ndtr(torch.from_numpy((log_w - kl) / spread)).numpy()
        earlier = np.maximum(rng.exponential(size=count) * (np.exp(log_w) * below_p - below_q), 0)
        for mean in earlier:
            label, _, raw = class_of(min(int(rng.poisson(mean) if mean < 1e9 else mean), (1 << 40) - 2))
            total += code.lengths[label] + raw
        return total, sample

    return channel
