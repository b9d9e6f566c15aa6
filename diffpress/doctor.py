"""``python -m diffpress.doctor``: what this installation is and how fast, to paste into a bug report.

Reads versions, processor, devices and shipped models, and codes a small photo on every device.  Sends nothing.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import __version__, resource
from .commands.errors import run, sentence, user_errors

MORE_PACKAGES = ("numba", "safetensors", "transformers", "cupy-cuda12x", "cupy-cuda13x", "imageio-ffmpeg")
FEATURES = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd",
            "asimddp", "i8mm", "bf16", "sve")  # fmt: skip
SIDE, BPP = 128, 0.5  # of the small photo


def report() -> Iterator[str]:
    """The lines of the report; what cannot be found out is said in its line."""
    from .codecs import container
    from .evaluation.provenance import PACKAGES, machine, versions

    yield f"diffpress {__version__}{_commit()}, file format {container.VERSION}, on {platform.platform()}"
    yield "machine: " + ", ".join(f"{name} {value}" for name, value in machine().items())
    yield _arithmetic()
    yield "versions: " + ", ".join(f"{name} {found}" for name, found in versions((*PACKAGES, *MORE_PACKAGES)).items())
    yield from _devices()
    yield from _models()
    yield from _speed()


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return f", commit {asked.stdout.strip()}" if asked.returncode == 0 else ""


def _arithmetic() -> str:
    import torch

    facts = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    return (f"features {' '.join(one for one in FEATURES if one in facts) or 'unknown'}; PyTorch computes with "
            f"{torch.backends.cpu.get_cpu_capability()} in {torch.get_num_threads()} threads")  # fmt: skip


def _devices() -> Iterator[str]:
    import torch

    from .kernels import KernelError, get_backend

    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        yield f"GPU {number}: {facts.name}, {facts.total_memory / 2**30:.1f} GiB, CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        yield "GPU: none that PyTorch can use"
        return
    try:
        yield f"kernels on the GPU: {type(get_backend('cuda')).__name__}"
    except KernelError as error:
        yield f"kernels on the GPU: PyTorch's operations, because {sentence(error)}"


def _models() -> Iterator[str]:
    from .lightning_modules.identity import fingerprint

    for folder in sorted(one for one in resource("checkpoints").iterdir() if one.is_dir()):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        try:
            yield f"model {folder.name}: {fingerprint(folder).hex()}, {size / 1e6:.1f} MB"
        except user_errors() as error:
            yield f"model {folder.name}: {sentence(error)}"


def _speed() -> Iterator[str]:
    """A photo there and back on every device, after a first time that compiles."""
    import torch

    from .api import compress, decompress
    from .data import read_image

    photo = read_image(resource("data/demo.png"))[:, :SIDE, :SIDE].contiguous()
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        try:
            decompress(compress(photo, bpp=BPP, preset="fast", device=device), device=device)
            start = time.perf_counter()
            data = compress(photo, bpp=BPP, preset="fast", device=device)
            middle = time.perf_counter()
            decompress(data, device=device)
            end = time.perf_counter()
        except user_errors() as error:
            yield f"diffc, fast, on {device}: {sentence(error)}"
        else:
            yield (f"diffc, fast, {SIDE} x {SIDE} at {BPP} bpp on {device}: {middle - start:.2f} s there, "
                   f"{end - middle:.2f} s back, {len(data)} bytes")  # fmt: skip


def main() -> int:
    """Print the report; returns the exit code."""

    def action() -> int:
        for line in report():
            print(line, flush=True)
        return 0

    return run(action)


if __name__ == "__main__":
    sys.exit(main())
