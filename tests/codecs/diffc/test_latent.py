"""DiffC over latent priors, end to end through the command lines, on small pipelines with random weights."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import save_random_pipeline
from safetensors.torch import load_file
from torch import Tensor

from diffpress import resource
from diffpress.codecs import CodecError, container, get_codec
from diffpress.codecs.base import ModelMismatch
from diffpress.codecs.diffc.chain import SharedChain, State
from diffpress.codecs.diffc.header import DICTIONARY, Conditioning, HeaderParams
from diffpress.codecs.diffc.ideal import autoencoder_bound, ideal_curve
from diffpress.codecs.reverse_channel import get_coder
from diffpress.commands.compress import main as compress
from diffpress.commands.decompress import main as decompress
from diffpress.data import read_image, save_image
from diffpress.lightning_modules import load_model
from helpers import synthetic_photo

MODELS = ["sd15", "sd21", "sdxl", "sdxl_refiner", "flux", "sd3"]
CAPTION = "a photo of a red door in front of a house"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    kinds = ["sd15", "sd21", "sdxl", "sdxl-refiner", "flux", "sd3"]
    return {kind: save_random_pipeline(kind, root / kind) for kind in kinds}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures, one of odd size."""
    folder = tmp_path_factory.mktemp("photos")
    save_image(synthetic_photo(64, 64), folder / "parrots.png")
    save_image(synthetic_photo(53, 87, seed=1), folder / "caps.png")
    return folder


def options(folders: dict[str, Path], name: str) -> list[str]:
    words = ["--config", str(resource(f"configs/diffc/{name}.yaml")), "--device", "cpu", "--offload", "none"]
    words += ["--model", str(folders[name.split("_")[0]])]
    return words + (["--refiner", str(folders["sdxl-refiner"])] if name == "sdxl_refiner" else [])


def codec_of(folders: dict[str, Path], kind: str, **settings: Any) -> Any:
    settings = {"preset": 12, "flow_steps": 3} | settings
    return get_codec("diffc", model=load_model(folders[kind], device="cpu"), **settings)


@pytest.fixture(scope="module")
def sd15(folders: dict[str, Path]) -> Any:
    return codec_of(folders, "sd15")


