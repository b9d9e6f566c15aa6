"""What goes with a picture: transparency and metadata to the last bit, and limits on what a file may ask for."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
import torch

from diffpress.codecs import CodecError, Header, Stream, attachments, container
from diffpress.codecs.attachments import MAX_METADATA, alpha_of, attach, metadata_of

STREAM = Stream(Header("uqdm", 40, 56, b"abcd", b"\x00"), (b"segment",))
PLANES = {
    "opaque left half": torch.cat([torch.full((40, 28), 255), torch.zeros(40, 28)], 1).byte(),
    "ramp": torch.arange(56).repeat(40, 1).byte() * 4,
    "falling ramp": 255 - torch.arange(40)[:, None].repeat(1, 56).byte() * 6,
    "noise": torch.randint(0, 256, (40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", PLANES)
def test_everything_comes_back(name: str) -> None:
    metadata = {"icc": b"profile" * 100, "exif": b"Exif\0\0MM", "xmp": b""}
    stream = container.read(container.write(attach(STREAM, PLANES[name], metadata)))
    found = alpha_of(stream)
    assert found is not None
    assert torch.equal(found, PLANES[name])
    assert metadata_of(stream) == metadata
    size = len(dict(stream.attachments)[attachments.ALPHA])
    assert size < (60 if name != "noise" else 40 * 56 + 12), size
    assert alpha_of(STREAM) is None
    assert metadata_of(STREAM) == {}


def test_planes_are_predicted_as_specified() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    errors = packer.compress(bytes([1, 1, 1, 255, 2, 0])) + packer.flush()
    small = replace(STREAM, header=replace(STREAM.header, height=2, width=3))
    for how, expected in enumerate([[[1, 1, 1], [255, 2, 0]], [[1, 2, 3], [255, 1, 1]], [[1, 1, 1], [0, 3, 1]]]):
        found = alpha_of(replace(small, attachments=((1, bytes([how]) + errors),)))
        assert found is not None
        assert found.tolist() == expected


def test_bombs_and_damage_are_refused() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(MAX_METADATA + 1)) + packer.flush()  # 16 kB that become 16 MB
    assert len(bomb) < 20_000
    for data in (bomb, b"", b"\xff\xff", bomb[:50]):
        with pytest.raises(CodecError, match="EXIF in the file is damaged"):
            metadata_of(replace(STREAM, attachments=((2, data),)))
        for how in (b"", b"\x00", b"\x07"):
            with pytest.raises(CodecError, match="transparency in the file is damaged"):
                alpha_of(replace(STREAM, attachments=((1, how + data),)))
    with pytest.raises(CodecError, match="over the limit"):
        attach(STREAM, None, {"exif": bytes(MAX_METADATA + 1)})
    assert metadata_of(replace(STREAM, attachments=((77, b"of a later writer"),))) == {}
