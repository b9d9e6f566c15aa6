"""The file format: a Stream to bytes and back, checked, in at most 18 bytes plus 1 % (see docs/format.md).

Layout: magic (2), version and codec number (1), model fingerprint (4), length of what follows the header (LEB128),
height and width (LEB128), number of segments (LEB128), codec parameters (a fixed number of bytes per codec), then the
segments and, where the header announces them, attachments.  Neighbouring segments form a group until it holds
GROUP_BYTES; behind each group stands a CRC over header and group, so that small segments share one.
A codec that can tell a segment's size from its first bytes and the header (SelfDelimiting) has its segments stored
bare; others get their length in front, as LEB128.  Codec numbers and their parameter bytes are in registry.py.

The length tells a cut file, which is shorter, from a damaged one.  Files of version 1 have neither it nor attachments.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from .base import CodecError, Header, ModelMismatch, SelfDelimiting, Stream
from .registry import MODEL_CODECS

MAGIC = b"\xd1\xf5"
VERSION = 2
ATTACHMENTS = 8  # bit of the third byte, beside the codec's number
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
    """A file with a wrong checksum or a segment that makes no sense, or cut before its first checksum.

    `stream` holds the good segments before the damage.  Where none is known to be good, it holds those that could be
    told apart, perhaps none; `stream.note` says which of the two.
    """

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
    bare = isinstance(codec, SelfDelimiting)
    groups, group = [], bytearray()
    for index, segment in enumerate(stream.segments):
        group += segment if bare else varint(len(segment)) + segment
        if len(group) >= GROUP_BYTES or index == len(stream.segments) - 1:
            groups.append(bytes(group))
            group.clear()
    attached = b"".join(bytes([kind]) + varint(len(data)) + data for kind, data in stream.attachments)
    length = sum(len(one) + _checksum_bytes(one) for one in groups or [b""]) + (len(attached) + 4 if attached else 0)
    head = MAGIC + bytes([VERSION << 4 | (ATTACHMENTS if attached else 0) | number]) + header.fingerprint
    head += varint(length) + varint(header.height) + varint(header.width) + varint(len(stream.segments)) + header.params
    out = head + b"".join(one + _checksum(head, one) for one in groups or [b""])
    return out + attached + _crc32(head, attached) if attached else out


@dataclass(frozen=True)
class _Start:
    """What the first bytes of a file say.

    count     announced number of segments
    start     offset of the first segment
    end       announced length of the file; None in files of version 1, which do not say
    attached  whether attachments stand behind the segments
    """

    header: Header
    count: int
    start: int
    end: int | None
    attached: bool


def peek(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[Header, int, int]:
    """(header, announced number of segments, offset of the first segment) of a file; raises CodecError."""
    found = _read_start(data, max_pixels)
    return found.header, found.count, found.start


def _read_start(data: bytes, max_pixels: int) -> _Start:
    if data[:2] != MAGIC:
        raise NotOurFile("this is not a diffpress file")
    if len(data) < 8:
        raise CodecError("the file ends inside its header")
    version, number = data[2] >> 4, data[2] & 15
    if version > VERSION:
        raise CodecError(f"the file has format version {version}, and this program reads versions up to {VERSION}")
    attached = version > 1 and bool(number & ATTACHMENTS)
    number ^= ATTACHMENTS if attached else 0
    if version == 0 or number not in _NAMES:
        raise CodecError("the file's header is damaged, or was written by an unknown codec")
    name, length = _NAMES[number], None
    try:
        offset = 7
        if version > 1:
            length, offset = read_varint(data, offset)
        height, offset = read_varint(data, offset)
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
    header = Header(name, height, width, data[3:7], data[offset:end])
    return _Start(header, count, end, None if length is None else end + length, attached)


def read(data: bytes, codec: Any = None, *, max_pixels: int = MAX_PIXELS) -> Stream:
    """The stream in `data`.

    A cut file gives its whole segments and a note, provided that its first checksum, which vouches for the header, too,
    is there and right.  Everything else that is no whole file raises DamagedFile or CodecError.  A file of version 1
    does not tell whether it is cut or damaged, so that it gives only segments that a checksum vouches for.
    """
    found = _read_start(data, max_pixels)
    header, count, end = found.header, found.count, found.end
    size_of: SegmentSize | None = codec.segment_size if isinstance(codec, SelfDelimiting) else None
    view, head = memoryview(data)[:end], data[: found.start]
    segments: list[bytes] = []
    good, group_start, position = 0, found.start, found.start
    stream = Stream(header, ())

    def ended() -> Stream:
        """What a file holds that ends before its next segment or checksum does."""
        if end is not None and len(data) >= end:
            _refuse(stream, segments, good, count, "it goes on behind the end of the file")
        return _cut(stream, segments if end is not None else segments[:good], segments, good, count)

    for index in range(count):
        try:
            if size_of is None:
                size, begin = read_varint(view, position)
            else:
                size, begin = size_of(header, count, segments, view[position:]), position
        except Truncated:
            return ended()
        except ModelMismatch:
            raise
        except CodecError as error:
            _refuse(stream, segments, good, count, str(error))
        if begin + size > len(view):
            return ended()
        segments.append(data[begin : begin + size])
        position = begin + size
        if position - group_start >= GROUP_BYTES or index == count - 1:
            group = view[group_start:position]
            stored = view[position : position + _checksum_bytes(group)]
            if len(stored) < _checksum_bytes(group):
                return ended()
            if stored != _checksum(head, group):
                _refuse(stream, segments, good, count)
            position += len(stored)
            group_start, good = position, len(segments)
    if not count:
        position += 2
        if view[found.start : position] != _checksum(head, b""):
            raise CodecError("the file's header is damaged")
    stream = replace(stream, segments=tuple(segments))
    if found.attached:
        if end is not None and len(data) < end:
            note = f"the file is cut: all {count} segments are there, but not what is attached to the picture"
            return replace(stream, note=note)
        attachments = _read_attachments(view[position:-4], head, view[-4:])
        if attachments is None:
            note = "all segments are good, and what was attached to the picture is lost"
            raise DamagedFile("the file is damaged behind its last segment", replace(stream, note=note))
        stream, position = replace(stream, attachments=attachments), len(view)
    if position != len(data):
        why = f"the file goes on for {len(data) - position} bytes after its end"
        raise DamagedFile(why, replace(stream, note=f"{why}, which were left out"))
    return stream


def _read_attachments(data: memoryview, head: bytes, stored: memoryview) -> tuple[tuple[int, bytes], ...] | None:
    """(kind, bytes) of each attachment; None if they are damaged."""
    found, position = [], 0
    if stored != _crc32(head, data):
        return None
    try:
        while position < len(data):
            size, begin = read_varint(data, position + 1)
            found.append((data[position], bytes(data[begin : begin + size])))
            position = begin + size
    except CodecError:
        return None
    return tuple(found) if position == len(data) else None


def _cut(stream: Stream, kept: Sequence[bytes], segments: Sequence[bytes], good: int, count: int) -> Stream:
    """What a file that ends too early holds: the segments `kept`; raises DamagedFile where no checksum is there."""
    if not segments:
        raise CodecError("the file is cut before the end of its first segment, or damaged in its header")
    if not good:
        note = (f"the file is cut or damaged: {len(segments)} of {count} segments are there, and no checksum vouches "
                "for them")  # fmt: skip
        rest = replace(stream, segments=tuple(segments), total=count, note=note)
        raise DamagedFile("the file is cut before its first checksum, or damaged in its header", rest)
    note = f"the file is cut: {len(kept)} of {count} segments are there"
    if kept is not segments:
        note = f"the file is cut or damaged: {good} of {count} segments are good"
    elif len(kept) > good:
        note += f", and no checksum vouches for the last {len(kept) - good}"
    return replace(stream, segments=tuple(kept), total=count, note=note)


def _refuse(stream: Stream, segments: list[bytes], good: int, count: int, why: str = "wrong checksum") -> NoReturn:
    """Raise DamagedFile for the segment or group behind the `good` ones."""
    last = max(len(segments), good + 1)
    span = f"segment {last}" if last == good + 1 else f"segments {good + 1} to {last}"
    where = f"header or {span}" if good == 0 else span
    note = f"{good} of {count} segments are good"
    if not good:
        note = f"the file is damaged: {len(segments)} of {count} segments are there, and no checksum vouches for them"
    rest = replace(stream, segments=tuple(segments[: good or None]), total=count, note=note)
    raise DamagedFile(f"the file is damaged in {where} of {count} ({why})", rest)


def _checksum_bytes(group: bytes | memoryview) -> int:
    return 4 if len(group) >= LARGE_GROUP_BYTES else 2


def _checksum(head: bytes, group: bytes | memoryview) -> bytes:
    if len(group) >= LARGE_GROUP_BYTES:
        return _crc32(head, group)
    return binascii.crc_hqx(group, binascii.crc_hqx(head, 0xFFFF)).to_bytes(2, "little")


def _crc32(head: bytes, data: bytes | memoryview) -> bytes:
    return zlib.crc32(data, zlib.crc32(head)).to_bytes(4, "little")


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
