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


def outcome(data: bytes) -> tuple[Stream | None, str]:
    """(stream, "") of a file, or (what could be had of it, why it was refused)."""
    try:
        return container.read(data), ""
    except container.DamagedFile as error:
        return error.stream if error.stream.segments else None, str(error)
    except CodecError as error:
        return None, str(error)


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


def test_small_files_cost_16_bytes_and_one_percent() -> None:
    for count in (1, 2, 10, 100):
        original = stream((40,) * count, "diffc", b"\x01\x02")
        data = container.write(original, FixedSizes)
        assert container.read(data, FixedSizes) == original
        assert len(data) - 40 * count <= 16 + 0.01 * 40 * count


def test_stored_lengths_cost_24_bytes_and_one_percent() -> None:
    for sizes in [(30, 60, 100, 200, 200, 60), (500, 900, 3000, 4000, 1000, 90)]:
        data = container.write(stream(sizes))
        assert len(data) - sum(sizes) <= 24 + 0.01 * sum(sizes)


@pytest.mark.parametrize("sizes", SIZES[2:])
def test_cut_anywhere_gives_whole_segments_or_a_sentence(sizes: tuple[int, ...]) -> None:
    original = stream(sizes)
    data = container.write(original)
    best, refusing = 0, True
    for end in range(0, len(data), 1 + len(data) // 3000):
        found, problem = outcome(data[:end])
        if found is None:
            assert not best
            continue
        if problem:  # no checksum vouches for the header: the caller decides
            assert refusing
            assert "cut before its first checksum" in problem
            assert "no checksum vouches" in found.note
        else:
            refusing = False
        assert found.segments == original.segments[: len(found.segments)]
        assert found.announced == len(sizes)
        assert "the file is cut" in found.note
        assert len(found.segments) >= best
        best = len(found.segments)


@pytest.mark.parametrize("sizes", SIZES[:7])
def test_flipped_bit_is_noticed_and_located(sizes: tuple[int, ...]) -> None:
    original = stream(sizes)
    data = container.write(original)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        with pytest.raises(CodecError) as caught:
            container.read(bytes(broken))
        assert "is cut" not in str(caught.value) or "or damaged" in str(caught.value)
        if isinstance(caught.value, container.DamagedFile):
            rest = caught.value.stream
            assert "segment" in str(caught.value) or "cut before its first checksum" in str(caught.value)
            assert "no checksum vouches" in rest.note or rest.segments == original.segments[: len(rest.segments)]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """As many bytes, one to six of them changed."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        broken[rng.randrange(len(broken))] ^= rng.randint(1, 255)
    return bytes(broken)


def test_damaged_file_of_full_length_is_never_called_cut() -> None:
    rng = random.Random(1)
    for sizes in SIZES[2:7]:
        data = container.write(stream(sizes))
        for broken in (mutated(data, rng) for _ in range(2000)):
            try:
                found = container.read(broken)
            except CodecError:
                continue
            assert broken == data or found.note == "", found.note  # a checksum of two bytes misses one in 65536


def test_files_of_version_1_are_read_and_only_what_a_checksum_vouches_for() -> None:
    original = stream((300, 5, 2000, 7))
    data = container.write(original)
    assert data[7:9] == bytes([len(data) - 13 & 127 | 128, len(data) - 13 >> 7])  # behind a header of 13 bytes
    head = container.MAGIC + b"\x12" + data[3:7] + data[9:13]
    groups = [b"\xac\x02" + original.segments[0], b"\x05" + original.segments[1] + b"\xd0\x0f" + original.segments[2],
              b"\x07" + original.segments[3]]  # fmt: skip
    old = head + b"".join(group + container._checksum(head, group) for group in groups)
    assert container.read(old) == original
    for end in range(len(old)):
        try:
            found = container.read(old[:end])
        except CodecError:
            continue
        assert "cut or damaged" in found.note
        assert len(found.segments) in (1, 3)  # whole groups
    rng = random.Random(2)
    for broken in (mutated(old, rng) for _ in range(2000)):
        try:
            found = container.read(broken)
        except CodecError:
            continue
        assert found.segments == original.segments[: len(found.segments)]


def test_attachments_come_back_and_are_lost_first() -> None:
    original = replace(stream((300, 40)), attachments=((1, b"plane"), (4, b"profile" * 30)))
    data = container.write(original)
    assert container.read(data) == original
    assert len(data) == len(container.write(stream((300, 40)))) + 2 + 5 + 3 + 210 + 4 + 0
    whole = len(container.write(stream((300, 40))))
    for end in range(whole, len(data)):
        found = container.read(data[:end])
        assert found.segments == original.segments
        assert "attached" in found.note
    for place in range(whole, len(data)):
        broken = bytearray(data)
        broken[place] ^= 64
        with pytest.raises(container.DamagedFile, match="behind its last segment") as caught:
            container.read(bytes(broken))
        assert caught.value.stream.segments == original.segments


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
            for version in (16, 32):
                found = read_or_none(container.MAGIC + bytes([version | number]) + rng.randbytes(length))
                assert found is None or not found.segments  # at most no segments and a lucky checksum


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
    with pytest.raises(CodecError, match="format version 3"):
        container.read(bytes(data))
    with pytest.raises(container.NotOurFile):
        container.read(b"\x89PNG\r\n\x1a\n")
