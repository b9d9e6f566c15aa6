"""Three synthetic pages, which no photograph's prior is made for: text, a line drawing, a screen.

    python benchmarks/pages.py pages && python evaluate.py --codecs diffc avif webp --data pages -o pages-report

768 x 512 pixels each, the same on every machine with the same Pillow.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from jsonargparse import auto_cli
from PIL import Image, ImageDraw, ImageFont

SIZE = 768, 512
WORDS = ["rate", "noise", "image", "prior", "a", "step", "sends", "bits", "where", "the", "what", "small", "goes"]


def text(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Black on white, 13 pixels high."""
    for top in range(20, 490, 18):
        line = " ".join(rng.choice(WORDS) for _ in range(18))
        draw.text((24, top), line, "black", ImageFont.load_default(13))


def drawing(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Thin lines: polygons, circles and a curve on axes."""
    for _ in range(25):
        x, y, r = rng.uniform(60, 700), rng.uniform(60, 450), rng.uniform(15, 90)
        corners = [(x + r * math.cos(a), y + r * math.sin(a)) for a in sorted(rng.uniform(0, 6.28) for _ in range(5))]
        draw.polygon(corners, outline="black")
        draw.ellipse((x - r, y - r, x + r, y + r), outline="black")
    draw.line([(x, 256 + 180 * math.sin(x / 40) * math.exp(-x / 500)) for x in range(20, 750)], "black", 2)


def screen(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Coloured windows with bars, buttons and labels."""
    draw.rectangle((0, 0, *SIZE), "#2d5f7f")
    for x, y in ((30, 40), (260, 120), (420, 60), (90, 270)):
        draw.rounded_rectangle((x, y, x + 310, y + 200), 8, "#f4f4f2", "#808080")
        draw.rectangle((x, y + 6, x + 310, y + 26), f"#{rng.randrange(1 << 24):06x}")
        for row in range(6):
            label = " ".join(rng.choice(WORDS) for _ in range(5))
            draw.text((x + 12, y + 36 + 24 * row), label, "#202020", ImageFont.load_default(12))
            draw.rounded_rectangle((x + 240, y + 36 + 24 * row, x + 296, y + 52 + 24 * row), 4, "#4a90d9")


def main(out: Path) -> None:
    """Write text.png, drawing.png and screen.png into the folder `out`, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    for page in (text, drawing, screen):
        image = Image.new("RGB", SIZE, "white")
        page(ImageDraw.Draw(image), random.Random(0))
        image.save(out / f"{page.__name__}.png")


if __name__ == "__main__":
    auto_cli(main)
