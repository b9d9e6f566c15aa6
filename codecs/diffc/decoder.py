"""From a segment's bytes to the next state of the chain.

`parse_segment` is the one place that knows what a segment looks like: the container asks it where a segment ends, the
decoder takes the payloads.  It needs no network, so a file is parsed alike on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import container
from ..base import CodecError, Header, Stream
from ..reverse_channel import CoderError, PayloadError
from .chain import CodedGroup, SharedChain, State
from .header import HeaderParams


@dataclass(frozen=True)
class ParsedStep:
    """A segment of a step, taken apart.

    target    timestep where the step ends
    groups    all groups of the step, with their budgets
    payloads  of those groups whose budget is not 0, in order
    size      bytes of the segment
    """

    target: int
    groups: list[CodedGroup]
    payloads: list[memoryview]
    size: int


def parse_segment(
    chain: SharedChain, header: Header, count: int, before: Sequence[bytes], data: bytes | memoryview
) -> ParsedStep:
    """The segment at the start of `data`, of `count` that the file announces, behind the segments `before`.

    A segment of a step in which nothing is sent may be empty.  Raises container.Truncated where `data` is too short to
    tell, CodecError where it makes no sense.
    """
    params, number = HeaderParams.from_bytes(header.params), len(before)
    if number >= len(chain.schedules[params.preset].timesteps):
        raise CodecError("it announces more steps than its preset has")
    partial = params.partial if number == count - params.lossless - 1 else 0
    step = chain.step(params, number, chain.prior.shape((header.height, header.width)), partial)
    codes, position = params.read_codes(before, data, len(step.groups))
    groups = step.coded_groups(codes)
    coder, view = params.make_coder(sum(one.bits for one in groups)), memoryview(data)
    payloads = []
    try:
        for one in groups:
            if one.bits:
                end = position + coder.payload_size(view[position:], one.group.size, one.bits, one.key)
                payloads.append(view[position:end])
                position = end
    except PayloadError as error:
        raise container.Truncated(str(error)) from error
    except CoderError as error:
        raise CodecError(str(error)) from error
    return ParsedStep(step.target, groups, payloads, position)


def receive_step(chain: SharedChain, stream: Stream, state: State) -> State:
    """The state after one more segment of `stream`, as the encoder had it; raises CodecError."""
    params, number = HeaderParams.from_bytes(stream.header.params), state.step
    try:
        parsed = parse_segment(
            chain, stream.header, stream.announced, stream.segments[:number], stream.segments[number]
        )
        sent = [one for one in parsed.groups if one.bits]
        samples = params.make_coder(sum(one.bits for one in sent)).decode_many(
            parsed.payloads, [one.group.size for one in sent], [one.bits for one in sent], [one.key for one in sent],
            like=state.z,
        )
    except (CoderError, CodecError) as error:
        raise CodecError(f"segment {number + 1} is damaged: {error}") from error
    channels, height, width = state.z.shape[1:]
    sample = chain.join(chain.subbands(params, (channels, height, width)), parsed.groups, samples)
    return chain.advance(state, chain.denoise(state), parsed.target, sample)
