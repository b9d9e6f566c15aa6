"""The shipped models' files decode alike whatever the processor can do: every codec, lossy and lossless."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.codecs import container
from diffpress.codecs.bitsback.codec import BitsBack
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.uqdm.codec import UQDMCodec
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.diffusion.gaussian import posterior
from helpers import ROOT, synthetic_photo

# what oneDNN and torch may use, and threads
MACHINES = [("DEFAULT", None, "2"), ("AVX2", "avx2", "1"), ("SSE41", "default", "2")]
DECODE = """
import hashlib, sys
from pathlib import Path
from diffpress.codecs import container, get_codec
from diffpress.lightning_modules import load_model
for path in map(Path, sys.argv[1:]):
    codec = get_codec(path.stem, model=load_model("uqdm-photo" if path.stem == "uqdm" else "diffc-pixel-2", "cpu"))
    image = codec.decode(container.read(path.read_bytes(), codec))
    print(hashlib.sha256(image.numpy().tobytes()).hexdigest())
"""


def digests(machine: tuple[str, str | None, str], files: list[Path]) -> list[str]:
    """SHA-256 of the pixels that a process restricted to `machine` decodes."""
    onednn, aten, threads = machine
    # passive: threads that wait in a loop take a busy machine's cores from those they wait for
    names = {"ONEDNN_MAX_CPU_ISA": onednn, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    names |= {"ATEN_CPU_CAPABILITY": aten} if aten else {}
    done = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, files)], env=os.environ | names, cwd=ROOT, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine[0])
def test_every_machine_decodes_the_same(tmp_path: Path, machine: tuple[str, str | None, str]) -> None:
    prior, image = load_model("diffc-pixel-2", device="cpu"), synthetic_photo(48, 72)
    diffc, bitsback = DiffC(prior), BitsBack(prior, preset="fast")
    uqdm = UQDMCodec(load_model("uqdm-photo", device="cpu"))
    files, expected = [], []
    for name, codec, stream in (
        ("diffc.lossy", diffc, diffc.encode(image, bpp=2.0)),
        ("diffc.lossless", diffc, diffc.encode(image, lossless=True, segments=3)),
        ("bitsback.all", bitsback, bitsback.encode(image)),
        ("uqdm.lossy", uqdm, uqdm.encode(image, segments=2)),
        ("uqdm.pixels", uqdm, uqdm.encode(image)),
        ("uqdm.likelihood", uqdm, UQDMCodec(uqdm.model, ending="likelihood").encode(image)),
    ):
        files.append(tmp_path / name)
        files[-1].write_bytes(container.write(stream, codec))
        expected.append(hashlib.sha256(codec.decode(stream).numpy().tobytes()).hexdigest())
    assert digests(machine, files) == expected


def test_no_factor_of_the_shipped_steps_lies_between_two_floats() -> None:
    codec = DiffC(load_model("diffc-pixel-2", device="cpu"))
    prior, one, zero = codec.prior, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    factors: list[float] = []
    for schedule in codec.schedules:
        log_snrs = [-math.inf, *map(prior.log_snr, schedule.timesteps)]
        for t, s in pairwise(log_snrs):
            keep, std = posterior(one, zero, s, t)
            factors += [float(keep), float(std), float(posterior(zero, one, s, t)[0]), math.exp(s) - math.exp(t)]
            for octave in range(8):  # lower resolutions see less noise
                factors += prior.integers.factors(s + octave * math.log(4.0))  # type: ignore[attr-defined]
    values = np.array(factors)
    assert len(values) > 1000
    assert np.array_equal((values * (1 - 1e-14)).astype(np.float32), (values * (1 + 1e-14)).astype(np.float32))
