"""Do the files of an evaluation, decoded in a process of their own, give the images that were scored?

    python benchmarks/fresh_process.py runs/kodak --data_dir ../shared/data --codecs "[diffc]" --points "[bpp=0.1]"

`runs/kodak` is what `evaluate.py -o runs/kodak` wrote.  The files of one codec at one point go through one
`decompress.py`, which sees nothing but them.  Lossless ones must give the original, the others the recorded PSNR.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jsonargparse import auto_cli

from diffpress.data import load_data, read_image
from diffpress.evaluation.metrics import psnr
from diffpress.evaluation.records import read_record

DECOMPRESS = Path(__file__).resolve().parent.parent / "decompress.py"
TOLERANCE = 1e-3  # dB; another number of threads may sum in another order


def differences(
    files: dict[str, Path], scored: dict[str, float | None], originals: dict[str, torch.Tensor]
) -> list[float]:
    """By how many dB the images of `files`, decoded in a process of their own, miss `scored` (None: the original)."""
    found = []
    with TemporaryDirectory() as folder:
        subprocess.run([sys.executable, DECOMPRESS, *files.values(), "-o", folder], check=True)
        for name, file in files.items():
            decoded = read_image(Path(folder) / f"{file.stem}.png")
            value = scored[name]
            if value is None:
                found.append(0.0 if torch.equal(decoded, originals[name]) else float("inf"))
            else:
                found.append(abs(psnr(decoded, originals[name]) - value))
    return found


def main(
    out: Path,
    data: str = "kodak",
    data_dir: str = "datasets",
    codecs: list[str] | None = None,
    points: list[str] | None = None,
) -> None:
    """Decode the files of `codecs` (None: all) at `points` (None: all) anew; exit status 1 if one differs."""
    images = load_data(data, data_dir)
    originals = dict(images[number] for number in range(len(images)))
    worst = None
    for folder in sorted((out / "records").glob("*")):
        if codecs is not None and folder.name not in codecs:
            continue
        records = [record for record in map(read_record, sorted(folder.glob("*.json"))) if record is not None]
        kept = {(p.point, r.image): p for r in records for p in r.points if p.file}
        for point in dict.fromkeys(point for point, _ in kept):
            if points is not None and point not in points:
                continue
            chosen = {image: measured for (other, image), measured in kept.items() if other == point}
            found = differences(
                {image: out / measured.file for image, measured in chosen.items()},
                {image: measured.scores["psnr-rgb"] for image, measured in chosen.items()},
                originals,
            )
            print(f"{folder.name}, {point}: {len(found)} files, largest difference {max(found):.6f} dB", flush=True)
            worst = max(worst or 0.0, *found)
    if worst is None:
        raise SystemExit(f"error: {out} has no files of these codecs and points")
    raise SystemExit(int(worst > TOLERANCE))


if __name__ == "__main__":
    auto_cli(main)
