"""The first minutes on a GPU: does everything work there, and how fast; the table of docs/results/gpu.md.

    python benchmarks/gpu.py                          # all parts, at most nine minutes
    python benchmarks/gpu.py versions coders -o DIR   # some parts; gpu.json and gpu.md go to DIR

Every part is a process of its own with a time limit, so that whatever fails does not stop the others.  Nothing is
downloaded.  Needs a CUDA build of PyTorch, `pip install 'diffpress[cuda13]'` (or cuda12) for our kernels, pytest for
the tests, diffusers and transformers for "diffc", and the CUDA toolkit for compute-sanitizer.  The exit code is 0 if
every part that could run succeeded, 1 if one failed, 3 if there is no device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "benchmarks"))
sys.path.insert(2, str(Path(__file__).resolve().parents[1] / "tests"))

from diffpress.evaluation.watch import Watch

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
KODAK = (512, 768)  # height and width
PHOTO_MODELS: list[tuple[str | Path, dict[str, str]]] = [
    ("diffc-pixel-2", {}), ("diffc-pixel", {"dtype": "float32"}), ("diffc-pixel", {"dtype": "bfloat16"})
]  # fmt: skip
COORDINATES = (24576, 16384)  # of a step: latents of SD 1.5 for 768 x 512 and 512 x 512 pixels
AIMS = {100: 2, 1000: 10}  # milliseconds of a step of so many bits on an H100
ESTIMATES = 10  # of the integer denoiser
BATCH, CROP, STEPS = 64, 128, 20  # of the training
TAIL = 4000  # characters of a part's output that are kept
INTRODUCTION = """# On a GPU

`make gpu` writes this page and gpu.json: tests, files exchanged with a CPU, speed and memory. What is expected, and
why, is the [cost model](../method/gpu.md).
"""
EMPTY = "\nNothing has run on a GPU yet, so there is no table.\n"


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    about    what it shows
    limit    seconds after which it is stopped
    command  its process; "RESULTS" stands for a JSON file that it may write; (): the function of its name below
    needs    a program without which it is skipped
    """

    about: str
    limit: int
    command: tuple[str, ...] = ()
    needs: str | None = None


@dataclass
class Outcome:
    """What became of a part: "passed", "failed", "stopped" at its limit, or "skipped"."""

    part: str
    status: str
    seconds: float = 0.0
    results: Any = field(default_factory=list)
    output: str = ""


