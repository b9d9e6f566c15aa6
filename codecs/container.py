"""The file format: a Stream to bytes and back, checked, in at most 16 bytes plus 1 % (docs/format.md is the reference).

Layout: magic (2), version and codec number (1), model fingerprint (4), height and width (LEB128), number of segments
(LEB128), codec parameters (a fixed number of bytes per codec), then the segments.  Neighbouring segments form a group
until it holds GROUP_BYTES; behind each group stands a CRC over header and group, so that small segments share one.
A codec that can tell a segment's size from its first bytes and the header (SelfDelimiting) has its segments stored
bare; others get their length in front, as LEB128.  Codec numbers and their parameter bytes are in registry.py.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .base import CodecError, Header, ModelMismatch, SelfDelimiting, Stream
from .registry import MODEL_CODECS

MAGIC = b"\xd1\xf5"
VERSION = 1
GROUP_BYTES = 256  # a 2-byte checksum per 256 bytes stays below 1 %
LARGE_GROUP_BYTES = 1024  # from here on a group is worth 4 bytes of checksum
MAX_PIXELS = 1 << 26  # default limit on what a header may announce: 67 megapixels
MAX_SEGMENTS = 4096

_NAMES = {entry.file_number: name for name, entry in MODEL_CODECS.items()}

# (header, announced number of segments, segments before, rest of the file) -> bytes of the next segment
SegmentSize = Callable[[Header, int, Sequence[bytes], memoryview], int]


class NotOurFile(CodecError):
    """The bytes do not start with our magic."""


class DamagedFile(CodecError):
    """A checksum is wrong; `stream` holds the good segments before the damage (perhaps none)."""

    def __init__(self, message: str, stream: Stream) -> None:
        super().__init__(message)
        self.stream = stream


class Truncated(CodecError):
    """A segment's size cannot be told, or its bytes read, because the file ends before."""


def write(stream: Stream, codec: Any = None) -> bytes:
    """The file of `stream`; lengths are stored unless `codec` is SelfDelimiting.

    Native streams (JPEG, PNG, ...) are their own file.
    """
    if stream.native:
        return stream.segments[0]
    header = stream.header
    number, params = MODEL_CODECS[header.codec].file_number, MODEL_CODECS[header.codec].parameter_bytes
    if len(header.params) != params or len(header.fingerprint) != 4:
        raise ValueError(f"a {header.codec} header takes {params} parameter bytes and a 4-byte fingerprint")
    if len(stream.segments) > MAX_SEGMENTS:
        raise CodecError(f"a file holds at most {MAX_SEGMENTS} segments, not {len(stream.segments)}")
    head = MAGIC + bytes([VERSION << 4 | number]) + header.fingerprint
    head += varint(header.height) + varint(header.width) + varint(len(stream.segments)) + header.params
    bare = isinstance(codec, SelfDelimiting)
    out, group = bytearray(head), bytearray()
    for index, segment in enumerate(stream.segments):
        group += segment if bare else varint(len(segment)) + segment
        if len(group) >= GROUP_BYTES or index == len(stream.segments) - 1:
            out += group + _checksum(head, group)
            group.clear()
    if not stream.segments:
        out += _checksum(head, b"")
    return bytes(out)


