"""Small colour profiles (ICC.1:2001-04): of RGB with other primaries, of grey with another gamma, of CMYK."""

from __future__ import annotations

import struct

from PIL import ImageCms

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))  # XYZ, D50


def _profile(device: bytes, space: bytes, connection: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    ascii_name = name.encode() + b"\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(ascii_name)) + ascii_name + bytes(78)
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(0.9642, 1.0, 0.8249)} | tags
    body, table, start = b"", struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for key, data in tags.items():
        table += key + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, device, space, connection)
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _xyz(0.9642, 1.0, 0.8249)[8:]
    return head + bytes(128 - len(head)) + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def rgb(gamma: float = 2.19921875) -> bytes:
    """Adobe RGB (1998), but for its copyright."""
    tags = {key + b"XYZ": _xyz(*one) for key, one in zip((b"r", b"g", b"b"), ADOBE_RGB, strict=True)}
    tags |= {key + b"TRC": _gamma(gamma) for key in (b"r", b"g", b"b")}
    return _profile(b"mntr", b"RGB ", b"XYZ ", "Test RGB", tags)


def grey(gamma: float) -> bytes:
    """Grey of a gamma."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", "Test grey", {b"kTRC": _gamma(gamma)})


def cmyk() -> bytes:
    """Lab L falls with the sum of the inks, and any ink at all makes a = b = 0: a printer of grey."""
    corners = [(sum(ink >> bit & 1 for bit in range(4))) for ink in range(16)]
    table = b"".join(bytes([255 - round(255 * inks / 4), 128, 128]) for inks in corners)
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + table + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", "Test CMYK", {b"A2B0": lut})


def srgb() -> bytes:
    """What littlecms makes for sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
