"""UQDM: what coding costs beside the network, and beside a table per symbol, in CPU seconds.

    python benchmarks/uqdm.py [--model FOLDER] [--tiles 96] [--threads 2]

Coding = integer tables and entropy coder on the symbols of every step and on the pixels, encoder and decoder each
beginning without any table.  The baseline re-creates, from its description, how the published code prepares every
symbol of a step: a table of its own, rounded to 16 bits and corrected unit by unit until it sums to 2^16, one symbol
after the other.  The same work done on whole arrays is measured beside it: it is what remains of the gain if a loop in
Python is not held against it.  The model is the published uqdm-tiny where ../shared has it, else uqdm-photo.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from diffpress.codecs.entropy import SegmentDecoder, SegmentEncoder
from diffpress.codecs.threads import reproducible
from diffpress.codecs.uqdm.codec import grey_levels
from diffpress.codecs.uqdm.latents import TILE, UNITS, UQDMChain
from diffpress.codecs.uqdm.tables import PixelTables, forget_step_tables, step_index, step_table
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.diffusion.pixels import LEVELS
from diffpress.lightning_modules.diffusion.universal_quantization import LOGISTIC_SCALE, interval_log_mass

SHARED = Path(os.environ.get("DIFFPRESS_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
PUBLISHED = SHARED / "reference" / "uqdm-tiny"
SAMPLE = 1024  # symbols per step and form of the baseline; scaled up to the 12,288 of an image

T = TypeVar("T")


def cpu_seconds(call: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """(result of call(*arguments), CPU seconds over all threads)."""
    start = time.process_time()
    return call(*arguments), time.process_time() - start


def table_of_one_symbol(std: float, dither: float) -> NDArray[np.int64]:
    """A 16-bit table of the integers around a logistic prior of deviation `std` in quantization widths."""
    radius = int(np.ceil(4 * std)) + 1
    edges = (np.arange(-radius, radius + 2) - 0.5 - dither) / (std * LOGISTIC_SCALE)
    mass = np.diff(1 / (1 + np.exp(-edges)))
    table = np.maximum(np.rint(mass * 2**16), 1).astype(np.int64)
    while excess := int(table.sum()) - 2**16:
        # one unit moves where it costs least
        if excess > 0:
            table[np.argmin(np.where(table > 1, mass * np.log2(table / np.maximum(table - 1, 0.5)), np.inf))] -= 1
        else:
            table[np.argmax(mass * np.log2(1 + 1 / table))] += 1
    return table


def tables_of_all_symbols(std: torch.Tensor) -> torch.Tensor:
    """The same for deviations `std` [M] at once, random dithers: int32 [M, K]."""
    radius = int(np.ceil(4 * float(std.max()))) + 1
    k = torch.arange(-radius, radius + 1)[None] - torch.rand(len(std), 1)
    mass = interval_log_mass(k, torch.ones(()), std[:, None], "logistic").exp()
    table = (mass * 2**16).round().int().clamp_(min=1)
    while True:
        excess = table.sum(1) - 2**16
        rows = torch.nonzero(excess)[:, 0]
        if not len(rows):
            return table
        step = -excess[rows].sign()  # one unit per row and round
        cost = mass[rows] * torch.log2(1 + 1 / (table[rows] + torch.minimum(step, torch.zeros(()))[:, None]))
        best = torch.where(step > 0, cost.argmax(1), cost.nan_to_num(torch.inf).argmin(1))
        table[rows, best] += step.int()


def baseline_seconds(std: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """CPU seconds for a table per symbol, (one by one, as arrays), from a sample of a step's deviations `std` [M]."""
    some = rng.choice(std, SAMPLE)
    dither = rng.random(SAMPLE) - 0.5
    tables, loop = cpu_seconds(lambda: [table_of_one_symbol(s, d) for s, d in zip(some, dither, strict=True)])
    assert all(table.sum() == 2**16 for table in tables)
    _, arrays = cpu_seconds(tables_of_all_symbols, torch.from_numpy(some).float())
    return np.array([loop, arrays]) * len(std) / SAMPLE


