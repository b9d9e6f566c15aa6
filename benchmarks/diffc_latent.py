"""Seconds of DiffC over a latent prior, network and coder apart, at 12, 20, 54 and 163 steps.

    python benchmarks/diffc_latent.py                                     # small architecture, CPU, 128 x 128
    python benchmarks/diffc_latent.py --full true --device cuda --height 512 --width 768

The networks have random weights.  So that the coder carries real budgets, the network runs for its time, but its
estimate is replaced by one with the error that the published figures give at the level.  Prints a line of JSON per
preset.  Published for 12 to 163 steps on an A40, 768 x 512: encode 0.6 to 9.4 s, decode 2.9 to 8.5 s.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from pipelines import save_random_pipeline

from diffpress.codecs import container
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.reverse_channel import ReverseChannelCoder
from diffpress.lightning_modules import load_model


class Clock:
    """Seconds spent in the functions it wraps, by name."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.spent = device, {"network": 0.0, "coder": 0.0}

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

    def measure(self, run: str, function: Callable[..., Any], *given: Any) -> tuple[Any, dict[str, float]]:
        """What the function returns, and its seconds: all, the network's, the coder's."""
        self.spent = dict.fromkeys(self.spent, 0.0)
        start = self.now()
        result = function(*given)
        total = {f"{run} s": self.now() - start}
        return result, total | {f"{run} {name} s": seconds for name, seconds in self.spent.items()}


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


def main(
    device: str = "cpu",
    dtype: str | None = None,
    full: bool = False,
    compile: bool = False,
    height: int = 128,
    width: int = 128,
    steps: list[int] = [12, 20, 54, 163],  # noqa: B006
    flow_steps: int = 50,
    coder: str = "trellis",
    output: Path | None = None,
) -> None:
    """Measure the presets `steps` on a random image, and write all to the file `output`, after every preset.

    full  the architecture of SD 1.5 instead of a small one
    """
    clock = Clock(torch.device(device))
    for name in ("encode_many", "decode_many"):
        setattr(ReverseChannelCoder, name, clock.watch("coder", getattr(ReverseChannelCoder, name)))
    coarse = torch.rand(1, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    image = smooth[0].clamp(0, 1).mul(255).byte()
    with tempfile.TemporaryDirectory() as folder:
        model = save_random_pipeline("sd15", Path(folder) / "model", "full" if full else "tiny")
        prior = load_model(model, device=device, dtype=dtype, compile=compile)
    with_real_errors(prior, image, DiffC(prior, schedule="sd15").schedules[-1])
    prior.denoise = clock.watch("network", prior.denoise)
    records = []
    for preset in steps:
        codec = DiffC(prior, coder, str(preset), schedule="sd15", flow_steps=flow_steps)
        codec.decode(codec.encode(image, segments=1), reconstruction="mse")  # tables and kernels are built once
        stream, encoding = clock.measure("encode", codec.encode, image)
        _, decoding = clock.measure("decode", codec.decode, stream)
        bpp = 8 * len(container.write(stream, codec)) / (height * width)
        total = encoding["encode s"] + decoding["decode s"]
        share = (encoding["encode coder s"] + decoding["decode coder s"]) / total
        records.append({"steps": len(stream.segments), "bpp": bpp, **encoding, **decoding, "coder share": share})
        if clock.device.type == "cuda":
            records[-1]["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
        print(json.dumps(records[-1]), flush=True)
        if output:
            output.write_text(json.dumps(records) + "\n")


if __name__ == "__main__":
    auto_cli(main)
