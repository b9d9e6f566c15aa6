"""Seconds of DiffC over a latent prior, network and coder apart, at 12, 20, 54 and 163 steps.

    python benchmarks/diffc_latent.py                                     # small architecture, CPU, 128 x 128
    python benchmarks/diffc_latent.py --full --device cuda --height 512 --width 768

The networks have random weights.  So that the coder carries real budgets, the network runs for its time, but its
estimate is replaced by one with the error that the published figures give at the level.  Prints a Markdown table and,
on a GPU, peak memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from pipelines import save_random_pipeline

from diffpress.codecs import container
from diffpress.codecs.diffc import codec as diffc
from diffpress.codecs.diffc import header as diffc_header
from diffpress.lightning_modules import load_model

PUBLISHED = "Published for 12 to 163 steps on an A40, 768 x 512: encode 0.6 to 9.4 s, decode 2.9 to 8.5 s."


class Clock:
    """Seconds spent in the functions it wraps, by name."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.spent = device, {"network": 0.0, "coder": 0.0, "autoencoder": 0.0}

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **options: Any) -> Any:
            start = self.now()
            result = function(*given, **options)
            self.spent[name] += self.now() - start
            return result

        return timed


class TimedCoder:
    """A reverse-channel coder under a clock: what is not listed here is the coder's own."""

    def __init__(self, coder: Any, clock: Clock) -> None:
        self._coder, self._clock = coder, clock
        for name in ("encode", "decode", "encode_many", "decode_many"):
            setattr(self, name, clock.watch("coder", getattr(coder, name)))

    def for_step(self, bits: float) -> TimedCoder:
        return TimedCoder(self._coder.for_step(bits), self._clock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coder, name)


def with_real_errors(prior: Any, image: torch.Tensor, schedule: Any) -> None:
    """Make `prior.denoise` return x0 plus noise of the calibrated error, after running the network."""
    x0, denoise = prior.encode(image[None]), prior.denoise
    levels = [prior.num_levels, *schedule.timesteps[:-1]]

    def estimate(z: torch.Tensor, step: int, conditions: Any = None) -> torch.Tensor:
        denoise(z, step, conditions)
        spread = float(np.interp(-step, [-level for level in levels], np.sqrt(schedule.mse)))
        rng = torch.Generator(z.device).manual_seed(step)
        return x0 + spread * torch.randn(x0.shape, generator=rng, device=z.device)

    prior.denoise = estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--full", action="store_true", help="the architecture of SD 1.5 instead of a small one")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", nargs="+", default=["12", "20", "54", "163"], help="presets")
    parser.add_argument("--flow-steps", type=int, default=50)
    parser.add_argument("--coder", default="trellis")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write, after every preset")
    given = parser.parse_args()
    clock = Clock(torch.device(given.device))
    get_coder = diffc_header.get_coder
    diffc_header.get_coder = lambda name, **options: TimedCoder(get_coder(name, **options), clock)  # type: ignore
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, given.height // 16, given.width // 16, generator=rng)
    image = torch.nn.functional.interpolate(image, size=(given.height, given.width), mode="bicubic")
    image = image[0].clamp(0, 1).mul(255).byte()
    with tempfile.TemporaryDirectory() as folder:
        model = save_random_pipeline("sd15", Path(folder) / "model", "full" if given.full else "tiny")
        prior = load_model(model, device=given.device, dtype=given.dtype, compile=given.compile)
    longest = diffc.DiffC(prior, schedule="sd15").schedules[-1]
    with_real_errors(prior, image, longest)
    prior.denoise = clock.watch("network", prior.denoise)
    prior.encode, prior.decode = (clock.watch("autoencoder", part) for part in (prior.encode, prior.decode))
    size = "full" if given.full else "small"
    print(f"{size} SD 1.5 architecture, {prior.dtype}, {given.width} x {given.height}, {given.coder}, "
          f"{given.flow_steps} flow steps, {given.device}: {_device_name(given.device)}\n")
    print("| steps | bpp | encode s | network | coder | decode s | network | coder | coder share |")
    print("|---|---|---|---|---|---|---|---|---|")
    records = []
    for preset in given.steps:
        codec = diffc.DiffC(prior, given.coder, preset, schedule="sd15", flow_steps=given.flow_steps)
        codec.decode(codec.encode(image, segments=1), reconstruction="mse")  # tables and kernels are built once
        rows = []
        for run in ("encode", "decode"):
            clock.spent = dict.fromkeys(clock.spent, 0.0)
            start = clock.now()
            if run == "encode":
                stream = codec.encode(image)
            else:
                codec.decode(stream)
            rows.append((clock.now() - start, clock.spent["network"], clock.spent["coder"]))
        bpp = 8 * len(container.write(stream, codec)) / image[0].numel()
        share = sum(row[2] for row in rows) / sum(row[0] for row in rows)
        cells = " | ".join(f"{seconds:.2f}" for row in rows for seconds in row)
        print(f"| {len(stream.segments)} | {bpp:.3f} | {cells} | {share:.1%} |")
        records.append({"steps": len(stream.segments), "bpp": bpp, "coder share": share})
        for run, row in zip(("encode", "decode"), rows, strict=True):
            records[-1] |= {f"{run} s": row[0], f"{run} network s": row[1], f"{run} coder s": row[2]}
        if clock.device.type == "cuda":
            records[-1]["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
        if given.output:
            given.output.write_text(json.dumps(records) + "\n")
    print(f"\n{PUBLISHED}")
    if clock.device.type == "cuda":
        print(f"\npeak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
