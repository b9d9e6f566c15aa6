"""Megapixels a second of `compress.py --jobs 2` and of one process with two threads, in turns: docs/folders.md.

    python benchmarks/jobs.py --data PHOTOS            # about 5 minutes on two idle cores

Whole commands, loading included, 50 photos of 512 x 512 each, in halves: threads, processes, processes, threads.
A few photos by one process with one thread tell what a second thread and a second process can bring at most.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from diffpress.data import list_images, read_image, save_image

ROOT = Path(__file__).resolve().parent.parent
SIDE = 512
ONE_PROCESS = """
import sys
from pathlib import Path
import torch
from diffpress.codecs import container
from diffpress.codecs.registry import open_codec
from diffpress.data import read_image, write_file

threads, bpp, out, *names = sys.argv[1:]
torch.set_num_threads(int(threads))
codec = open_codec("diffc", None, "cpu", {"preset": "fast"})
for name in names:
    stream = codec.encode(read_image(name), bpp=float(bpp))
    write_file(Path(out) / (Path(name).stem + ".dfc"), container.write(stream, codec))
"""


def cut(source: Path, folder: Path, count: int) -> list[Path]:
    """Squares of SIDE from the middle of photos, from their first on."""
    found: list[Path] = []
    for path in list_images(source):
        image = read_image(path)
        height, width = image.shape[1:]
        for left in range(width % SIDE // 2, width - SIDE + 1, SIDE) if height >= SIDE else ():
            if len(found) < count:
                top = (height - SIDE) // 2
                found.append(folder / f"{len(found):03}.png")
                save_image(image[:, top : top + SIDE, left : left + SIDE], found[-1])
    if len(found) < count:
        raise SystemExit(f"{source} has {len(found)} squares of {SIDE} pixels, not {count}")
    return found


def seconds(work: Path, turn: str, names: Sequence[Path], threads: int, processes: int, bpp: float) -> float:
    """That one command takes for the photos `names`."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    words = [sys.executable, "-c", ONE_PROCESS, str(threads), str(bpp), str(work / turn), *map(str, names)]
    if processes > 1:
        words = [sys.executable, str(ROOT / "compress.py"), *map(str, names), "-o", str(work / turn),
                 "--preset", "fast", "--bpp", str(bpp), "--device", "cpu", "--jobs", str(processes)]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment)
    return time.perf_counter() - start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder of photos, to be cut")
    p.add_argument("--photos", type=int, default=50)
    p.add_argument("--bpp", type=float, default=0.25)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "photos").mkdir()
        names = cut(a.data, work / "photos", a.photos)
        halves = names[: a.photos // 2], names[a.photos // 2 :]
        spent = {"one process, two threads": 0.0, "two processes": 0.0}
        turns = [(0, 0), (1, 0), (1, 1), (0, 1)]
        for number, (which, half) in enumerate(turns):
            name = list(spent)[which]
            took = seconds(work, str(number), halves[half], 2 - which, 1 + which, a.bpp)
            spent[name] += took
            print(f"{name}: {len(halves[half])} photos in {took:.1f} s", flush=True)
        some = names[: max(1, a.photos // 5)]
        alone = seconds(work, "alone", some, 1, 1, a.bpp) / len(some)
        mega = a.photos * SIDE**2 / 1e6
        print(f"one process, one thread: {SIDE**2 / 1e6 / alone:.4f} megapixels a second ({len(some)} photos)")
        for name, took in spent.items():
            print(f"{name}: {mega / took:.4f} megapixels a second")
        threads, processes = spent.values()
        print(f"two processes are {threads / processes:.2f} times as fast")


if __name__ == "__main__":
    main()