PYTEST = (sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider")
KERNELS = "tests/kernels/test_cuda.py"
PARTS = {
    "versions": Part("what is installed, and whether the kernels compile", 20),
    "doctor": Part("whether a file is written and read", 20, (sys.executable, "-m", "diffpress.doctor")),
    "tests": Part("tests that need a GPU", 85, PYTEST),
    "memcheck": Part("kernels under compute-sanitizer", 55, ("compute-sanitizer", "--tool", "memcheck",
                     "--error-exitcode", "1", *PYTEST, KERNELS), "compute-sanitizer"),
    "racecheck": Part("races of shared memory", 50, ("compute-sanitizer", "--tool", "racecheck",
                      "--error-exitcode", "1", *PYTEST, KERNELS), "compute-sanitizer"),
    "files": Part("files written on the CPU decoded on the GPU and the reverse", 60),
    "coders": Part("a reverse-channel step beside the paper's listing", 45),
    "diffc": Part("DiffC over the full architecture of SD 1.5 with random weights", 105, (
        sys.executable, "-u", "benchmarks/diffc_latent.py", "--full", "true", "--device", "cuda", "--height", "512",
        "--width", "768", "--output", "RESULTS")),
    "photo": Part("the shipped priors on a 768 x 512 photo", 40),
    "integers": Part("an estimate of the integer denoiser for such a photo, and whether it is the CPU's", 30),
    "training": Part("training of the denoiser", 30),
}  # fmt: skip


# ---- parts that run here, each in a process of its own; what a part has found before it fails is kept ---------------


def versions(device: str) -> Iterator[Row]:
    """Versions of everything that matters, and what the device can do."""
    from diffpress.kernels import KernelError, get_backend

    there = torch.cuda.get_device_properties(device)
    try:
        get_backend("cuda")
        import cupy

        kernels = f"CuPy {cupy.__version__}"
    except KernelError as error:
        kernels = f"none: {error}"
    yield from (
        {"what": "device", "value": there.name},
        {"what": "compute capability", "value": f"{there.major}.{there.minor}"},
        {"what": "memory, GiB", "value": round(there.total_memory / 2**30, 1)},
        {"what": "Python, PyTorch, CUDA, cuDNN",
         "value": f"{platform.python_version()}, {torch.__version__}, {torch.version.cuda}, "
                  f"{torch.backends.cudnn.version()}"},
        {"what": "kernels", "value": kernels},
    )  # fmt: skip


def files(device: str, only: Sequence[str] = ()) -> Iterator[Row]:
    """Largest difference in grey levels between what CPU and `device` decode, for files that either of them wrote.

    only  names of files in tests/golden; () for all
    Networks of Stable Diffusion run in float32.  No file may be refused.
    """
    from golden_files import CLOSE, FILES, GOLDEN, Golden

    from diffpress.codecs import container
    from diffpress.data import read_image

    kinds: dict[str, Golden] = {}
    for entry in FILES:  # those of earlier versions of the format are written alike
        kinds.setdefault(str((entry.codec, entry.model, entry.options, entry.request)), entry)
    for entry in (entry for entry in kinds.values() if not only or entry.file in only):
        image = read_image(GOLDEN / entry.photo)
        codecs: list[Any] = []
        for number, written in enumerate(("cpu", device)):
            row: Row = {"file": entry.file, "written on": written, "good": False}
            try:
                for where in ("cpu", device)[len(codecs) :]:
                    with tempfile.TemporaryDirectory() as folder:
                        codecs.append(entry.build(Path(folder), where))
                data = container.write(codecs[number].encode(image, **entry.request), codecs[number])
                pictures = [codec.decode(container.read(data, codec)).cpu().int() for codec in codecs]
                row["largest difference"] = int((pictures[0] - pictures[1]).abs().max())
                row["good"] = row["largest difference"] <= (0 if entry.exact else CLOSE)
            except Exception as error:  # whatever a first run brings up: the other files are tried, too
                row["error"] = f"{type(error).__name__}: {error}"[:300]
            yield row


def coders(device: str) -> Iterator[Row]:
    """Milliseconds of one step: of 140 bits by every coder, and by the trellis where docs/method/gpu.md sets an aim."""
    import rcc_speed

    from diffpress.codecs.reverse_channel import get_coder
    from diffpress.kernels import launch

    for size in COORDINATES:
        yield from ({"coordinates": size, **row} for row in rcc_speed.rows(size, torch.device(device), 5))
    coder, size = get_coder("trellis"), COORDINATES[-1]
    for bits, aim in AIMS.items():
        mu = rcc_speed.mean_of(size, bits, torch.device(device))
        for blocks in (launch.MAX_CLUSTER, 1):
            with patch.object(launch, "MAX_CLUSTER", blocks):
                ms = rcc_speed.median(lambda mu=mu, bits=bits: coder.encode(mu, bits, 1), torch.device(device), 5)
            yield {"coordinates": size, "what": f"trellis, {bits} bits, at most {blocks} blocks a trellis",
                   "ms": ms, "aim, ms": aim}  # fmt: skip


def photo(device: str) -> Iterator[Row]:
    """Seconds and MiB of the shipped priors, encoding and decoding apart, the second time each."""
    from diffpress.codecs import get_codec
    from diffpress.lightning_modules import load_model
    from helpers import synthetic_photo

    image = synthetic_photo(*KODAK)
    for model, options in PHOTO_MODELS:
        codec = get_codec("diffc", model=load_model(model, device=device, **options))
        codec.decode(codec.encode(image, bpp=0.5))  # tables and kernels are built once
        with Watch() as encoding:
            stream = codec.encode(image, bpp=0.5)
        with Watch() as decoding:
            codec.decode(stream)
        yield {"model": str(model), "dtype": options.get("dtype", "int8"), "bpp": 0.5,
               "encode s": encoding.seconds, "decode s": decoding.seconds,
               "encode peak MiB": encoding.peak_mib, "decode peak MiB": decoding.peak_mib}  # fmt: skip


def integers(device: str) -> Iterator[Row]:
    """Milliseconds of an estimate by every engine that runs on the device; all must give what the CPU gives."""
    from diffpress.lightning_modules import load_model
    from diffpress.lightning_modules.networks.integer_denoiser import FloatEngine
    from diffpress.lightning_modules.networks.integer_matmul import MatmulEngine

    network = load_model("diffc-pixel-2", device="cpu").integers
    z = torch.randn(1, 3, *KODAK, generator=torch.Generator().manual_seed(0))
    expected, z = network(z, 1.0), z.to(device)
    for engine in (MatmulEngine(torch.device(device)), FloatEngine()):
        network.engine = engine
        network(z, 1.0)
        with Watch() as watch:
            for _ in range(ESTIMATES):
                estimate = network(z, 1.0)
        yield {"engine": engine.name, "ms": 1000 * watch.seconds / ESTIMATES, "peak MiB": watch.peak_mib,
               "good": torch.equal(estimate.cpu(), expected)}  # fmt: skip


def training(device: str) -> Iterator[Row]:
    """Images of CROP x CROP a second, BATCH at a time, forward, backward and optimizer, without loading data."""
    for dtype in (torch.float32, torch.bfloat16):
        yield _training(device, dtype)


def _training(device: str, dtype: torch.dtype) -> Row:
    from diffpress.lightning_modules.denoiser import DenoiserTraining
    from diffpress.lightning_modules.training.optimizers import MuonAdam, split_parameters

    x = torch.rand(BATCH, 3, CROP, CROP, device=device).contiguous(memory_format=torch.channels_last) * 2 - 1
    module = DenoiserTraining((64, 80, 112, 144), [5, 2, 2, 2]).to(device)
    optimizer = MuonAdam(*split_parameters(module.network, module.network.first_and_last_layers()))
    rng = torch.Generator(device).manual_seed(0)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast(device, dtype) if dtype != torch.float32 else nullcontext():
                noise = torch.randn(x.shape, device=device, generator=rng)
                loss = module.eps_loss(x, module.draw_log_snr(BATCH, rng), noise)[0].mean()
            loss.backward()
            optimizer.step()

    steps(2)
    with Watch() as watch:
        steps(STEPS)
    name = str(dtype).removeprefix("torch.")
    return {"dtype": name, "images/s": STEPS * BATCH / watch.seconds, "peak MiB": watch.peak_mib}


FUNCTIONS: dict[str, Callable[[str], Iterator[Row]]] = {
    "versions": versions, "files": files, "coders": coders, "photo": photo, "integers": integers, "training": training,
}  # called with the device's name


# ---- running them -----------------------------------------------------------------------------------------------


def run_part(name: str, part: Part) -> Outcome:
    """Run a part in its own process group, which is ended at its limit."""
    if part.needs and shutil.which(part.needs) is None:
        return Outcome(name, "skipped", output=f"{part.needs} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        results, log = Path(folder) / "results.json", Path(folder) / "log"
        command = part.command or (sys.executable, "-u", __file__, "--run", name, "RESULTS")
        command = tuple(str(results) if word == "RESULTS" else word for word in command)
        start, status = time.perf_counter(), "stopped"
        with log.open("w") as output, subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as process:  # fmt: skip
            try:
                status = "failed" if process.wait(part.limit) else "passed"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        rows = json.loads(results.read_text()) if results.is_file() else []
        return Outcome(name, status, time.perf_counter() - start, rows, log.read_text(errors="replace")[-TAIL:])


def page(outcomes: Sequence[Outcome]) -> str:
    """docs/results/gpu.md: what became of every part, then the figures of each."""
    if not outcomes:
        return INTRODUCTION + EMPTY
    lines = [INTRODUCTION, "| part | what | status | s |", "|---|---|---|---|"]
    lines += [f"| {one.part} | {PARTS[one.part].about} | {one.status} | {one.seconds:.0f} |" for one in outcomes]
    for one in outcomes:
        if one.results:
            columns = list(dict.fromkeys(key for row in one.results for key in row))
            lines += ["", f"## {one.part}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(_cell(row.get(key, '')) for key in columns)} |" for row in one.results]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else " ".join(str(value).replace("|", "/").split())


def main() -> int:
    """Parse the command line, run the parts, write gpu.json and gpu.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is given")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--run", nargs=2, metavar=("PART", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available():
        print("there is no CUDA device, so nothing was run")
        return 3
    if given.run:
        rows = []
        for row in FUNCTIONS[given.run[0]]("cuda"):
            rows.append(row)
            Path(given.run[1]).write_text(json.dumps(rows))
        return int(not all(row.get("good", True) for row in rows))
    outcomes = []
    for name in given.parts or PARTS:
        outcomes.append(run_part(name, PARTS[name]))
        print(f"{name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", flush=True)
        if outcomes[-1].status in ("failed", "stopped"):
            print(outcomes[-1].output)
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "gpu.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
        (given.output / "gpu.md").write_text(page(outcomes))
    return int(any(one.status in ("failed", "stopped") for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
