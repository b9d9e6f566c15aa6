"""What every codec is: an image in, a progressive stream out, and back.

A :class:`Stream` is what the container (container.py) writes to disk: a small header and a list of segments, each one
refinement step.  Codecs know no file names; the CLIs know no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch


class CodecError(ValueError):
    """A stream or image that a codec cannot handle; its message is one sentence meant for the user."""


class ModelMismatch(CodecError):
    """The stream was written with another model than the one loaded."""


@dataclass(frozen=True)
class Header:
    """What a decoder must know before the first segment.

    codec        registry name of the codec that wrote the stream
    height       image height in pixels
    width        image width in pixels
    fingerprint  first 4 bytes of the SHA-256 over configuration, weights and calibration; b"" where there is no model
    params       codec-specific bytes (coder id, rate index, ...), at most 255
    """

    codec: str
    height: int
    width: int
    fingerprint: bytes = b""
    params: bytes = b""


@dataclass(frozen=True)
class Stream:
    """An encoded image: a header and its segments, in the order in which they refine the image.

    `total` is the number of segments the file announces when it holds fewer because it was cut; `note` then says what
    is missing.  Neither is written.  `native` marks a complete file of a foreign format (JPEG, PNG, ...) that gets no
    container around it.  `attachments` are what goes with the picture, (kind, bytes) each: attachments.py.
    """

    header: Header
    segments: tuple[bytes, ...]
    native: bool = False
    total: int | None = None
    note: str = field(default="", compare=False)
    attachments: tuple[tuple[int, bytes], ...] = ()

    @property
    def announced(self) -> int:
        """Number of segments of the whole stream, missing ones included."""
        return len(self.segments) if self.total is None else self.total

    @property
    def payload_bits(self) -> int:
        """Bits of all segments, without header and checksums."""
        return 8 * sum(map(len, self.segments))


@dataclass(frozen=True)
class IdealPoint:
    """What an ideal coder would reach with `segments` steps: KL in `bits`, without a header, and uint8 [3, H, W]."""

    segments: int
    bits: float
    image: torch.Tensor


@runtime_checkable
class Codec(Protocol):
    """An image codec.  `name` is its registry name, `suffix` the file suffix it writes, dot included.

    What only some codecs can do is in the protocols below; ask with isinstance.
    """

    name: str
    suffix: str

    def encode(self, image: torch.Tensor, **options: Any) -> Stream:
        """Encode a uint8 image [3, H, W] (RGB, 0..255)."""
        ...

    def decode(self, stream: Stream, *, segments: int | None = None) -> torch.Tensor:
        """uint8 [3, H, W] from the first `segments` segments (None: all).  Raises CodecError."""
        ...


@runtime_checkable
class Progressive(Protocol):
    """A codec that makes complete files of a stream's first segments and decodes many of them in one pass."""

    @property
    def max_segments(self) -> int:
        """Segments of its longest streams."""
        ...

    def prefix(self, stream: Stream, segments: int) -> Stream:
        """A complete stream of the first `segments` segments, at least one, as if `encode` had stopped there."""
        ...

    def decode_prefixes(
        self, stream: Stream, counts: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> Iterator[torch.Tensor]:
        """uint8 [3, H, W] after each of the ascending numbers of segments `counts`, decoded one by one as asked for.

        progress  called with (done, of) after each segment, so that a clock can tell what an image itself takes
        """
        ...


@runtime_checkable
class SelfDelimiting(Protocol):
    """A codec whose segments tell their own size, so that a file need not store lengths."""

    def segment_size(self, header: Header, count: int, before: Sequence[bytes], rest: memoryview) -> int:
        """Bytes of the segment at the start of `rest`, of `count` announced ones, behind the segments `before`.

        Raises container.Truncated where `rest` is too short to tell, CodecError where it makes no sense.
        """
        ...


@runtime_checkable
class Lossless(Protocol):
    """A codec that may have a lossless mode: `lossless` says whether it has, with the model it was given."""

    @property
    def lossless(self) -> bool:
        """Whether all segments of a lossless stream give the original back."""
        ...


@runtime_checkable
class Estimating(Protocol):
    """A codec whose model says what a file should take."""

    def measure(self, image: torch.Tensor) -> tuple[Stream, list[float]]:
        """The whole stream of uint8 `image` [3, H, W], and the model's estimate for each segment, in bits."""
        ...


@runtime_checkable
class IdealCoding(Protocol):
    """A codec that can say what its files would be if an ideal coder wrote them."""

    def ideal_curve(self, image: torch.Tensor, segments: Sequence[int], *, lossless: bool = False) -> list[IdealPoint]:
        """Points for uint8 `image` [3, H, W] after ascending numbers of steps; of a lossless file's prefixes or not."""
        ...


def check_image(image: torch.Tensor) -> torch.Tensor:
    """`image` itself if it is a uint8 [3, H, W] tensor with at least one pixel; raises CodecError otherwise."""
    if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise CodecError("an image must be a uint8 tensor of shape [3, H, W]")
    if image.shape[1] == 0 or image.shape[2] == 0:
        raise CodecError("an image must have at least one pixel")
    return image


def check_model(header: Header, codec: str, fingerprint: bytes) -> None:
    """Raise unless the stream with `header` was written by `codec` with the model of that fingerprint."""
    if header.codec != codec:
        raise CodecError(f"this is a {header.codec} stream, not one of {codec}")
    if header.fingerprint != fingerprint:
        raise ModelMismatch(
            f"the file was written with model {header.fingerprint.hex()}, but the model loaded is {fingerprint.hex()}"
        )
