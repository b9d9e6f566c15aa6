"""One colour for each codec, the same in every figure and page."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

# (on white, on black), after Okabe and Ito's set, told apart by most colour-blind readers
CODECS = {
    "diffc": ("#d55e00", "#ff8a3d"),
    "avif": ("#0072b2", "#56b4e9"),
    "vvc": ("#009e73", "#2fd0a0"),
    "jxl": ("#b0568f", "#e79ccb"),
    "webp": ("#b07a00", "#f0c04a"),
    "uqdm": ("#5b4ea3", "#a99bf0"),
    "jpeg": ("#6b6b6b", "#b9b9b9"),
    "jpeg2000": ("#8c3b3b", "#e08a8a"),
    "hevc": ("#4d7a1f", "#a5d66b"),
    "bitsback": ("#3f7f93", "#8fd3e6"),
    "Cool-chic 5.0": ("#222222", "#eeeeee"),
    "Cool-chic 4.2": ("#7d7d7d", "#9d9d9d"),
}
OTHERS = (("#9a6a4f", "#d9a98d"), ("#2f6f4f", "#7fc7a3"), ("#7a3f7f", "#cf95d4"), ("#34508c", "#93abe0"))
MARKERS = "osD^vP*X<>hd"


def colours(labels: Sequence[str]) -> list[tuple[str, str]]:
    """(on white, on black) of each label, such as "avif:tune=iq" or "VTM (published)".

    The codec's own; of its further variants among `labels`, in their order, a paler one each.
    """
    found, variants = [], dict[str, list[str]]()
    for label in labels:
        variant = re.sub(r" \((hypothetical|published)\)$", "", label)
        own = variants.setdefault(_codec(label), [])
        if variant not in own:
            own.append(variant)
        share = min(0.45 * own.index(variant), 0.7)
        pair = CODECS.get(_codec(label)) or OTHERS[zlib.crc32(_codec(label).encode()) % len(OTHERS)]
        found.append((_paler(pair[0], share), _paler(pair[1], share)))
    return found


def marker(label: str) -> str:
    """Matplotlib's marker of the codec."""
    names = list(CODECS)
    return MARKERS[names.index(_codec(label)) if _codec(label) in names else zlib.crc32(label.encode()) % len(MARKERS)]


def _codec(label: str) -> str:
    return re.split(r":| \(", label)[0]


def _paler(colour: str, share: float) -> str:
    """`colour`, "#rrggbb", with that share of middle grey in it."""
    parts = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(part + share * (150 - part)):02x}" for part in parts)
