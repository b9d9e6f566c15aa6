"""Files written under one processor's instructions and read under another's: every codec, lossy and lossless.

    python benchmarks/machines.py ../shared/data/photos/val

Pieces of `side` pixels from the middle of `count` photos, evenly spread over the folder.  A machine is a process that
is told which instructions it may use, by how many threads, and whether the integer prior runs by its fastest engine or
by the reference in float64.  Every machine writes every file and reads what all machines wrote, equal files once.
tests/codecs/test_machines.py is a small form of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from diffpress.codecs import container, get_codec
from diffpress.data import list_images, read_image
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.networks.integer_denoiser import FloatEngine

# (oneDNN's instructions, torch's, threads, whether the reference engine runs)
MACHINES = [
    ("DEFAULT", None, 1, False), ("DEFAULT", None, 2, False), ("AVX2", "avx2", 1, False), ("AVX2", "avx2", 2, False),
    ("SSE41", "default", 1, False), ("SSE41", "default", 2, False), ("DEFAULT", None, 1, True),
]  # fmt: skip
MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "diffc": ("diffc", {"bpp": 1.5}),
    "diffc-lossless": ("diffc", {"lossless": True}),
    "diffc-to-lossless": ("diffc", {"lossless": True, "bpp": 0.5}),
    "bitsback": ("bitsback", {}),
    "uqdm": ("uqdm", {"segments": 3}),
    "uqdm-lossless": ("uqdm", {}),
}


def codecs(reference: bool) -> dict[str, Any]:
    """The codecs by name, of the shipped models."""
    prior = load_model("diffc-pixel-2", "cpu")
    if reference:
        prior.integers.engine = FloatEngine(torch.float64)
    return {
        "diffc": get_codec("diffc", model=prior, preset="fast"),
        "bitsback": get_codec("bitsback", model=prior, preset="fast"),
        "uqdm": get_codec("uqdm", model=load_model("uqdm-photo", "cpu")),
    }


def write(photos: list[Path], side: int, out: Path, reference: bool) -> None:
    """Write every photo's files into the folder `out`."""
    known = codecs(reference)
    for photo, (mode, (name, request)) in product(photos, MODES.items()):
        image = read_image(photo)
        top, left = (length // 2 - side // 2 for length in image.shape[1:])
        piece = image[:, top : top + side, left : left + side].contiguous()
        data = container.write(known[name].encode(piece, **request), known[name])
        (out / f"{photo.stem}.{mode}").write_bytes(data)


def read(files: list[Path], reference: bool) -> dict[str, str]:
    """By file: the digest of its pixels, or what its codec says against it."""
    known, digests = codecs(reference), {}
    for file in files:
        codec = known[MODES[file.suffix[1:]][0]]
        try:
            pixels = codec.decode(container.read(file.read_bytes(), codec)).numpy().tobytes()
            digests[str(file)] = hashlib.sha256(pixels).hexdigest()
        except ValueError as error:
            digests[str(file)] = str(error)
    return digests


def main(data: Path, count: int = 20, side: int = 64, task: str = "") -> None:
    """Print how many of how many decodings differ; `task` is what this program tells its own processes."""
    if task:
        job = json.loads(task)
        if "photos" in job:
            write([Path(photo) for photo in job["photos"]], side, Path(job["out"]), job["reference"])
        print(json.dumps(read(sorted(map(Path, job.get("files", []))), job["reference"])))
        return
    photos = list_images(data)
    photos = photos[:: max(1, len(photos) // count)][:count]

    def run(machine: tuple[str, str | None, int, bool], **job: Any) -> dict[str, str]:
        onednn, aten, threads, reference = machine
        names = {"ONEDNN_MAX_CPU_ISA": onednn, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        names |= {"ATEN_CPU_CAPABILITY": aten} if aten else {}
        words = [sys.executable, __file__, str(data), "--side", str(side), "--task"]
        words.append(json.dumps(job | {"reference": reference}))
        done = subprocess.run(words, env=os.environ | names, text=True, capture_output=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(number) for number in range(len(MACHINES))]
        for machine, out in zip(MACHINES, outs, strict=True):
            out.mkdir()
            run(machine, photos=[str(photo) for photo in photos], out=str(out))
            print(f"written under {machine}", flush=True)
        written = {file.read_bytes(): file for out in outs for file in sorted(out.iterdir())}
        files = sorted(written.values())
        different = {mode: sum(file.suffix == f".{mode}" for file in files) for mode in MODES}
        print(f"different files of {len(photos)} photos by {len(MACHINES)} machines: {different}", flush=True)
        expected = run(MACHINES[0], files=[str(file) for file in files])
        for machine in MACHINES[1:]:
            found = run(machine, files=[str(file) for file in files])
            wrong = [file for file in expected if found[file] != expected[file]]
            print(f"read under {machine}: {len(wrong)} of {len(files)} differ {wrong[:3]}", flush=True)


if __name__ == "__main__":
    auto_cli(main)