@pytest.fixture
def watched_states(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The latents of every chain that runs in this process from now on, one after each step."""
    states: list[Tensor] = []
    advance = SharedChain.advance

    def watched(chain: SharedChain, state: State, x_hat: Tensor, target: int, sample: Tensor) -> State:
        after = advance(chain, state, x_hat, target, sample)
        states.append(after.z)
        return after

    monkeypatch.setattr(SharedChain, "advance", watched)
    return states


def crop_of(photos: Path, name: str = "parrots") -> Tensor:
    return read_image(photos / f"{name}.png")


@pytest.mark.parametrize("name", MODELS)
def test_command_lines_reproduce_the_encoders_latent(
    name: str, folders: dict[str, Path], photos: Path, tmp_path: Path, watched_states: list[Tensor]
) -> None:
    """compress.py, then decompress.py: every latent of the decoder's chain equals the encoder's, sizes add up."""
    one = str(photos / "parrots.png")
    arguments = [*options(folders, name), "--output_dir", str(tmp_path)]
    assert compress([one, *arguments, "--preset", "12"]) == 0
    sent = watched_states[-12:]  # a small image has a dry run before
    watched_states.clear()
    assert decompress([str(tmp_path / "parrots.dfc"), *arguments, "--flow-steps", "2"]) == 0
    assert len(watched_states) == 12
    for mine, theirs in zip(watched_states, sent, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert read_image(tmp_path / "parrots.png").shape == (3, 64, 64)
    refiner = {"refiner": folders["sdxl-refiner"]} if name == "sdxl_refiner" else {}
    codec = get_codec("diffc", model=load_model(folders[name.split("_")[0]], device="cpu", **refiner),
                      schedule=name.split("_")[0])  # fmt: skip
    data = (tmp_path / "parrots.dfc").read_bytes()
    assert_size_is_the_schedules(codec, data)


def assert_size_is_the_schedules(codec: Any, data: bytes) -> None:
    """Every payload has the bytes that the calibrated KL and the file's budget code announce, without any network."""
    stream = container.read(data, codec)
    params = HeaderParams.from_bytes(stream.header.params)
    assert not params.group_budgets
    _, front = params.read_codes((), stream.segments[0], 1)
    codes = stream.segments[0][front - 1 : front]
    shape, total = codec.prior.shape((stream.header.height, stream.header.width)), front
    for number, whole in enumerate(stream.segments):
        (coded,) = codec.chain.step(params, number, shape).coded_groups(codes)
        segment = whole[front if number == 0 else 0 :]
        size = get_coder("trellis").payload_size(segment, math.prod(shape), coded.bits, number)
        assert size == len(segment)  # what is sent is exactly what the schedule announces
        assert 8 * size == pytest.approx(coded.bits, rel=0.15, abs=24)  # the trellis needs more where d is small
        total += size
    assert sum(map(len, stream.segments)) == total
    assert len(data) - total <= 16 + 0.01 * total  # header and checksums


DECOMPRESS_AND_KEEP_STATES = """
import sys
from safetensors.torch import save_file
from diffpress.codecs.diffc.chain import SharedChain
from diffpress.commands.decompress import main

states, advance = {}, SharedChain.advance

def watched(*given):
    after = advance(*given)
    states[f"{len(states):02d}"] = after.z.contiguous()
    return after

SharedChain.advance = watched
status = main(sys.argv[2:])
save_file(states, sys.argv[1])
raise SystemExit(status)
"""


@pytest.mark.parametrize("name", ["sd15", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[1:])])
def test_fresh_process_decodes_the_same_latent_and_image(
    name: str, folders: dict[str, Path], photos: Path, tmp_path: Path, watched_states: list[Tensor]
) -> None:
    arguments = [*options(folders, name), "--output_dir", str(tmp_path)]
    assert compress([str(photos / "caps.png"), *arguments, "--preset", "12", "--prompt", CAPTION]) == 0
    sent = watched_states[-12:]
    file = str(tmp_path / "caps.dfc")
    assert decompress([file, *arguments, "--flow-steps", "2"]) == 0
    here = read_image(tmp_path / "caps.png")
    other = [*arguments[:-1], str(tmp_path / "other"), "--flow-steps", "2"]
    command = [sys.executable, "-c", DECOMPRESS_AND_KEEP_STATES, str(tmp_path / "states.safetensors"), file, *other]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    received = load_file(tmp_path / "states.safetensors")
    assert len(received) == 12
    for mine, (_, theirs) in zip(sent, sorted(received.items()), strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=1e-4)
    there = read_image(tmp_path / "other" / "caps.png")
    assert int((here.int() - there.int()).abs().max()) <= 1
    assert here.shape == (3, 53, 87)


def test_prompts_and_guidance_travel_in_the_file(folders: dict[str, Path], photos: Path) -> None:
    image = crop_of(photos)
    codec = codec_of(folders, "sd15", guidance=3.0, denoising_guidance=1.5)
    plain, guided = codec_of(folders, "sd15").encode(image), codec.encode(image, prompt=CAPTION)
    conditioning = Conditioning(CAPTION, 3.0, 1.5)
    assert guided.segments[0].startswith(conditioning.to_bytes())
    assert plain.header.params[0] & 128 == 0
    data = container.write(guided, codec)
    decoder = codec_of(folders, "sd15")  # knows nothing of the encoder's settings
    decoded = decoder.decode(container.read(data, decoder))
    assert torch.equal(decoded, codec.decode(guided))
    other_guidance = codec_of(folders, "sd15", denoising_guidance=6.0).decode(guided)
    assert not torch.equal(decoded, other_guidance)
    x_hats = [codec_of(folders, "sd15", reconstruction="mse", **more).decode(guided, segments=1) for more in (
        {}, {"guidance": 5.0}, {"denoising_guidance": 1.5})]  # fmt: skip
    assert torch.equal(x_hats[0], x_hats[1])  # the decoder's own encoding scale plays no part
    assert torch.equal(x_hats[0], x_hats[2])
    start = len(data) - len(b"".join(guided.segments)) - 2
    for length in range(start, start + len(conditioning.to_bytes()) + 1):  # cut inside the prompt
        with pytest.raises(CodecError, match="cut before the end of its first segment"):
            container.read(data[:length], decoder)
    for length in range(start + len(guided.segments[0]), len(data), 29):
        try:
            note = container.read(data[:length], decoder).note
        except container.DamagedFile as error:
            note = error.stream.note
        assert "the file is cut" in note


