"""DiffC on a pixel prior: rate control, progression, exactness, sizes, damage."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpress.codecs import CodecError, container, get_codec
from diffpress.codecs.base import ModelMismatch
from diffpress.codecs.diffc.chain import State
from diffpress.codecs.diffc.codec import DiffC
from diffpress.codecs.diffc.decoder import receive_step
from diffpress.codecs.diffc.header import CODERS, Conditioning, find_schedules
from diffpress.codecs.diffc.reconstruction import reconstruct
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules import load_model
from helpers import ROOT, synthetic_photo


@pytest.fixture(scope="module")
def codec(tiny_prior: Path) -> DiffC:
    return DiffC(load_model(tiny_prior, device="cpu"))


def test_quality_rises_with_every_segment(codec: DiffC, photo: torch.Tensor) -> None:
    stream = codec.encode(photo)
    images = [codec.decode(stream, segments=k) for k in range(len(stream.segments) + 1)]
    prefixes = codec.decode_prefixes(stream, range(len(images)))
    assert all(torch.equal(a, b) for a, b in zip(images, prefixes, strict=True))
    qualities = [psnr(image, photo) for image in images]
    assert all(b > a for a, b in itertools.pairwise(qualities))
    assert qualities[-1] > 35


def test_several_images_give_the_files_of_single_ones(codec: DiffC) -> None:
    """Of two sizes, so that not all share the network's calls, with groups of subbands and without."""
    images = [synthetic_photo(48, 64), synthetic_photo(16, 16), synthetic_photo(48, 64, seed=1)]
    for image, stream in zip(images, codec.encode_batch(images, bpp=2.0), strict=True):
        alone = codec.encode(image, bpp=2.0)
        assert stream.header == alone.header
        assert [len(segment) for segment in stream.segments] == [len(segment) for segment in alone.segments]
        assert psnr(codec.decode(stream), image) == pytest.approx(psnr(codec.decode(alone), image), abs=0.1)


@pytest.mark.parametrize("coder", ["trellis", "trellis-quick", "pfr"])
def test_file_restores_the_encoders_stream(tiny_prior: Path, photo: torch.Tensor, coder: str) -> None:
    codec = DiffC(load_model(tiny_prior, device="cpu"), coder=coder)
    stream = codec.encode(photo, segments=3)
    data = container.write(stream, codec)
    assert container.read(data, codec) == stream
    assert len(data) - stream.payload_bits // 8 <= 16 + 0.01 * stream.payload_bits / 8
    assert psnr(codec.decode(stream), photo) > psnr(codec.decode(stream, segments=1), photo) + 1


@pytest.mark.parametrize("bpp", [0.3, 1.0, 4.0])
def test_rate_is_met_from_below(codec: DiffC, photo: torch.Tensor, bpp: float) -> None:
    data = container.write(codec.encode(photo, bpp=bpp), codec)
    rate = 8 * len(data) / (photo.shape[1] * photo.shape[2])
    assert 0.85 * bpp - 8 * 8 / photo[0].numel() <= rate <= bpp


def test_same_image_same_file(codec: DiffC, photo: torch.Tensor) -> None:
    assert container.write(codec.encode(photo, bpp=1.0), codec) == container.write(codec.encode(photo, bpp=1.0), codec)


@pytest.mark.parametrize("size", [(1, 1), (37, 91), (65, 64), (300, 2)])
def test_lossless_behind_steps_at_any_size(codec: DiffC, size: tuple[int, int]) -> None:
    image = synthetic_photo(*size)
    stream = codec.encode(image, lossless=True, segments=4)
    assert len(stream.segments) == 5
    found = container.read(container.write(stream, codec), codec)
    assert torch.equal(codec.decode(found), image)
    assert codec.decode(found, segments=2).shape == image.shape
    second, last = codec.decode_prefixes(found, [2, len(found.segments)])
    assert torch.equal(last, image)
    assert torch.equal(second, codec.decode(found, segments=2))
    # a prefix as a file of its own has forgotten that it once ended losslessly
    file = container.write(codec.prefix(found, 2), codec)
    assert torch.equal(second, codec.decode(container.read(file, codec)))
    assert len(file) < len(container.write(found, codec))
    assert codec.prefix(found, len(found.segments)) == found


def test_ensemble_averages_the_orientations() -> None:
    """It does not know which way up the latent lies, and its error is below that of a single estimate."""
    codec, photo = DiffC(load_model("diffc-pixel", device="cpu")), synthetic_photo(96, 128)
    stream = codec.encode(photo, bpp=1.0)
    assert codec.reconstruction_of(codec.preset) == "ensemble"
    assert psnr(codec.decode(stream), photo) > psnr(codec.decode(stream, reconstruction="mse"), photo)
    z = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    upright, turned = (
        reconstruct(codec.chain, State(latent, 400), "ensemble", 1)
        for latent in (z, z.rot90(1, (-2, -1)).flip(-1))
    )
    torch.testing.assert_close(upright.rot90(1, (-2, -1)).flip(-1), turned, atol=1e-4, rtol=0)


def test_a_smaller_ensemble_is_between_one_estimate_and_all() -> None:
    codec, photo = DiffC(load_model("diffc-pixel-2", device="cpu")), synthetic_photo(96, 128)
    assert [codec.orientations_of(number) for number in range(3)] == [2, 4, 8]
    stream, state = codec.encode(photo, bpp=1.0), codec.chain.start((96, 128), Conditioning())
    for _ in stream.segments:
        state = receive_step(codec.chain, stream, state)
    one, four = (reconstruct(codec.chain, state, "ensemble", 1, count) for count in (1, 4))
    assert torch.equal(one, reconstruct(codec.chain, state, "mse", 1))
    assert torch.equal(codec.decode(stream), codec.prior.decode(four, (96, 128))[0])
    assert psnr(codec.decode(stream), photo) > psnr(codec.decode(stream, reconstruction="mse"), photo)


