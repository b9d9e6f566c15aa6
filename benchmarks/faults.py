"""Commands that are killed at random moments, and disks without room: docs/results/reliability.md.

    python benchmarks/faults.py compress --photos 1000 --kills 20   # two processes, killed and resumed
    python benchmarks/faults.py decompress
    python benchmarks/faults.py evaluate
    python benchmarks/faults.py train
    python benchmarks/faults.py disk        # a full disk and a read-only one; mounts a tmpfs, so it needs root

Every run is checked against one that nothing disturbed: nothing half-written under a final name, nothing lost.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffpress.data import save_image

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests" / "golden" / "diffc-model"
FAST = ROOT / "tests" / "golden" / "white-model"  # whose preset is fast
ON_CPU = ("--device", "cpu")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def photos(folder: Path, count: int, side: int) -> None:
    """Smooth pictures with noise, in ten sub-folders."""
    rng = torch.Generator().manual_seed(0)
    for number in range(count):
        coarse = torch.rand(1, 3, 4, 4, generator=rng) * 255
        smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
        image = (smooth[0] + 5 * torch.randn(3, side, side, generator=rng)).round().clamp(0, 255).byte()
        save_image(image, folder / str(number % 10) / f"{number}.png")


def command(script: str, *words: object) -> list[str]:
    return [sys.executable, str(ROOT / f"{script}.py"), *map(str, words)]


def files(folder: Path) -> dict[str, str]:
    """Digests by name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def manifest(folder: Path) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def check(out: Path, whole: Path) -> str:
    """One sentence about `out`, which should be as `whole`, both of compress.py."""
    ours, theirs = files(out), files(whole)
    left = [name for name in ours if name.endswith(".tmp")]
    ours, theirs = ({name: one for name, one in of.items()
                     if not name.startswith("manifest") and name not in left} for of in (ours, theirs))
    listed = {str(one["file"]): one["sha256"] for one in manifest(out)}
    words = [f"files {'the same' if ours == theirs else 'DIFFERENT'}",
             f"manifest {'the same' if manifest(out) == manifest(whole) else 'DIFFERENT'}",
             f"digests {'right' if listed == ours else 'WRONG'}", f"{len(left)} temporary files left"]  # fmt: skip
    return ", ".join(words)


def kill(
    again: Callable[[], list[str]], kills: int, rng: random.Random, most: int, progress: Callable[[], Any],
    wrong: Callable[[], list[str]],
) -> None:
    """Start `again()`, kill it at a random moment, look what is `wrong`; so many times, then let one run end.

    A moment is up to 0.1 s after `progress()` changed for the n-th time, n up to `most`; for n = 0 up to 10 s from the
    start.  In turns the parent alone and all processes are killed.
    """
    for number in range(kills):
        seen, changes = progress(), rng.randint(0, most)
        pause = rng.uniform(0, 0.1 if changes else 10)
        run = subprocess.Popen(again(), start_new_session=True, **QUIET)
        while changes and run.poll() is None:
            if (now := progress()) != seen:
                seen, changes = now, changes - 1
            time.sleep(0.005)
        time.sleep(pause)
        ended = run.poll() is not None
        if number % 2:
            with contextlib.suppress(ProcessLookupError):  # it had ended
                os.killpg(run.pid, signal.SIGKILL)  # all of them
        else:
            run.kill()
        run.wait()
        said = "; ".join(wrong()) or "nothing half-written"
        print(f"kill {number + 1}{' (had ended)' if ended else ''}: {said}", flush=True)
    last = subprocess.run(again(), capture_output=True, text=True)
    there = last.stdout.count("there already")
    print(f"last run: exit code {last.returncode}, {there} files there already; {'; '.join(wrong()) or 'all whole'}",
          last.stderr[-300:] if last.returncode else "", flush=True)  # fmt: skip


def undisturbed(words: list[str]) -> None:
    start = time.perf_counter()
    subprocess.run(words, check=True, **QUIET)
    print(f"undisturbed: {time.perf_counter() - start:.0f} s", flush=True)


def count_of(folder: Path, pattern: str) -> Callable[[], int]:
    return lambda: sum(1 for _ in folder.rglob(pattern))


def differing(out: Path, whole: Path, suffix: str) -> Callable[[], list[str]]:
    """Files of `out` that are not as in `whole`."""
    def wrong() -> list[str]:
        ours, theirs = files(out), files(whole)
        return [f"{name} DIFFERS" for name, one in ours.items() if name.endswith(suffix) and one != theirs[name]]

    return wrong


def compress(work: Path, count: int, kills: int, rng: random.Random) -> None:
    photos(work / "photos", count, 32)
    words = ("--model", FAST, "--preset", "fast", *ON_CPU, "--bpp", 2, "--jobs", 2)
    undisturbed(command("compress", work / "photos", "-o", work / "whole", *words))
    again = command("compress", work / "photos", "-o", work / "out", *words, "--resume")
    lines = work / "out" / "manifest.jsonl"
    kill(lambda: again, kills, rng, 2 * count // kills, lambda: lines.stat().st_size if lines.is_file() else 0,
         differing(work / "out", work / "whole", ".dfc"))  # fmt: skip
    print(check(work / "out", work / "whole"))


