"""UQDM: how long coding takes beside the network, and beside a table per symbol.

    python benchmarks/uqdm.py [--model FOLDER] [--tiles 96] [--threads 2]

Coding = integer tables and entropy coder, both ways, on the symbols of every step.  The baseline re-creates, from its
description, how the published code prepares one step of one 64 x 64 image: a table of its own for each of the 12,288
symbols, rounded to 16 bits and corrected until it sums to 2^16.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from diffpress.codecs.entropy import SegmentDecoder, SegmentEncoder
from diffpress.codecs.uqdm_chain import FINE, TILE, Chain, unsplit_operations
from diffpress.codecs.uqdm_tables import step_index, step_table
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.universal_quantization import interval_log_mass


def per_symbol_tables(std: torch.Tensor) -> float:
    """Seconds to build one normalised 16-bit table per symbol, deviations `std` [M] in quantization widths."""
    start = time.perf_counter()
    radius = int(np.ceil(4 * float(std.max()))) + 1
    k = torch.arange(-radius, radius + 1)[None] - torch.rand(len(std), 1)
    mass = interval_log_mass(k, torch.ones(()), std[:, None], "logistic").exp()
    table = (mass * 2**16).round().int().clamp_(min=1)
    while True:
        excess = table.sum(1) - 2**16
        rows = torch.nonzero(excess)[:, 0]
        if not len(rows):
            return time.perf_counter() - start
        # one unit moves per row and round, where it costs least
        step = -excess[rows].sign()
        cost = mass[rows] * torch.log2(1 + 1 / (table[rows] + torch.minimum(step, torch.zeros(()))[:, None]))
        best = torch.where(step > 0, cost.argmax(1), cost.nan_to_num(torch.inf).argmin(1))
        table[rows, best] += step.int()


def main() -> None:
    """Print one line per step and the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="uqdm-photo")
    parser.add_argument("--tiles", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model, device="cpu")
    rng = np.random.default_rng(0)
    network = coding = baseline = 0.0
    with unsplit_operations() as workers:
        chain = Chain(model, given.tiles, False, workers)
        encoder = SegmentEncoder()
        sent = []
        for step in range(model.n_steps):
            start = time.perf_counter()
            parameters = chain.parameters(exact=True)
            network += time.perf_counter() - start
            position = chain.dither()
            assert parameters.exact is not None
            # a plausible message: drawn from the coding prior itself
            draw = parameters.exact[1] * rng.logistic(0, np.sqrt(3) / np.pi, position.shape)
            k = np.rint(draw + chain.offset(position) / FINE).astype(np.int32)
            start = time.perf_counter()
            index = step_index(parameters.scale, position)
            encoder.encode(k, index, lambda number: step_table(model.base_prior, number))
            encoder.end_segment()
            seconds = time.perf_counter() - start
            coding += seconds
            sent.append((index, k))
            baseline += per_symbol_tables(torch.from_numpy(parameters.exact[1][0].ravel()).float())
            print(f"step {step + 1}: {len(np.unique(index))} tables, encode {seconds:.2f} s", flush=True)
            chain.advance(parameters.mean + FINE * k - chain.offset(position))
        segments = encoder.segments()
        start = time.perf_counter()
        decoder = SegmentDecoder(segments)
        for index, k in sent:
            assert np.array_equal(decoder.decode(index, lambda number: step_table(model.base_prior, number)), k.ravel())
        decode = time.perf_counter() - start
    pixels = given.tiles * TILE * TILE
    print(f"{given.tiles} tiles ({pixels / 1e6:.2f} megapixels), {given.threads} threads, {given.model}")
    print(f"network, one way   {network:7.2f} s")
    print(f"encode             {coding:7.2f} s  ({coding / network:.1%} of the network)")
    print(f"decode             {decode:7.2f} s  ({decode / network:.1%} of the network)")
    print(f"per 64 x 64 image: encode {coding / given.tiles * 1e3:.1f} ms; a table per symbol takes {baseline:.1f} s, "
          f"{baseline / (coding / given.tiles):.0f} times as long")  # fmt: skip


if __name__ == "__main__":
    main()
