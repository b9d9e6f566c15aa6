"""The file format: round trips, cuts at every byte, damage at every byte, random bytes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from diffpress.codecs import CodecError, Header, Stream, container


def stream(sizes: tuple[int, ...], codec: str = "uqdm", params: bytes = b"\x00") -> Stream:
    rng = random.Random(sum(sizes))
    return Stream(Header(codec, 37, 91, b"abcd", params), tuple(rng.randbytes(size) for size in sizes))


def read_or_none(data: bytes) -> Stream | None:
    """The stream, or None if the file was refused in a sentence."""
    try:
        return container.read(data)
    except CodecError as error:
        return None if str(error) else pytest.fail("an error without words")


class FixedSizes:
    """A codec whose segments are 40 bytes each, so that no lengths are stored."""

    @staticmethod
    def segment_size(header: Header, count: int, before: list[bytes], rest: memoryview) -> int:
        return 40


SIZES = [(), (0,), (5,), (300,), (10, 20, 30), (100, 100, 100, 100), (300, 5, 2000, 0, 1), (40000, 3)]


@pytest.mark.parametrize("sizes", SIZES)
def test_round_trip(sizes: tuple[int, ...]) -> None:
    original = stream(sizes)
    assert container.read(container.write(original)) == original


def test_bare_segments_cost_16_bytes_and_one_percent() -> None:
    for count in (1, 2, 10, 100):
        original = stream((40,) * count, "diffc", b"\x01\x02")
        data = container.write(original, FixedSizes)
        assert container.read(data, FixedSizes) == original
        assert len(data) - 40 * count <= 16 + 0.01 * 40 * count


def test_stored_lengths_cost_24_bytes_and_one_percent() -> None:
    for sizes in [(30, 60, 100, 200, 200, 60), (500, 900, 3000, 4000, 1000, 90)]:
        data = container.write(stream(sizes))
        assert len(data) - sum(sizes) <= 24 + 0.01 * sum(sizes)


@pytest.mark.parametrize("sizes", SIZES[2:7])
def test_cut_anywhere_gives_whole_segments_or_a_sentence(sizes: tuple[int, ...]) -> None:
    original = stream(sizes)
    data = container.write(original)
    best = 0
    for end in range(len(data)):
        found = read_or_none(data[:end])
        if found is None:
            continue
        assert found.segments == original.segments[: len(found.segments)]
        assert found.announced == len(sizes)
        assert "cut" in found.note
        assert len(found.segments) >= best
        best = len(found.segments)


@pytest.mark.parametrize("sizes", SIZES[2:6])
def test_flipped_bit_is_noticed_and_located(sizes: tuple[int, ...]) -> None:
    original = stream(sizes)
    data = container.write(original)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        try:
            found = container.read(bytes(broken))
        except container.DamagedFile as error:
            good = error.stream.segments
            located = "segment" in str(error) and good == original.segments[: len(good)]
        except CodecError as error:
            located = bool(str(error))
        else:
            # a damaged size in the last group looks like a cut file: then the note says so, and says what is unproven
            located = "no checksum vouches" in found.note or found.segments == original.segments[:-1]
        assert located, place


def test_damage_names_the_segment_and_keeps_the_good_ones() -> None:
    original = stream((300, 300, 300))
    data = bytearray(container.write(original))
    data[-10] ^= 4
    with pytest.raises(container.DamagedFile, match="segment 3 of 3") as caught:
        container.read(bytes(data))
    assert caught.value.stream.segments == original.segments[:2]
    assert caught.value.stream.announced == 3


def test_random_bytes_never_crash() -> None:
    rng = random.Random(0)
    for length in (*range(40), 100, 1000):
        for _ in range(50):
            with pytest.raises(CodecError):
                container.read(rng.randbytes(length))
            number = rng.choice([1, 2, 3])
            found = read_or_none(container.MAGIC + bytes([16 | number]) + rng.randbytes(length))
            # at most a cut file, or one without segments and a lucky checksum
            assert found is None or found.note or not found.segments


def test_image_size_is_limited_before_anything_is_allocated() -> None:
    huge = replace(stream((5,)), header=Header("uqdm", 1 << 30, 1 << 30, b"abcd", b"\x00"))
    with pytest.raises(CodecError, match="limit"):
        container.read(container.write(huge))
    assert container.peek(container.write(stream((5,))), max_pixels=37 * 91)[0].width == 91
    with pytest.raises(CodecError, match="limit"):
        container.peek(container.write(stream((5,))), max_pixels=37 * 91 - 1)


def test_newer_version_and_trailing_bytes_are_refused() -> None:
    data = bytearray(container.write(stream((5,))))
    with pytest.raises(CodecError, match="goes on for 3 bytes"):
        container.read(bytes(data) + b"xyz")
    data[2] += 16
    with pytest.raises(CodecError, match="format version 2"):
        container.read(bytes(data))
    with pytest.raises(container.NotOurFile):
        container.read(b"\x89PNG\r\n\x1a\n")