def test_conditioning_costs_what_it_says() -> None:
    assert Conditioning().to_bytes() == b""
    for one in (Conditioning(CAPTION), Conditioning("", 2.0), Conditioning("", 1.0, 4.5),
                Conditioning("Zürich, 日本", 0.0, 31.875), Conditioning("x" * 4096)):  # fmt: skip
        data = one.to_bytes()
        assert Conditioning.from_bytes(data + b"rest") == (one, len(data))
        for length in range(len(data)):
            with pytest.raises(CodecError):
                Conditioning.from_bytes(data[:length])
    assert len(Conditioning(CAPTION).to_bytes()) <= 0.6 * len(CAPTION)
    assert len(DICTIONARY) < 1 << 15  # within deflate's window
    for wrong in ({"prompt": "x" * 4097}, {"guidance": 0.3}, {"guidance": 32.0}, {"denoising_guidance": -1.0}):
        with pytest.raises(CodecError):
            Conditioning(**wrong)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="damaged"):
        Conditioning.from_bytes(b"\x03\x04abcd")
    with pytest.raises(CodecError, match="damaged"):
        Conditioning.from_bytes(b"\x01\x02\xff\xff")


def test_batch_gives_the_files_of_single_images(sd15: Any, photos: Path) -> None:
    images = [crop_of(photos), crop_of(photos, "caps"), crop_of(photos).flip(2)]
    prompts = ["a boat", "", "a door"]
    streams = sd15.encode_batch(images, prompts=prompts, segments=6)
    for image, prompt, stream in zip(images, prompts, streams, strict=True):
        alone = sd15.encode(image, prompt=prompt, segments=6)
        assert [len(segment) for segment in stream.segments] == [len(segment) for segment in alone.segments]
        difference = sd15.decode(stream).int() - sd15.decode(alone).int()
        assert float(difference.abs().float().mean()) < 1


def test_rate_limit_and_prefixes(sd15: Any, photos: Path) -> None:
    image = crop_of(photos)
    stream = sd15.encode(image, bpp=0.5)
    assert 200 < len(container.write(stream, sd15)) <= 256
    assert sd15.decode(stream, segments=2).shape == image.shape
    with pytest.raises(CodecError, match="no lossless mode"):
        sd15.encode(image, lossless=True)
    with pytest.raises(CodecError, match="too little"):
        sd15.encode(image, bpp=0.01)


def test_fingerprint_covers_weights_and_schedule(folders: dict[str, Path], sd15: Any, photos: Path) -> None:
    other = codec_of(folders, "sd15", schedule="flux")
    assert len({sd15.fingerprint, other.fingerprint, codec_of(folders, "sd21").fingerprint}) == 3
    stream = sd15.encode(crop_of(photos), segments=1)
    with pytest.raises(ModelMismatch, match=f"{sd15.fingerprint.hex()}.*{other.fingerprint.hex()}"):
        other.decode(stream)
    with pytest.raises(ValueError, match="no schedule 'nothing'"):
        codec_of(folders, "sd15", schedule="nothing")
    with pytest.raises(CodecError, match=r"unknown preset '13'.*12, 20, 54, 163"):
        codec_of(folders, "sd15", preset=13)
    assert sd15.reconstruction_of(sd15.preset) == "flow"
    assert codec_of(folders, "sd15", preset=None).schedules[-1].name == "163"


