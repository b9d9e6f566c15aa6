"""compress.py --psnr against a search by hand: how near it comes to a PSNR, in how many trials, at how many bytes.

    python benchmarks/psnr_target.py KODAK --output psnr.jsonl --preset fast --every 3

KODAK is the folder that ``python -m diffpress.commands.data download-kodak`` fills.  One line of JSON per photo and
target; stopped and started again it goes on where it was.  By hand: files of less bytes by `shares` are written, too,
and none of them may reach the target unless it is at most 2 % smaller.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from diffpress.codecs import container, get_codec
from diffpress.codecs.base import Stream
from diffpress.codecs.targets import encode_to
from diffpress.data import read_image
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model

NAMED = ("preset", "model", "crop")
SECONDS = ("seconds", "seconds_by_hand")  # keys of a line


class Counted:
    """A DiffC that remembers the bytes of every file it writes."""

    name = "diffc"

    def __init__(self, codec: Any) -> None:
        self.codec, self.sizes = codec, list[int]()
        self.decode = codec.decode

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def encode(self, image: torch.Tensor, **options: Any) -> Stream:
        """The codec's own."""
        stream = self.codec.encode(image, **options)
        self.sizes.append(len(container.write(stream, self.codec)))
        return stream


def measured(codec: Any, image: torch.Tensor, target: float, shares: list[float]) -> dict[str, Any]:
    """What --psnr `target` gives for `image`, and (bytes, PSNR) of files with those shares of its bytes."""
    start = time.perf_counter()
    counted: Any = Counted(codec)
    data = container.write(encode_to(counted, image, psnr=target), codec)
    seconds = time.perf_counter() - start
    row = {"bytes": len(data), "psnr": round(psnr(codec.decode(container.read(data, codec)), image), 4)}
    by_hand = []
    for share in shares:
        stream = encode_to(codec, image, bytes=round(share * len(data)))
        size = len(container.write(stream, codec))
        by_hand.append([size, round(psnr(codec.decode(stream), image), 4)])
    spent = (seconds, time.perf_counter() - start - seconds)
    times = {key: round(value, 1) for key, value in zip(SECONDS, spent, strict=True)}
    return row | {"trials": counted.sizes, "by_hand": by_hand} | times


def summary(rows: list[dict[str, Any]]) -> str:
    """Means and worst cases of all `rows` in a sentence."""
    above = [row["psnr"] - row["target"] for row in rows]
    excess = [row["bytes"] / min([size for size, psnr in row["by_hand"] if psnr >= row["target"]] + [row["bytes"]])
              for row in rows]  # fmt: skip
    trials, seconds, by_hand = (
        sum(values) / len(rows)
        for values in ([len(row["trials"]) for row in rows], *([row[key] for row in rows] for key in SECONDS))
    )
    return (
        f"{len(rows)} files: {min(above):.4f} to {max(above):.4f} dB above the target, at most "
        f"{100 * max(excess) - 100:.1f} % larger than the best by hand, {trials:.2f} trials and {seconds:.0f} s on "
        f"average, by hand {by_hand:.0f} s"
    )


def main(
    data: Path,
    output: Path = Path("psnr.jsonl"),
    preset: str = "default",
    every: int = 1,
    targets: list[float] = [30.0, 34.0, 38.0],  # noqa: B006
    shares: list[float] = [0.98, 0.96],  # noqa: B006
    crop: int = 0,
    model: str = "diffc-pixel-2",
    device: str = "cpu",
) -> int:
    """Measure every `every`-th photo of the folder `data`; 1 if a file misses its target or is more than 2 % too large.

    output  the file of lines that is begun or continued
    crop    only a square of so many pixels from the middle; 0: the whole photo
    """
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(row["image"], row["target"], *(row[key] for key in NAMED)) for row in rows}
    codec: Any = get_codec("diffc", model=load_model(model, device=device), preset=preset)
    named = {"preset": preset, "model": codec.fingerprint.hex(), "crop": crop}
    for path in sorted(data.glob("*.png"))[::every]:
        image = read_image(path)
        if crop:
            top, left = ((side - crop) // 2 for side in image.shape[1:])
            image = image[:, top : top + crop, left : left + crop].contiguous()
        for target in targets:
            if (path.stem, target, *named.values()) in done:
                continue
            row = {"image": path.stem, "target": target} | named | measured(codec, image, target, shares)
            rows.append(row)
            with output.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    rows = [row for row in rows if {key: row[key] for key in NAMED} == named]
    print(summary(rows))
    wrong = [
        row for row in rows
        if not 0 <= row["psnr"] - row["target"] <= 0.1
        or any(psnr >= row["target"] and size <= 0.98 * row["bytes"] for size, psnr in row["by_hand"])
    ]  # fmt: skip
    for row in wrong:
        print("missed:", json.dumps(row))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(auto_cli(main))