def main() -> None:
    """Print one line per step and the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(PUBLISHED) if PUBLISHED.is_dir() else "uqdm-photo")
    parser.add_argument("--tiles", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model, device="cpu")
    rng = np.random.default_rng(0)
    network = coding = 0.0
    baseline = np.zeros(2)

    def tables(number: int) -> Any:
        return step_table(model.base_prior, number)

    with reproducible() as workers:
        chain = UQDMChain(model, given.tiles, False, workers)
        encoder = SegmentEncoder()
        sent: list[tuple[Any, Any, Any]] = []

        def encode(scale: Any, position: Any, k: Any) -> None:
            encoder.encode(k, step_index(scale, position), tables)
            encoder.end_segment()

        def encode_pixels(image: Any) -> None:
            pixel_tables = PixelTables(chain.log_snrs[-1])
            number, base = pixel_tables.locate(grey_levels(chain))
            encoder.encode(image - base, number, pixel_tables.table)
            encoder.end_segment()

        def decode(decoder: SegmentDecoder) -> list[Any]:
            return [decoder.decode(step_index(scale, position), tables) for scale, position, _ in sent]

        def decode_pixels(decoder: SegmentDecoder) -> Any:
            pixel_tables = PixelTables(chain.log_snrs[-1])
            number, base = pixel_tables.locate(grey_levels(chain))
            return decoder.decode(number, pixel_tables.table) + base.ravel()

        for step in range(model.n_steps):
            parameters, seconds = cpu_seconds(chain.step_parameters, True)
            network += seconds
            position = chain.dither()
            assert parameters.unrounded is not None
            # a plausible message: drawn from the coding prior itself
            draw = parameters.unrounded[1] * rng.logistic(0, LOGISTIC_SCALE, position.shape)
            k = np.rint(draw + chain.dither_value(position) / UNITS).astype(np.int32)
            _, seconds = cpu_seconds(encode, parameters.std_index, position, k)
            coding += seconds
            sent.append((parameters.std_index, position, k))
            used = len(np.unique(step_index(parameters.std_index, position)))
            baseline += baseline_seconds(parameters.unrounded[1][0].ravel(), rng)
            print(f"step {step + 1}: {used} tables, encode {seconds:.2f} s, network so far {network:.1f} s", flush=True)
            chain.advance(parameters.mean + UNITS * k - chain.dither_value(position))
        grey = grey_levels(chain)  # pixels as the model expects them: z_0 with its noise, exp(-log_snr / 2) of x
        drawn = grey + LEVELS / 2 * math.exp(-chain.log_snrs[-1] / 2) * rng.standard_normal(grey.shape)
        pixels = np.rint(drawn).clip(0, LEVELS - 1).astype(np.int32)
        _, encoding_pixels = cpu_seconds(encode_pixels, pixels)
        forget_step_tables()  # a decoder is another process
        decoder = SegmentDecoder(encoder.segments())
        values, decoding = cpu_seconds(decode, decoder)
        assert all(np.array_equal(value, k.ravel()) for value, (_, _, k) in zip(values, sent, strict=True))
        value, decoding_pixels = cpu_seconds(decode_pixels, decoder)
        assert np.array_equal(value, pixels.ravel())
    size = given.tiles * TILE * TILE / 1e6
    image = coding / given.tiles
    print(f"{given.tiles} tiles ({size:.2f} megapixels), {given.threads} threads, {given.model}; CPU seconds")
    print(f"network, one way   {network:7.2f}")
    for way, steps, last in (("encode", coding, encoding_pixels), ("decode", decoding, decoding_pixels)):
        total = steps + last
        parts = f"steps {steps:.2f} + pixels {last:.2f}; {total / network:.2%} of the network"
        print(f"{way}             {total:7.2f}  ({parts})")
    print(f"per 64 x 64 image  {image:7.4f}  to encode the steps; a table per symbol:")
    for form, seconds in zip(("one by one", "as arrays"), baseline, strict=True):
        print(f"  {form:16s} {seconds:7.2f}  ({seconds / image:.0f} times as long)")


if __name__ == "__main__":
    main()