def test_captions_file(
    folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("parrots.png\ta photo of two birds\n")
    arguments = [*options(folders, "sd15"), "--image_dir", str(photos), "--preset", "12", "--bpp", "0.5"]
    assert compress([*arguments, "--captions", str(captions), "-o", str(tmp_path / "out")]) == 1
    assert "caps.png: " in capsys.readouterr().err  # which has no caption; the other one is written
    codec = codec_of(folders, "sd15", schedule="sd15")
    stream = container.read((tmp_path / "out" / "parrots.dfc").read_bytes(), codec)
    assert Conditioning.from_bytes(stream.segments[0])[0] == Conditioning("a photo of two birds")
    captions.write_text("no tab here\n")
    assert compress([*arguments, "--captions", str(captions), "-o", str(tmp_path / "none")]) == 2
    assert "expected a name, a tab and a caption" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    (["--model", "nobody/nothing", "--local-files-only"], "not in the local cache"),
    (["--model", "nosuchfolder"], "no model folder"),
    (["--schedule", "nothing"], "no schedule 'nothing'"),
    (["--guidance", "2.05"], "multiple of 1/8"),
    (["--lossless"], "no lossless mode"),
    (["--codec", "webp", "--prompt", "x"], "does not apply"),
])  # fmt: skip
def test_mistakes_are_one_sentence_and_a_non_zero_exit(
    words: list[str], message: str, folders: dict[str, Path], photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(photos / "caps.png"), "-o", str(tmp_path)]
    given += [] if "--codec" in words else ["--device", "cpu", "--preset", "12", "--model", str(folders["sd15"])]
    assert compress([*given, *words]) > 0
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_image_smaller_than_the_model_takes(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(torch.zeros(3, 10, 40, dtype=torch.uint8), tmp_path / "small.png")
    assert compress([str(tmp_path / "small.png"), "--model", str(folders["sd15"]), "-o", str(tmp_path / "out")]) == 1
    assert "a 40 x 10 image is smaller than the 16 x 16 pixels this model takes" in capsys.readouterr().err


def test_hypothetical_curve_counts_kl_and_draws_samples(sd15: Any, photos: Path) -> None:
    image = crop_of(photos)
    points = ideal_curve(sd15, image, segments=[3, 8])
    assert [point.segments for point in points] == [3, 8]
    assert 0 < points[0].bits < points[1].bits
    assert points[0].image.shape == image.shape
    assert torch.equal(ideal_curve(sd15, image, segments=[3])[0].image, points[0].image)
    prior = sd15.prior
    assert torch.equal(autoencoder_bound(prior, image), prior.decode(prior.encode(image[None]), (64, 64))[0])
    with pytest.raises(ValueError, match="between 1 and 12"):
        ideal_curve(sd15, image, segments=[13])


def test_every_configuration_parses() -> None:
    from diffpress.commands.compress import parser as compress_parser
    from diffpress.commands.decompress import parser as decompress_parser

    for file in sorted(resource("configs/diffc").glob("*.yaml")):
        if file.stem == "predict":
            continue  # for train.py: tests/lightning_modules/test_diffc_module.py
        for make in (compress_parser, decompress_parser):
            given = make().parse_args(["--config", str(file)])
            assert resource(f"configs/diffc/{given.schedule}.json").is_file()
            assert "/" in given.model


def test_nothing_is_unpickled(folders: dict[str, Path], tmp_path: Path) -> None:
    """Weights of the old kind are not even looked at."""
    copy = tmp_path / "copy"
    shutil.copytree(folders["sd15"], copy)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, buffer)
    weights.with_suffix(".bin").write_bytes(buffer.getvalue())
    weights.unlink()
    with pytest.raises(ValueError, match="no safetensors weights for its vae"):
        load_model(copy, device="cpu")
