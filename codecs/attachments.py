"""What goes with a picture in its file, behind the segments: its transparency, and metadata as they were found.

An attachment is a kind and its bytes (docs/format.md).  Metadata are deflated.  Transparency is lossless: a byte that
says how samples are predicted, then the errors modulo 256, deflated.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from .base import CodecError, Stream

ALPHA = 1
METADATA = {"exif": 2, "xmp": 3, "icc": 4}
MAX_METADATA = 1 << 24  # bytes of one of them, inflated
NOT, LEFT, ABOVE = range(3)  # what predicts a sample of the alpha plane: nothing, the sample before, the one above


def attach(stream: Stream, alpha: torch.Tensor | None, metadata: Mapping[str, bytes]) -> Stream:
    """`stream` with a uint8 alpha plane [H, W] and metadata by name, those of METADATA; raises CodecError."""
    found = [] if alpha is None else [(ALPHA, _pack_plane(alpha.numpy()))]
    for name, data in metadata.items():
        if len(data) > MAX_METADATA:
            raise CodecError(f"the picture has {len(data)} bytes of {name.upper()}, over the limit of {MAX_METADATA}")
        found.append((METADATA[name], _deflate(data)))
    return replace(stream, attachments=tuple(sorted(found)))


def alpha_of(stream: Stream) -> torch.Tensor | None:
    """The alpha plane, uint8 [H, W]; None where the picture is opaque.  Raises CodecError."""
    data = dict(stream.attachments).get(ALPHA)
    if data is None:
        return None
    height, width = stream.header.height, stream.header.width
    errors = np.frombuffer(_inflate(data[1:], height * width, "transparency"), np.uint8)
    if not data or data[0] > ABOVE or len(errors) != height * width:
        raise CodecError("the transparency in the file is damaged")
    plane = errors.reshape(height, width)
    if data[0] != NOT:
        plane = np.add.accumulate(plane, axis=1 if data[0] == LEFT else 0, dtype=np.uint8)
    return torch.from_numpy(plane.copy())


def metadata_of(stream: Stream) -> dict[str, bytes]:
    """Metadata by name, in the order of METADATA; raises CodecError."""
    found = dict(stream.attachments)
    return {name: _inflate(found[kind], MAX_METADATA, name.upper()) for name, kind in METADATA.items() if kind in found}


def _pack_plane(plane: np.ndarray) -> bytes:
    left, above = plane.copy(), plane.copy()
    left[:, 1:] -= plane[:, :-1]
    above[1:] -= plane[:-1]
    packed = (bytes([how]) + _deflate(one.tobytes()) for how, one in ((NOT, plane), (LEFT, left), (ABOVE, above)))
    return min(packed, key=len)


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _inflate(data: bytes, limit: int, what: str) -> bytes:
    """At most `limit` bytes, so that a few bytes cannot ask for gigabytes."""
    unpacker = zlib.decompressobj(-15)
    try:
        found = unpacker.decompress(data, limit + 1)
    except zlib.error:
        found = b""
    if not unpacker.eof or unpacker.unused_data or len(found) > limit:
        raise CodecError(f"the {what} in the file is damaged")
    return found
