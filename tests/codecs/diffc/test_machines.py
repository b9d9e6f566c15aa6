"""The shipped prior's files decode to the same pixels whatever the processor can do: lossy ones, lossless ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffpress.codecs import container
from diffpress.codecs.diffc.codec import DiffC
from diffpress.lightning_modules import load_model
from helpers import ROOT, synthetic_photo

# what oneDNN and torch may use, and threads
MACHINES = [("DEFAULT", None, "2"), ("AVX2", "avx2", "1"), ("SSE41", "default", "2")]
DECODE = """
import hashlib, sys
from pathlib import Path
from diffpress.codecs import container
from diffpress.codecs.diffc.codec import DiffC
from diffpress.lightning_modules import load_model
codec = DiffC(load_model("diffc-pixel-2", device="cpu"))
for path in sys.argv[1:]:
    data = Path(path).read_bytes()
    image = codec.decode(container.read(data, codec))
    print(hashlib.sha256(image.numpy().tobytes()).hexdigest())
"""


def digests(machine: tuple[str, str | None, str], files: list[Path]) -> list[str]:
    """SHA-256 of the pixels that a process restricted to `machine` decodes."""
    onednn, aten, threads = machine
    names = {"ONEDNN_MAX_CPU_ISA": onednn, "OMP_NUM_THREADS": threads} | ({"ATEN_CPU_CAPABILITY": aten} if aten else {})
    done = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, files)], env=os.environ | names, cwd=ROOT, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine[0])
def test_every_machine_decodes_the_same(tmp_path: Path, machine: tuple[str, str | None, str]) -> None:
    codec, image = DiffC(load_model("diffc-pixel-2", device="cpu")), synthetic_photo(48, 72)
    files, expected = [], []
    for name, options in (("lossy", {"bpp": 2.0}), ("lossless", {"lossless": True, "segments": 3})):
        stream = codec.encode(image, **options)  # type: ignore[arg-type]
        files.append(tmp_path / name)
        files[-1].write_bytes(container.write(stream, codec))
        expected.append(hashlib.sha256(codec.decode(stream).numpy().tobytes()).hexdigest())
    assert digests(machine, files) == expected
