"""Folders of photos compressed while things go wrong: docs/results/reliability.md.

    python benchmarks/faults.py kill --photos 1000 --kills 20 --codec webp
    python benchmarks/faults.py disk        # a full disk and a read-only one; mounts a tmpfs, so it needs root
    python benchmarks/faults.py jobs        # two processes beside one with two threads

Every run is checked against one that nothing disturbed: files, manifest, digests, and nothing half-written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from diffpress.data import save_image

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests" / "golden" / "diffc-model"


def photos(folder: Path, count: int, side: int) -> None:
    """Smooth pictures with noise, in ten sub-folders."""
    rng = torch.Generator().manual_seed(0)
    for number in range(count):
        coarse = torch.rand(1, 3, 4, 4, generator=rng) * 255
        smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
        image = (smooth[0] + 5 * torch.randn(3, side, side, generator=rng)).round().clamp(0, 255).byte()
        save_image(image, folder / str(number % 10) / f"{number}.png")


DIFFC = ("--model", str(MODEL), "--device", "cpu", "--bpp", "2")


def command(source: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "compress.py"), str(source), "-o", str(out), *more]


def files(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def manifest(folder: Path) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def check(out: Path, whole: Path) -> str:
    """One sentence about `out`, which should be as `whole`."""
    ours, theirs = files(out), files(whole)
    left = [name for name in ours if name.endswith(".tmp")]
    ours, theirs = ({name: one for name, one in of.items()
                     if not name.startswith("manifest") and name not in left} for of in (ours, theirs))
    listed = {str(one["file"]): one["sha256"] for one in manifest(out)}
    words = [f"files {'the same' if ours == theirs else 'DIFFERENT'}",
             f"manifest {'the same' if manifest(out) == manifest(whole) else 'DIFFERENT'}",
             f"digests {'right' if listed == ours else 'WRONG'}", f"{len(left)} temporary files left"]  # fmt: skip
    return ", ".join(words)


def kill(work: Path, count: int, kills: int, seed: int, codec: str) -> None:
    """A run with two processes, killed and resumed."""
    photos(work / "photos", count, 32)
    words = ("--codec", codec, "--jobs", "2", *(DIFFC if codec == "diffc" else ()))
    start = time.perf_counter()
    subprocess.run(command(work / "photos", work / "whole", *words), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    print(f"{count} photos undisturbed: {seconds:.0f} s", flush=True)
    rng = random.Random(seed)
    half_written = 0
    for number in range(kills):
        run = subprocess.Popen(command(work / "photos", work / "out", *words, "--resume"), stdout=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
        _wait(run, work / "out" / "manifest.jsonl", rng.randint(0, 2 * count // kills), rng)
        if number % 2:
            os.killpg(run.pid, signal.SIGKILL)  # all of them
        else:
            run.kill()  # the parent alone
        run.wait()
        done = files(work / "out") if (work / "out").is_dir() else {}
        whole = files(work / "whole")
        written = [name for name in done if name in whole and not name.startswith("manifest")]
        half_written += sum(done[name] != whole[name] for name in written)
        print(f"kill {number + 1}: {len(written)} files", flush=True)
    run = subprocess.run(command(work / "photos", work / "out", *words, "--resume"), capture_output=True, text=True)
    print(f"last run: exit code {run.returncode}, {run.stdout.count('there already')} files there already; "
          f"{half_written} half-written under a final name")  # fmt: skip
    print(check(work / "out", work / "whole"))


def _wait(run: subprocess.Popen[bytes], path: Path, lines: int, rng: random.Random) -> None:
    """Until `run` has added so many lines to the manifest and a moment more; without lines, a moment from its start."""
    before = path.read_bytes().count(b"\n") if path.is_file() else 0
    while lines and run.poll() is None and (not path.is_file() or path.read_bytes().count(b"\n") < before + lines):
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1 if lines else 10))


def disk(work: Path) -> None:
    """A disk that fills up, then a read-only one, then room again."""
    photos(work / "photos", 60, 64)
    words = ("--jobs", "1", *DIFFC[:-1], "6")
    subprocess.run(command(work / "photos", work / "whole", *words), check=True, stdout=subprocess.DEVNULL)
    small = work / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], check=True)
    try:
        for state, more in (("full", ()), ("read-only", ("ro",)), ("room", ("rw", "size=10m"))):
            if more:
                subprocess.run(["mount", "-o", ",".join(["remount", *more]), str(small)], check=True)
            again = command(work / "photos", small / "out", *words, "--resume")
            run = subprocess.run(again, capture_output=True, text=True)
            whole = files(work / "whole")
            wrong = sum(digest != whole[name] for name, digest in files(small / "out").items() if name.endswith(".dfc"))
            said = run.stderr.strip().splitlines()[-1:] or [""]
            print(f"{state}: exit code {run.returncode}, {wrong} half-written, says: {said[0][:160]}", flush=True)
        print(check(small / "out", work / "whole"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def jobs(work: Path, count: int) -> None:
    """Megapixels a second of two processes and of one with two threads, in turns."""
    photos(work / "photos", count, 512)
    for turn in range(2):
        for name, words in (("one process, two threads", ()), ("two processes", ("--jobs", "2"))):
            sources = sorted((work / "photos").rglob("*.png"))
            start = time.perf_counter()
            if words:
                run = subprocess.run(
                    command(work / "photos", work / f"two{turn}", "--preset", "fast", "--bpp", "0.5", *words),
                    check=True, stdout=subprocess.DEVNULL,
                )  # fmt: skip
            else:
                script = ("import sys, torch; from diffpress.codecs import container, get_codec\n"
                          "from diffpress.data import read_image; from diffpress.lightning_modules import load_model\n"
                          "torch.set_num_threads(2)\n"
                          "codec = get_codec('diffc', model=load_model('diffc-pixel'), preset='fast')\n"
                          "for name in sys.argv[1:]: container.write(codec.encode(read_image(name), bpp=0.5), codec)")
                run = subprocess.run([sys.executable, "-c", script, *map(str, sources)], check=True, cwd=ROOT)
            seconds = time.perf_counter() - start
            assert run.returncode == 0
            print(f"{name}: {count * 512 * 512 / 1e6 / seconds:.4f} megapixels a second ({seconds:.0f} s)", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["kill", "disk", "jobs"])
    p.add_argument("--photos", type=int, default=50)
    p.add_argument("--kills", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--codec", choices=["diffc", "webp"], default="diffc")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if a.what == "kill":
            kill(Path(work), a.photos, a.kills, a.seed, a.codec)
        elif a.what == "disk":
            disk(Path(work))
        else:
            jobs(Path(work), a.photos)


if __name__ == "__main__":
    main()
