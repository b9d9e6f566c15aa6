"""The reverse-channel coders' overhead on a Gaussian source: bits at equal MSE above those of ideal sampling.

    python benchmarks/rcc.py [--seeds 8] [--steps "[30, 50, 100, 200, 400]"] [--out overhead.json]

Per cent above what ideal sampling with the same steps gives in expectation, above infinitely many such steps, and above
the rate-distortion function (tests/gaussian_source.py).  Not a test: the tests hold smaller instances to bounds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from gaussian_source import Channel, Source, coded, extra_bits, ideal, pfr_law, run

from diffpress.codecs.reverse_channel import get_coder


def channels() -> dict[str, Channel]:
    """Everything the overhead table compares, by its row name."""
    published = get_coder("pfr", mode="truncated", candidates=1 << 16, index_model="zipf")
    return {
        "ideal sampling": ideal,
        "PFR exact, Zipf": pfr_law("zipf"),
        "PFR exact, tabulated": pfr_law("tabulated"),
        "PFR truncated, Zipf (published)": coded(published),
        "trellis L = 12": coded(get_coder("trellis", constraint_length=12)),
        "trellis": coded(get_coder("trellis")),
    }


def overhead(source: Source, channel: Channel, bits: float, count: int, seeds: int) -> dict[str, float]:
    """Mean overheads in % of `seeds` runs of `count` steps of `bits` bits, and the standard error of the first."""
    expected_bits, expected_mse = expected = source.expected(bits, count)
    runs = [run(source, channel, bits, count, seed) for seed in range(seeds)]
    each = [
        extra_bits(spent, mse, *expected) - extra_bits(expected_bits, twin, *expected) for spent, mse, twin in runs
    ]
    over, late = float(np.mean(each)), slice(count // 2, None)
    bounds = {"limit": source.limit(expected_mse), "rate-distortion": source.rate(expected_mse)}
    above = {name: (1 + over) * float((expected_bits / bound)[late].mean()) - 1 for name, bound in bounds.items()}
    figures = {"ideal": over, "standard error": float(np.std(each, ddof=1) / np.sqrt(seeds)), **above}
    return {name: round(100 * value, 2) for name, value in figures.items()}


def main(
    size: int = 8192,
    steps: list[float] = [30, 50, 100, 200, 400],  # noqa: B006
    total: float = 1600,
    seeds: int = 8,
    only: list[str] = [],  # noqa: B006
    out: Path | None = None,
) -> None:
    """Print a line of JSON for each step size and coder, and write all to the file `out`.

    size   coordinates of the source
    steps  KL per step in bits
    total  bits per run, nominally (at least 4 steps)
    seeds  runs per row
    only   rows whose name contains one of these words
    """
    records: list[dict[str, Any]] = []
    for bits in steps:
        for name, channel in channels().items():
            if not only or any(word in name for word in only):
                figures = overhead(Source.make(size), channel, bits, max(4, round(total / bits)), seeds)
                records.append({"step bits": bits, "row": name, **figures})
                print(json.dumps(records[-1]), flush=True)
    if out:
        out.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    auto_cli(main)