def decompress(work: Path, count: int, kills: int, rng: random.Random) -> None:
    photos(work / "photos", count, 32)
    model = ("--model", MODEL, *ON_CPU, "--jobs", 2)
    subprocess.run(command("compress", work / "photos", "-o", work / "files", *model, "--bpp", 2), check=True, **QUIET)
    undisturbed(command("decompress", work / "files", "-o", work / "whole", *model))
    again = command("decompress", work / "files", "-o", work / "out", *model, "--force")
    kill(lambda: again, kills, rng, count // 2, lambda: max(_changed(work / "out", ".png"), default=0),
         differing(work / "out", work / "whole", ".png"))  # fmt: skip
    print("names", "the same" if {name for name in files(work / "out") if not name.endswith(".tmp")}
          == set(files(work / "whole")) else "DIFFERENT")  # fmt: skip


def _changed(folder: Path, suffix: str) -> list[int]:
    """When the files of a folder were last written."""
    found = []
    for path in folder.rglob(f"*{suffix}"):
        with contextlib.suppress(FileNotFoundError):  # one is being replaced
            found.append(path.stat().st_mtime_ns)
    return sorted(found)


def evaluate(work: Path, count: int, kills: int, rng: random.Random) -> None:
    photos(work / "photos", count, 64)
    words = ("--codecs", "webp", "jpeg", "--points", "webp:20,50,90,lossless", "jpeg:20,50,90", *ON_CPU,
             "--data", work / "photos" / "0", "-o")  # fmt: skip
    undisturbed(command("evaluate", *words, work / "whole"))
    expected, whole = _records(work / "whole"), files(work / "whole" / "files")

    def wrong() -> list[str]:
        out = work / "out"
        bad = [name for name, one in files(out / "files").items() if not name.endswith(".tmp") and one != whole[name]]
        bad += [name for name, one in _records(out).items() if one != expected[name]]
        for path in out.rglob("*.json"):
            json.loads(path.read_text())
        return [f"{name} DIFFERS" for name in bad]

    again = command("evaluate", *words, work / "out")
    kill(lambda: again, kills, rng, 2 * len(expected) // kills, count_of(work / "out" / "records", "*.json"), wrong)
    print(f"{len(_records(work / 'out'))} of {len(expected)} records")


def _records(out: Path) -> dict[str, Any]:
    """What was measured, but for seconds and memory."""
    found = {}
    for path in (out / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        points = [{key: one for key, one in point.items() if not key.endswith(("_s", "_mib"))}
                  for point in record["points"]]  # fmt: skip
        found[str(path.relative_to(out))] = [record["image"], record["identity"], points]
    return found


def train(work: Path, count: int, kills: int, rng: random.Random) -> None:
    """Each run goes on from the last checkpoint, which must be whole, whenever the one before was killed."""
    photos(work / "photos", 10, 64)
    model, trainer = "--model.init_args.", "--trainer."

    def checkpoints(out: Path) -> list[Path]:
        return sorted(out.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)

    def words(out: Path) -> list[str]:
        found = checkpoints(out)
        return command(
            "train", "fit", "-c", ROOT / "configs" / "uqdm" / "tiny.yaml", f"--data.train={work / 'photos' / '0'}",
            f"--data.val={work / 'photos' / '0'}", "--data.crop_size=16", f"{model}network.embedding_dim=8",
            f"{model}network.norm_groups=4", f"{model}network.mid_attention=false", f"{trainer}logger=false",
            f"{trainer}max_steps={count}", f"{trainer}accelerator=cpu", f"{trainer}enable_progress_bar=false",
            f"{trainer}default_root_dir={out}", f"{trainer}val_check_interval=100000",
            f"{trainer}callbacks.every_n_train_steps=2", *([f"--ckpt_path={found[-1]}"] if found else []),
        )  # fmt: skip

    undisturbed(words(work / "whole"))

    def states(out: Path) -> list[dict[str, Any]]:
        return [torch.load(path, weights_only=True) for path in checkpoints(out)]  # raises where one is half-written

    def wrong() -> list[str]:
        return [f"step {one['global_step']} EMPTY" for one in states(work / "out") if not one["state_dict"]]

    kill(lambda: words(work / "out"), kills, rng, count // kills, lambda: _changed(work / "out", ".ckpt"), wrong)
    ours, theirs = states(work / "out")[-1], states(work / "whole")[-1]
    far = max(float((ours["state_dict"][name] - one).abs().max()) for name, one in theirs["state_dict"].items())
    print(f"steps {ours['global_step']} and {theirs['global_step']}, weights differ by {far:.2g} at most")


def disk(work: Path, count: int, kills: int, rng: random.Random) -> None:
    """A disk that fills up, then a read-only one, then room again."""
    photos(work / "photos", 60, 64)
    words = ("--jobs", 1, "--model", MODEL, *ON_CPU, "--bpp", 6)
    subprocess.run(command("compress", work / "photos", "-o", work / "whole", *words), check=True, **QUIET)
    small = work / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], check=True)
    try:
        for state, more in (("full", ()), ("read-only", ("ro",)), ("room", ("rw", "size=10m"))):
            if more:
                subprocess.run(["mount", "-o", ",".join(["remount", *more]), str(small)], check=True)
            again = command("compress", work / "photos", "-o", small / "out", *words, "--resume")
            run = subprocess.run(again, capture_output=True, text=True)
            wrong = differing(small / "out", work / "whole", ".dfc")()
            said = run.stderr.strip().splitlines()[-1:] or [""]
            print(f"{state}: exit code {run.returncode}, {len(wrong)} half-written, says: {said[0][:160]}", flush=True)
        print(check(small / "out", work / "whole"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {one.__name__: one for one in (compress, decompress, evaluate, train, disk)}
    p.add_argument("what", choices=list(what))
    p.add_argument("--photos", type=int, default=50, help="for train: steps")
    p.add_argument("--kills", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as work:
        what[a.what](Path(work), a.photos, a.kills, random.Random(a.seed))


if __name__ == "__main__":
    main()
