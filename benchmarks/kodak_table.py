r"""The README's table of Kodak: PSNR and MS-SSIM at equal rates, BD-rates, and lossless rates.

    python benchmarks/kodak_table.py --files "[docs/results/kodak]" --published ../shared/reference/kodak_curves
    python benchmarks/kodak_table.py --records "[runs/kodak/records]" --keep docs/results/kodak

records    what `evaluate.py -o runs/kodak` measured, every codec of it; with `--hypothetical` of DiffC also what
           an ideal coder would need, as a codec of its own whose name ends in "-hypothetical"
files      what `keep` wrote; or folders of these
keep       folder to write the curves of `records` to
published  file or folder of curves that others published, means over the images at each quality
Figures at a rate are interpolated on each image's own curve, linearly in dB over log rate, and averaged over the images
whose curve reaches the rate; their number is given where it is not all, and below the table what the codecs of
`like_for_like` have on the same images.  A file made for a rate is up to 1 % smaller, and counts as it is.  BD-rates
are means over images.  Published figures are interpolated on the mean curve, which is not quite the same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from diffpress.evaluation.bd import bd_rate
from diffpress.evaluation.published import read_curves

Curve = list[tuple[float, float, float]]  # bpp, PSNR in dB, MS-SSIM


def of_records(folder: Path, hypothetical: bool) -> tuple[dict[str, Curve], dict[str, float]]:
    """(curve, lossless bpp) by image of one codec's records, or of what no file stands for in them."""
    curves: dict[str, Curve] = {}
    lossless: dict[str, float] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        curves[path.stem] = []
        for point in record["points"]:
            if point["error"] or point.get("hypothetical", False) != hypothetical:
                continue
            if point["lossless"]:
                lossless[path.stem] = point["bpp"]
            elif point["bpp"] and point["scores"]["psnr-rgb"]:
                curves[path.stem].append((point["bpp"], point["scores"]["psnr-rgb"], point["scores"]["ms-ssim-rgb"]))
        curves[path.stem].sort()
    return curves, lossless


def of_file(path: Path) -> tuple[dict[str, Curve], dict[str, float]]:
    """The same from what `save` wrote."""
    rows = {Path(one["image"]).stem: one for one in json.loads(path.read_text())}
    curves = {image: list(zip(one["bpp"], one["psnr"], one["ms_ssim"], strict=True)) for image, one in rows.items()}
    return curves, {image: one["lossless_bpp"] for image, one in rows.items() if one.get("lossless_bpp")}


def save(curves: dict[str, Curve], lossless: dict[str, float], path: Path) -> None:
    """Write one codec's curves as `files` has them: small enough to keep, and all that the table needs."""
    rows = []
    for image, curve in curves.items():
        columns = [[round(value, 5) for value in column] for column in zip(*curve, strict=True)] or [[], [], []]
        row = {"image": f"{image}.png", **dict(zip(("bpp", "psnr", "ms_ssim"), columns, strict=True))}
        rows.append(json.dumps(row | ({"lossless_bpp": round(lossless[image], 5)} if image in lossless else {})))
    path.write_text("[" + ",\n ".join(rows) + "]\n")


def reaching(curves: dict[str, Curve], rate: float) -> set[str]:
    """Images whose curve reaches `rate`."""
    return {image for image, curve in curves.items() if curve and curve[0][0] <= rate <= 1.01 * curve[-1][0]}


def at(curves: dict[str, Curve], rate: float, images: set[str] | None = None) -> str:
    """Mean PSNR and MS-SSIM at `rate`, over those of `images` (None: all) that reach it, and how many these are."""
    reached = reaching(curves, rate) & (images or set(curves))
    if not reached:
        return ""
    columns = [tuple(zip(*curves[image], strict=True)) for image in sorted(reached)]
    means = [np.mean([np.interp(np.log(rate), np.log(bpp), one[q]) for bpp, *one in columns]) for q in (0, 1)]
    note = "" if len(reached) == len(curves) else f" ({len(reached)} images)"
    return f"{means[0]:.2f} / {means[1]:.4f}{note}"


def against(curves: dict[str, Curve], anchors: dict[str, Curve], lowest: float, highest: float) -> str:
    """Mean BD-rate in % of the points between two rates."""
    deltas = []
    for image, curve in curves.items():
        both = [[p for p in one if lowest <= p[0] <= highest] for one in (anchors.get(image, []), curve)]
        if min(map(len, both)) < 4:
            continue
        delta = bd_rate(*([p[axis] for p in one] for one in both for axis in (0, 1)))
        if delta is not None:
            deltas.append(delta)
    return f"{np.mean(deltas):+.1f} %" + (f" ({len(deltas)})" if len(deltas) < len(curves) else "") if deltas else ""


def main(
    records: list[Path] = [],  # noqa: B006
    files: list[Path] = [],  # noqa: B006
    rates: list[float] = [0.1, 0.25, 0.5, 1.0],  # noqa: B006
    anchors: list[str] = ["jpeg", "webp", "avif"],  # noqa: B006
    bd_range: tuple[float, float] = (0.05, 1.2),
    keep: Path | None = None,
    published: Path | None = None,
    like_for_like: list[str] = ["diffc"],  # noqa: B006
) -> None:
    """Print the table."""
    folders = [path for root in records for path in sorted(root.iterdir())]
    found = {path.name: of_records(path, hypothetical=False) for path in folders}
    ideal = {f"{path.name}-hypothetical": of_records(path, hypothetical=True) for path in folders}
    found |= {name: pair for name, pair in ideal.items() if any(pair[0].values())}
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for name, pair in found.items():
            save(*pair, keep / f"{name}.json")
    kept = [one for path in files for one in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    found |= {path.stem: of_file(path) for path in kept}
    curves = {name: pair[0] for name, pair in found.items()}
    print("| codec |" + "".join(f" {rate} bpp |" for rate in rates) + "".join(f" BD-rate vs {a} |" for a in anchors)
          + " lossless bpd |")
    print("|---" * (len(rates) + len(anchors) + 2) + "|")
    for name, own in curves.items():
        cells = [at(own, rate) for rate in rates]
        cells += [against(own, curves[anchor], *bd_range) if anchor in curves else "" for anchor in anchors]
        sizes = found[name][1]
        note = "" if len(sizes) in (0, len(own)) else f" ({len(sizes)})"
        cells.append(f"{np.mean(list(sizes.values())) / 3:.3f}{note}" if sizes else "")
        print(f"| {name} | " + " | ".join(cells) + " |")
    for other in read_curves(published) if published else ():
        values = [point.values for point in other.points]
        mean = sorted((v["bpp"], v["psnr-rgb"], v.get("ms-ssim-rgb", math.nan)) for v in values if "psnr-rgb" in v)
        cells = [at({other.codec: mean}, rate).replace(" / nan", "") for rate in rates]
        print(f"| {other.codec} | " + " | ".join(cells) + " |" * (len(anchors) + 2))
    for best in filter(curves.get, like_for_like):
        mine = curves[best]
        for name, own in curves.items():
            for rate in rates:
                images = reaching(own, rate)
                if images and images < reaching(mine, rate):
                    print(f"{rate} bpp, images that {name} reaches: {best} {at(mine, rate, images)}, "
                          f"{name} {at(own, rate)}")


if __name__ == "__main__":
    auto_cli(main)
