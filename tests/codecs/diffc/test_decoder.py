"""The one parser of segments: container and decoder read the same, and it notices an end that comes too early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpress.codecs import CodecError, Header, Stream, container
from diffpress.codecs.diffc.chain import NO_BITS
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.diffc.decoder import parse_segment, receive_step
from diffpress.codecs.diffc.header import Conditioning, HeaderParams
from diffpress.lightning_modules import load_model
from helpers import synthetic_photo


@pytest.mark.parametrize(("coder", "side"), [("trellis", 16), ("trellis", 64), ("pfr", 16)])
def test_segments_are_found_one_behind_the_other(tiny_prior: Path, coder: str, side: int) -> None:
    """Small files have one budget for all groups, larger ones a budget for each."""
    codec = DiffC(load_model(tiny_prior, device="cpu"), coder=coder)
    stream = codec.encode(synthetic_photo(side, side), segments=3)
    data = b"".join(stream.segments)
    for number, segment in enumerate(stream.segments):
        before = stream.segments[:number]
        parsed = parse_segment(codec.chain, stream.header, 3, before, data)
        assert parsed.size == len(segment) == codec.segment_size(stream.header, 3, before, memoryview(data))
        assert parsed.target == codec.schedules[codec.preset].timesteps[number]
        assert len(parsed.payloads) == sum(one.bits > 0 for one in parsed.groups)
        assert segment.endswith(b"".join(parsed.payloads))
        data = data[parsed.size :]
    assert not data


def test_a_segment_that_ends_too_early(tiny_prior: Path) -> None:
    codec = DiffC(load_model(tiny_prior, device="cpu"), coder="pfr")
    stream = codec.encode(synthetic_photo(16, 16), segments=2)
    for end in (0, 1):
        with pytest.raises(container.Truncated):
            parse_segment(codec.chain, stream.header, 2, (), stream.segments[0][:end])
    cut = replace(stream, segments=(stream.segments[0], stream.segments[1][:-1]))
    with pytest.raises(CodecError, match="segment 2 is damaged"):
        codec.decode(cut)
    assert torch.equal(codec.decode(cut, segments=1), codec.decode(stream, segments=1))


def test_a_step_in_which_nothing_is_sent(tiny_prior: Path) -> None:
    """Its segment is empty, and its sample is the noise that both sides share."""
    codec = DiffC(load_model(tiny_prior, device="cpu"))
    params = HeaderParams(codec.preset, codec.coder, group_budgets=False, lossless=False)
    header = Header("diffc", 16, 16, codec.fingerprint, params.to_bytes())
    silent = Stream(header, (bytes([NO_BITS]), b""))
    assert container.read(container.write(silent, codec), codec) == silent
    state = codec.chain.start((16, 16), Conditioning())
    for step in range(2):
        x_hat = codec.chain.denoise(state)
        target = codec.schedules[codec.preset].timesteps[step]
        after = receive_step(codec.chain, silent, state)
        expected = codec.chain.advance(state, x_hat, target, codec.chain.noise(step, x_hat.numel()))
        assert torch.equal(after.z, expected.z)
        state = after


def test_more_segments_than_steps_are_refused(tiny_prior: Path) -> None:
    codec = DiffC(load_model(tiny_prior, device="cpu"))
    stream = codec.encode(synthetic_photo(16, 16))
    with pytest.raises(CodecError, match="more steps than its preset has"):
        parse_segment(codec.chain, stream.header, 7, stream.segments, b"more")
