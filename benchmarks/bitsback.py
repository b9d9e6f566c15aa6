"""Bits-back coding through real files: lossless rate, exactness and seconds, beside WebP and JPEG XL.

    python benchmarks/bitsback.py ../shared/data/kodak --preset fast --every 2
    python benchmarks/bitsback.py ../shared/data --imagenet64

The images of `imagenet64/val` lie on top of each other in one picture, because tiny images cannot lend each other bits
from file to file.  WebP and JPEG XL take the images one by one and, as "together", that picture.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from diffpress.codecs import container, get_codec
from diffpress.codecs.bitsback.codec import BitsBack
from diffpress.data import list_images, read_image
from diffpress.data.imagenet64 import ImageNet64
from diffpress.lightning_modules import load_model


def measure(codec: BitsBack, name: str, images: list[torch.Tensor], bound: bool) -> dict:
    """Bits per dimension and seconds of one picture, `images` on top of each other."""
    picture = torch.cat(images, dim=1)
    start = time.perf_counter()
    file = container.write(codec.encode(picture), codec)
    encoded = time.perf_counter()
    back = codec.decode(container.read(file, codec))
    decoded = time.perf_counter()
    if not torch.equal(back, picture):
        raise SystemExit(f"{name} did not come back exactly")
    row = {"image": name, "bitsback": 8 * len(file) / picture.numel()}
    if bound:
        row["nelbo"] = codec.nelbo(picture) / picture.numel()
    for other in ("webp", "jxl"):
        sizes = [len(get_codec(other).encode(one, lossless=True).segments[0]) for one in images]
        row[other] = 8 * sum(sizes) / picture.numel()
        if len(images) > 1:
            whole = get_codec(other).encode(picture, lossless=True).segments[0]
            row[f"{other}_together"] = 8 * len(whole) / picture.numel()
    return row | {"encode_s": encoded - start, "decode_s": decoded - encoded}


def main(
    data: Path,
    out: Path = Path("bitsback.json"),
    model: str = "diffc-pixel",
    preset: str = "default",
    every: int = 1,
    first: int = 0,
    imagenet64: bool = False,
    bound: bool = False,
    threads: int = 2,
) -> None:
    """Measure every `every`-th image in `data` from the `first` on; with `bound` also the model's negative ELBO."""
    torch.set_num_threads(threads)
    codec = BitsBack(load_model(model, device="cpu"), preset, tile=64 if imagenet64 else None)
    if imagenet64:
        pictures = [("imagenet64/val", [image for _, image in ImageNet64(data)][first::every])]
    else:
        pictures = [(path.name, [read_image(path)]) for path in list_images(str(data))[first::every]]
    rows = []
    for name, images in pictures:
        rows.append(measure(codec, name, images, bound))
        print("  ".join(f"{key} {value:.4f}" if isinstance(value, float) else value for key, value in rows[-1].items()),
              flush=True)
        out.write_text(json.dumps(rows, indent=1))
    for key in (key for key in rows[0] if key not in ("image", "encode_s", "decode_s")):
        print(f"{key}: {np.mean([row[key] for row in rows]):.4f} bpd, mean of {len(rows)}")


if __name__ == "__main__":
    auto_cli(main)