def test_fast_preset_saves_time_on_both_sides(tiny_prior: Path) -> None:
    prior = load_model(tiny_prior, device="cpu")
    one = find_schedules(prior)[0][0]
    presets = [replace(one, name="fast"), one]
    codecs = [DiffC(prior, preset=preset.name, schedules=presets) for preset in presets]
    assert [list(CODERS)[codec.coder] for codec in codecs] == ["trellis-quick", "trellis"]
    assert [codecs[1].reconstruction_of(number) for number in (0, 1)] == ["mse", "ensemble"]


@pytest.mark.parametrize("how", ["flow", "ancestral"])
def test_other_reconstructions_are_repeatable(codec: DiffC, photo: torch.Tensor, how: str) -> None:
    stream = codec.encode(photo, segments=3)
    first = codec.decode(stream, reconstruction=how)
    assert torch.equal(first, codec.decode(stream, reconstruction=how))
    assert not torch.equal(first, codec.decode(stream, reconstruction="mse"))
    assert psnr(first, photo) > 10


def test_cut_file_decodes_to_its_whole_segments(codec: DiffC, photo: torch.Tensor) -> None:
    stream = codec.encode(photo, bpp=2.0)  # ends with a partial step, which a cut must not move to another segment
    data = container.write(stream, codec)
    for end in range(20, len(data), 97):
        if end < len(container.write(replace(stream, segments=stream.segments[:1]), codec)) - 2:
            with pytest.raises(CodecError, match="cut"):
                container.read(data[:end], codec)
            continue
        try:
            found = container.read(data[:end], codec)
        except container.DamagedFile as error:  # no checksum vouches for the header: the user decides
            found = error.stream
        whole = len(found.segments)
        assert torch.equal(codec.decode(found), codec.decode(stream, segments=whole))


def test_fresh_process_decodes_bit_identically(tiny_prior: Path, photo: torch.Tensor, tmp_path: Path) -> None:
    codec = get_codec("diffc", model=load_model(tiny_prior, device="cpu"))
    stream = codec.encode(photo, bpp=1.0)
    (tmp_path / "photo.dfc").write_bytes(container.write(stream, codec))
    command = [sys.executable, ROOT / "decompress.py", tmp_path / "photo.dfc", "-o", tmp_path / "out.png"]
    subprocess.run([*command, "--model", tiny_prior, "--device", "cpu"], check=True, cwd=tmp_path)
    from diffpress.data import read_image

    assert torch.equal(read_image(tmp_path / "out.png"), codec.decode(stream))


def test_foreign_model_is_named(codec: DiffC, photo: torch.Tensor) -> None:
    stream = codec.encode(photo, segments=1)
    foreign = replace(stream, header=replace(stream.header, fingerprint=b"\x01\x02\x03\x04"))
    with pytest.raises(ModelMismatch, match="01020304") as caught:
        codec.decode(foreign)
    assert codec.fingerprint.hex() in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bpp": -1.0}, "positive"),
        ({"bpp": 1e-6}, "too little"),
        ({"segments": 0}, "between"),
        ({"segments": 99}, "between"),
    ],
)
def test_bad_requests_are_sentences(codec: DiffC, photo: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec.encode(photo, **options)


def test_bad_images_and_options_are_sentences(codec: DiffC, tiny_prior: Path) -> None:
    with pytest.raises(CodecError, match="uint8"):
        codec.encode(torch.zeros(3, 8, 8))
    with pytest.raises(CodecError, match="at least one pixel"):
        codec.encode(torch.zeros(3, 0, 8, dtype=torch.uint8))
    model = load_model(tiny_prior, device="cpu")
    for wrong in ({"coder": "none"}, {"preset": "none"}, {"reconstruction": "none"}):
        with pytest.raises(CodecError, match="unknown"):
            get_codec("diffc", model=model, **wrong)


def test_lossless_alone_asks_the_network_for_nothing(
    codec: DiffC, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec.prior, "denoise", None)
    stream = codec.encode(photo, lossless=True)
    assert len(stream.segments) == 1
    assert torch.equal(codec.decode(container.read(container.write(stream, codec), codec)), photo)
    monkeypatch.undo()
    assert codec.decode(stream, segments=0).shape == photo.shape
    whole = codec.encode(photo, lossless=True, bpp=2.0)
    lossy = container.write(codec.prefix(whole, len(whole.segments) - 1), codec)
    assert 1.5 < 8 * len(lossy) / photo[0].numel() <= 2
    assert torch.equal(codec.decode(container.read(container.write(whole, codec), codec)), photo)


@pytest.mark.parametrize("threads", [(1, 2), (2, 1)])
def test_lossless_files_decode_with_any_number_of_threads(threads: tuple[int, int]) -> None:
    codec, image = DiffC(load_model("diffc-pixel", device="cpu"), preset="fast"), synthetic_photo(96, 128)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads[0])
        stream = codec.encode(image, lossless=True, segments=5)
        torch.set_num_threads(threads[1])
        assert torch.equal(codec.decode(stream), image)
        images = codec.decode_prefixes(stream, [2, len(stream.segments)])
        next(images)
        assert torch.get_num_threads() == threads[1]
        assert torch.equal(next(images), image)
    finally:
        torch.set_num_threads(before)
