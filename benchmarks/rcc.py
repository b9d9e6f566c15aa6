"""The reverse-channel coders' two claims, measured: overhead on a Gaussian source, and speed.

    python benchmarks/rcc.py overhead [--seeds 8] [--steps 30 50 100 200 400] [-o overhead.json]
    python benchmarks/rcc.py speed [--size 24576] [--clock cpu] [-o speed.json]

Overhead: bits at equal MSE above what ideal sampling with the same steps gives in expectation, above infinitely many
such steps, and above the rate-distortion function (tests/gaussian_source.py).  Speed: rcc_speed.py.
Not a test: the tests hold smaller instances to bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT)]

from gaussian_source import Channel, Source, coded, extra_bits, ideal, pfr_law, run  # noqa: E402

from diffpress.codecs.reverse_channel import get_coder  # noqa: E402


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


def overhead(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per step size and row."""
    source = Source.make(arguments.size)
    records = []
    for step in arguments.steps:
        count = max(4, round(arguments.total / step))
        reference = source.expected(step, count)
        for name, channel in channels().items():
            if arguments.only and not any(word in name for word in arguments.only):
                continue
            start = time.perf_counter()
            runs = [run(source, channel, step, count, seed) for seed in range(arguments.seeds)]
            seconds = time.perf_counter() - start
            bits, mse, _ = np.mean(runs, 0)
            each = [extra_bits(b, m, *reference) - extra_bits(reference[0], t, *reference) for b, m, t in runs]
            over = float(np.mean(each))
            late = count // 2
            records.append(
                {
                    "step_bits": step,
                    "steps": count,
                    "row": name,
                    "over_ideal": over,
                    "over_ideal_standard_error": float(np.std(each, ddof=1) / np.sqrt(len(each))),
                    "over_limit": float((1 + over) * (reference[0] / source.limit(reference[1]))[late:].mean() - 1),
                    "over_rd": float((1 + over) * (reference[0] / source.rate(reference[1]))[late:].mean() - 1),
                    "bits": float(bits[-1]),
                    "mse": float(mse[-1]),
                    "seconds_per_step": seconds / count / arguments.seeds,
                }
            )
            print(json.dumps(records[-1]), file=sys.stderr, flush=True)
    return records


def print_overhead(records: list[dict[str, Any]]) -> None:
    """Three tables: over ideal sampling with the same steps, over infinitely many steps of it, and over R(D)."""
    for quantity, title in [
        ("over_ideal", "bits at equal MSE above ideal sampling with the same steps, %"),
        ("over_limit", "bits at equal MSE above ideal sampling with infinitely many steps, %"),
        ("over_rd", "bits above the rate-distortion function, %"),
    ]:
        steps = sorted({record["step_bits"] for record in records})
        table = Table("coder", *[f"{step:g}-bit steps" for step in steps], title=title)
        for row in dict.fromkeys(record["row"] for record in records):
            error = 100 * max(r["over_ideal_standard_error"] for r in records if r["row"] == row)
            cells = {r["step_bits"]: f"{100 * r[quantity]:.1f}" for r in records if r["row"] == row}
            row += f" (+- {error:.1f})" if quantity == "over_ideal" else ""
            table.add_row(row, *[cells.get(step, "") for step in steps])
        Console().print(table)


def print_speed(records: list[dict[str, Any]]) -> None:
    """One line per measurement."""
    table = Table("what", "device", "ms", "times the listing", title="one step, d and K as in the JSON")
    for r in records:
        table.add_row(r["what"], r["device"], f"{r['ms']:.1f}", f"{r['ratio']:.0f}" if r["ratio"] else "")
    Console().print(table)


def main() -> None:
    """Parse the command line, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("overhead", help="bits at equal MSE on a Gaussian source")
    first.add_argument("--size", type=int, default=8192, help="coordinates of the source")
    first.add_argument("--steps", type=float, nargs="+", default=[30, 50, 100, 200, 400], help="KL per step in bits")
    first.add_argument("--total", type=float, default=1600, help="bits per run, nominally (at least 4 steps)")
    first.add_argument("--seeds", type=int, default=8, help="runs per row")
    first.add_argument("--only", nargs="*", help="rows whose name contains one of these words")
    second = commands.add_parser("speed", help="time of one step against the plain PyTorch listing")
    second.add_argument("--size", type=int, default=24576, help="coordinates of the step")
    second.add_argument("--repeats", type=int, default=5, help="runs per measurement; the median counts")
    second.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time (busy machine)")
    for command in (first, second):
        command.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.command == "overhead":
        records = overhead(arguments)
        print_overhead(records)
    else:
        from rcc_speed import speed

        records = speed(arguments.size, arguments.repeats, arguments.clock)
        print_speed(records)
    if arguments.output:
        settings = {k: v for k, v in vars(arguments).items() if k != "output"}
        arguments.output.write_text(json.dumps({"settings": settings, "results": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
