"""Derive the shipped schedules configs/diffc/*.json from the published timesteps and KL figures.

    python configs/diffc/tools/make_schedules.py ../shared/reference/diffc_schedules.json

The published KL of a step is |mu|^2 / (2 ln 2) bits with |mu|^2 = (SNR_s - SNR_t) d mse_t, which gives mse_t, the
error of x0_hat at the level where the step starts (codecs/diffc/schedule.py).  The shorter presets visit a part of the
published levels, chosen so that no step costs more than a common factor of what the full list spends on the same range;
the smallest factor that needs no more than the wanted number of steps is found by bisection.  No step may carry more
than 4 / N of all bits, so that a prefix of any preset stays useful.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from diffpress.codecs.diffc.subbands import step_bits
from diffpress.lightning_modules.priors.flow import flow_log_snr

PRESETS = (12, 20, 54)
Snr = Callable[[int], float]


def ddpm_snr(level: int) -> float:
    """SNR of level 1..1000 of Stable Diffusion's "scaled_linear" schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_squared = float(torch.cumprod(1 - betas, 0)[level - 1])
    return alpha_squared / (1 - alpha_squared)


def flow_snr(level: int) -> float:
    """SNR of level 1..1000 of a flow with sigma = level / 1000."""
    return math.exp(flow_log_snr(level / 1000))


# name -> (published name, dimensions of the latents the figures were averaged over, SNR, what the figures are)
SOURCES: dict[str, tuple[str, int, Snr, str]] = {
    "sd15": ("SD-1.5", 4 * 64 * 96, ddpm_snr, "Kodak, 768 x 512"),
    "sd21": ("SD-2.1", 4 * 64 * 96, ddpm_snr, "Kodak, 768 x 512"),
    "sdxl": ("SDXL", 4 * 128 * 128, ddpm_snr, "1024 x 1024 pixels, as the size of the figures tells"),
    "flux": ("Flux", 16 * 128 * 128, flow_snr, "sample of DIV2K, taken as 1024 x 1024 pixels"),
    "sd3": ("Flux", 16 * 128 * 128, flow_snr, "none of SD 3: the figures of Flux, which has latents of the same shape"),
}


def errors(levels: list[int], bits: list[float], dimensions: int, snr: Snr) -> list[float]:
    """mse when leaving pure noise and each level but the last.  The published chain starts at level 1000."""
    starts = [1000, *levels[:-1]]
    return [
        2 * math.log(2) * kl / (dimensions * (snr(s) - snr(t)))
        for kl, s, t in zip(bits, levels, starts, strict=True)
    ]


def choose(levels: list[int], mse: list[float], snr: Snr, count: int) -> list[int]:
    """Indices into `levels` of a preset of at most `count` steps."""
    snrs = [0.0, *map(snr, levels)]

    def cost(i: int, j: int) -> float:  # bits per dimension from level i to j; 0 is pure noise
        return step_bits(1, (snrs[j] - snrs[i]) * mse[i])

    spent = [0.0, *itertools.accumulate(cost(i, i + 1) for i in range(len(levels)))]

    def path(factor: float) -> list[int]:
        at, visited = 0, []
        while at < len(levels):
            reach = at + 1
            for j in range(at + 2, len(levels) + 1):
                if cost(at, j) > min(factor * (spent[j] - spent[at]), 4 / count * spent[-1]):
                    break
                reach = j
            at = reach
            visited.append(at - 1)
        return visited

    low, high = 1.0, 16.0
    for _ in range(60):
        factor = (low + high) / 2
        low, high = (factor, high) if len(path(factor)) > count else (low, factor)
    return path(high)


def schedule(published: dict[str, list[float]], dimensions: int, snr: Snr, data: str) -> dict[str, object]:
    """The table that goes into configs/diffc."""
    levels = [int(level) for level in published["encoding_timesteps"]]
    mse = errors(levels, published["dkl_per_step_bits"], dimensions, snr)
    presets = []
    for count in (*PRESETS, len(levels)):
        chosen = choose(levels, mse, snr, count) if count < len(levels) else list(range(len(levels)))
        starts = [0, *(index + 1 for index in chosen[:-1])]
        presets.append(
            {
                "name": str(count) if count < len(levels) else "163",
                "levels": [levels[index] for index in chosen],
                "mse": [float(f"{mse[index]:.4g}") for index in starts],
            }
        )
    return {"source": "timesteps and KL per step published with DiffC", "data": data, "presets": presets}


def main() -> None:
    reference = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(__file__).resolve().parent.parent
    for name, (published, dimensions, snr, data) in SOURCES.items():
        table = schedule(reference[published], dimensions, snr, data)
        (folder / f"{name}.json").write_text(json.dumps(table) + "\n")
        print(name, [(p["name"], len(p["levels"])) for p in table["presets"]])  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