def peek(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[Header, int, int]:
    """(header, announced number of segments, offset of the first segment) of a file; raises CodecError."""
    if data[:2] != MAGIC:
        raise NotOurFile("this is not a diffpress file")
    if len(data) < 8:
        raise CodecError("the file ends inside its header")
    version, number = data[2] >> 4, data[2] & 15
    if version > VERSION:
        raise CodecError(f"the file has format version {version}, and this program reads versions up to {VERSION}")
    if version == 0 or number not in _NAMES:
        raise CodecError("the file's header is damaged, or was written by an unknown codec")
    name = _NAMES[number]
    try:
        height, offset = read_varint(data, 7)
        width, offset = read_varint(data, offset)
        count, offset = read_varint(data, offset)
    except Truncated:
        raise CodecError("the file ends inside its header") from None
    end = offset + MODEL_CODECS[name].parameter_bytes
    if end > len(data):
        raise CodecError("the file ends inside its header")
    if height == 0 or width == 0 or count > MAX_SEGMENTS:
        raise CodecError("the file's header is damaged")
    if height * width > max_pixels:
        raise CodecError(f"the file announces {width} x {height} pixels, over the limit of {max_pixels} (--max-pixels)")
    return Header(name, height, width, data[3:7], data[offset:end]), count, end


def read(data: bytes, codec: Any = None, *, max_pixels: int = MAX_PIXELS) -> Stream:
    """The stream in `data`.  A cut file gives its whole segments and a note; a wrong checksum raises DamagedFile."""
    header, count, start = peek(data, max_pixels=max_pixels)
    size_of: SegmentSize | None = codec.segment_size if isinstance(codec, SelfDelimiting) else None
    view, head = memoryview(data), data[:start]
    segments: list[bytes] = []
    good, group_start, position = 0, start, start
    stream = Stream(header, ())
    for index in range(count):
        try:
            if size_of is None:
                size, begin = read_varint(view, position)
            else:
                size, begin = size_of(header, count, segments, view[position:]), position
        except Truncated:
            return _cut(stream, segments, good, count)
        except ModelMismatch:
            raise
        except CodecError as error:
            raise _damage(stream, segments, good, count, str(error)) from error
        if begin + size > len(data):
            return _cut(stream, segments, good, count)
        segments.append(data[begin : begin + size])
        position = begin + size
        if position - group_start >= GROUP_BYTES or index == count - 1:
            group = data[group_start:position]
            expected = _checksum(head, group)
            found = data[position : position + len(expected)]
            if len(found) < len(expected):
                return _cut(stream, segments, good, count)
            if found != expected:
                raise _damage(stream, segments, good, count)
            position += len(expected)
            group_start, good = position, len(segments)
    if not count:
        if data[start:] != _checksum(head, b""):
            raise CodecError("the file's header is damaged")
    elif position != len(data):
        raise CodecError(f"the file goes on for {len(data) - position} bytes after its last segment")
    return replace(stream, segments=tuple(segments))


def _cut(stream: Stream, segments: list[bytes], good: int, count: int) -> Stream:
    """What a file that ends too early holds.

    The checksum of its last group is lost, and a damaged size inside that group would look the same, so the note says
    which segments nothing vouches for.
    """
    if not segments:
        raise CodecError("the file is cut before the end of its first segment")
    note = f"the file is cut: {len(segments)} of {count} segments are there"
    if len(segments) > good:
        note += f", and no checksum vouches for the last {len(segments) - good}"
    return replace(stream, segments=tuple(segments), total=count, note=note)


def _damage(stream: Stream, segments: list[bytes], good: int, count: int, why: str = "wrong checksum") -> DamagedFile:
    last = max(len(segments), good + 1)
    span = f"segment {last}" if last == good + 1 else f"segments {good + 1} to {last}"
    where = f"header or {span}" if good == 0 else span
    rest = replace(stream, segments=tuple(segments[:good]), total=count, note=f"{good} of {count} segments are good")
    return DamagedFile(f"the file is damaged in {where} of {count} ({why})", rest)


def _checksum(head: bytes, group: bytes | bytearray) -> bytes:
    if len(group) >= LARGE_GROUP_BYTES:
        return zlib.crc32(group, zlib.crc32(head)).to_bytes(4, "little")
    return binascii.crc_hqx(group, binascii.crc_hqx(head, 0xFFFF)).to_bytes(2, "little")


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, least significant first, high bit set on all but the last."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    value = 0
    for count in range(5):
        if offset >= len(data):
            raise Truncated("the file ends inside a number")
        byte = data[offset]
        offset += 1
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, offset
    raise CodecError("a number in the file is too large")
