"""What a DiffC file says besides its payloads: two parameter bytes in the header, prompt and guidance in the first
segment.

A prompt or a guidance scale costs nothing where there is none: a flag in the header announces it, and it stands in
front of the first segment::

    flags (1)                          1 prompt, 2 prompt is deflated, 4 guidance, 8 denoising guidance
    guidance (1), denoising guidance (1)   each if flagged, in eighths
    length (LEB128) and bytes of the prompt, if flagged: UTF-8, or deflated with a dictionary where that is shorter
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import container
from ..base import CodecError
from ..reverse_channel import ReverseChannelCoder, get_coder

# What a file's coder id stands for: a reverse-channel coder and its options.  Part of the file format.
# PFR is the scheme to compare with, as published (truncated search, 14-bit chunks, 2^16 candidates, Zipf), because an
# exact search over the thousands of chunks of a photo takes hours.
CODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pfr": ("pfr", {"mode": "truncated", "candidates": 1 << 16, "index_model": "zipf"}),
    "trellis": ("trellis", {}),
    "trellis-quick": ("trellis", {"branches": 5e8}),  # a sixteenth of the search at most, for 1 to 3 % more bits
}
FAST = "fast"  # the preset whose default coder is "trellis-quick", and which is reconstructed without an ensemble
MAX_PRESETS = 8
MAX_PROMPT = 4096  # bytes of UTF-8
GUIDANCE_STEP = 1 / 8
PROMPT, DEFLATED, GUIDANCE, DENOISING = 1, 2, 4, 8

# Words of captions, the most frequent ones last, where references to them are shortest.  Part of the file format.
DICTIONARY = (
    b"photograph painting illustration drawing realistic detailed background foreground beautiful colorful vintage "
    b"airplane bicycle motorcycle elephant giraffe kitchen bathroom bedroom restaurant laptop computer keyboard phone "
    b"umbrella skateboard surfboard snowboard baseball tennis soccer player holding wearing riding playing smiling "
    b"laying walking eating flying driving parked surrounded covered filled decorated lighthouse sailboat parrots "
    b"mountains mountain village bridge river forest flowers garden window windows brick wooden stone door church "
    b"children people woman women man men girl boy person young old little small large several many two three group "
    b"house houses building buildings city street road car truck train bus boat ship horse dog cat bird birds sheep "
    b"table chair bench plate food pizza cake glass bottle hat hats shirt dress yellow orange green purple brown black "
    b"white blue red sky clouds cloudy sunny sunset night day beach ocean sea water lake grass field tree trees snow "
    b"an image of a picture of a close up of a group of people a black and white photo of a couple of a person "
    b" standing sitting on top of a next to a in front of a on the side of a with a view of the in the background "
    b" and a in the on the of the with the at the near a over a a photo of a man a photo of a woman a photo of a "
)


@dataclass(frozen=True)
class HeaderParams:
    """What the two parameter bytes of a header say.

    preset         index into the calibration's presets, below MAX_PRESETS
    coder          position in CODERS
    group_budgets  whether each segment starts with the budget codes of its groups; else one in the first serves all
    lossless       whether the last segment restores the image exactly
    partial        the last step goes partial / 256 of the way to its timestep; 0 means all the way
    conditioned    whether a Conditioning stands in front of the first segment
    """

    preset: int
    coder: int
    group_budgets: bool
    lossless: bool
    partial: int = 0
    conditioned: bool = False

    def make_coder(self, bits: float) -> ReverseChannelCoder:
        """The reverse-channel coder of the file for a step whose groups carry `bits` together."""
        name, options = list(CODERS.values())[self.coder]
        return get_coder(name, **options).for_step(bits)

    def to_bytes(self) -> bytes:
        flags = self.conditioned << 7 | self.preset << 4 | self.lossless << 3 | self.group_budgets << 2 | self.coder
        return bytes([flags, self.partial])

    @classmethod
    def from_bytes(cls, params: bytes) -> HeaderParams:
        flags = params[0]
        if flags & 3 >= len(CODERS):
            raise CodecError("the file was written by a reverse-channel coder this program does not know")
        return cls(flags >> 4 & 7, flags & 3, bool(flags & 4), bool(flags & 8), params[1], bool(flags & 128))

    def read_conditioning(self, first: bytes | memoryview) -> tuple[Conditioning, int]:
        """(what the prior is conditioned on, number of bytes it takes) of the first segment."""
        return Conditioning.from_bytes(first) if self.conditioned else (Conditioning(), 0)

    def read_codes(
        self, before: Sequence[bytes], segment: bytes | memoryview, groups: int
    ) -> tuple[Sequence[int], int]:
        """(budget codes of a segment's `groups`, bytes in front of its payloads), behind the segments `before`."""
        first = before[0] if before else segment
        _, offset = self.read_conditioning(first)
        if self.group_budgets:
            start = 0 if before else offset
            codes = bytes(segment[start : start + groups])
            if len(codes) < groups:
                raise container.Truncated("no room for the budgets")
            return codes, start + groups
        if offset >= len(first):
            raise container.Truncated("no room for a budget")
        return [first[offset]] * groups, 0 if before else offset + 1


@dataclass(frozen=True)
class Conditioning:
    """What the prior is conditioned on.

    prompt              text, at most MAX_PROMPT bytes
    guidance            scale of the chain that encoder and decoder run alike, in eighths from 0 to 31.875
    denoising_guidance  scale of the final reconstruction, which the decoder may replace; None: as `guidance`
    """

    prompt: str = ""
    guidance: float = 1.0
    denoising_guidance: float | None = None

    def __post_init__(self) -> None:
        if len(self.prompt.encode()) > MAX_PROMPT:
            raise CodecError(f"a prompt may have at most {MAX_PROMPT} bytes")
        last = self.guidance if self.denoising_guidance is None else self.denoising_guidance
        for scale in (self.guidance, last):
            if not 0 <= scale < 256 * GUIDANCE_STEP or scale % GUIDANCE_STEP:
                raise CodecError(f"a guidance scale must be a multiple of 1/8 between 0 and 31.875, not {scale:g}")

    def to_bytes(self) -> bytes:
        """b"" for no prompt and no guidance."""
        text = self.prompt.encode()
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
        deflated = packer.compress(text) + packer.flush()
        short = min(text, deflated, key=len)
        scales = b""
        flags = PROMPT * bool(text) | DEFLATED * (bool(text) and short is deflated)
        if self.guidance != 1:
            flags, scales = flags | GUIDANCE, bytes([int(self.guidance / GUIDANCE_STEP)])
        if self.denoising_guidance is not None and self.denoising_guidance != self.guidance:
            flags, scales = flags | DENOISING, scales + bytes([int(self.denoising_guidance / GUIDANCE_STEP)])
        if not flags:
            return b""
        return bytes([flags]) + scales + (container.varint(len(short)) + short if text else b"")

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> tuple[Conditioning, int]:
        """(conditioning, number of bytes) at the start of a first segment; raises container.Truncated or CodecError."""
        if not data:
            raise container.Truncated("the file ends before its prompt")
        flags, offset = data[0], 1
        if flags >= 16 or not flags:
            raise CodecError("the prompt's flags are damaged")
        scales: list[float | None] = [1.0, None]
        for number, flag in enumerate((GUIDANCE, DENOISING)):
            if flags & flag:
                if offset >= len(data):
                    raise container.Truncated("the file ends inside its guidance")
                scales[number] = data[offset] * GUIDANCE_STEP
                offset += 1
        prompt = b""
        if flags & PROMPT:
            length, offset = container.read_varint(data, offset)
            if length > MAX_PROMPT:
                raise CodecError("the prompt is longer than allowed")
            if offset + length > len(data):
                raise container.Truncated("the file ends inside its prompt")
            prompt = bytes(data[offset : offset + length])
            offset += length
            if flags & DEFLATED:
                prompt = _inflate(prompt)
        try:
            return cls(prompt.decode(), scales[0] or 0.0, scales[1]), offset
        except UnicodeDecodeError:
            raise CodecError("the prompt is damaged") from None


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(data, MAX_PROMPT + 1)
    except zlib.error:
        raise CodecError("the prompt is damaged") from None
    if not unpacker.eof or unpacker.unused_data:
        raise CodecError("the prompt is damaged")
    return text
