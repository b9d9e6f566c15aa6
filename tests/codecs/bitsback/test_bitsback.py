"""Bits-back coding: exactness, rate against the bound, sizes, priors, damage, threads, the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.codecs import CodecError, container, get_codec
from diffpress.codecs.base import ModelMismatch
from diffpress.codecs.bitsback.codec import BitsBack
from diffpress.codecs.bitsback.latents import DENSER, EVEN, BitsBackChain, choose_timesteps
from diffpress.codecs.bitsback.segment import BitsBackParameters, best_tile
from diffpress.data import read_image, save_image
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.priors.interface import Prior
from helpers import ROOT, synthetic_photo


@pytest.fixture(scope="module")
def prior(tiny_prior: Path) -> Prior:
    return load_model(tiny_prior, device="cpu")


@pytest.fixture(scope="module")
def codec(prior: Prior) -> BitsBack:
    return BitsBack(prior, preset="fast")


def through_file(codec: BitsBack, image: torch.Tensor) -> tuple[int, torch.Tensor]:
    data = container.write(codec.encode(image), codec)
    return len(data), codec.decode(container.read(data, codec))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (37, 91), (150, 20), (20, 150), (200, 130)])
def test_every_size_comes_back_exactly(codec: BitsBack, size: tuple[int, int]) -> None:
    image = synthetic_photo(*size)
    assert torch.equal(through_file(codec, image)[1], image)


@pytest.mark.parametrize("kind", ["noise", "flat", "checkerboard", "flat below"])
def test_extreme_images_come_back_exactly(codec: BitsBack, kind: str) -> None:
    """White noise is as far from the model as pixels get; flat rows lend the tiles no bits."""
    rng = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 96, 96), generator=rng, dtype=torch.uint8)
    if kind == "flat":
        image[:] = 7
    elif kind == "flat below":
        image[:, 80:] = 255
    elif kind == "checkerboard":
        image[:] = 255 * ((torch.arange(96)[:, None] + torch.arange(96)) % 2).byte()
    assert torch.equal(through_file(codec, image)[1], image)


def test_the_file_is_as_long_as_the_negative_elbo(codec: BitsBack) -> None:
    image = synthetic_photo(224, 192)
    stream = codec.encode(image)
    size = len(container.write(stream, codec))
    rows, at = container.read_varint(stream.segments[0], 0)
    webp_bytes, _ = container.read_varint(stream.segments[0], at)
    assert 0 < rows < 130
    # what the rows above the tiles cost as WebP is not the model's doing
    tiles = codec.nelbo(image[:, rows:])
    assert abs(8 * (size - webp_bytes) / tiles - 1) < 0.02


def test_timesteps_come_closer_together_the_cleaner_they_are(prior: Prior) -> None:
    even, denser = ([prior.log_snr(timestep) for timestep in choose_timesteps(prior, 20, s)] for s in (EVEN, DENSER))
    assert np.diff(even).min() > 0.9 * np.diff(even).max() > 0
    steps = np.diff(denser)
    assert (steps > 0).all()
    assert steps[:5].mean() > 1.2 * steps[5:].mean() > 1.2 * 1.2 * steps[-5:].mean()
    assert [denser[0], denser[-1]] == pytest.approx([-4, 10], abs=0.05)
    with pytest.raises(CodecError, match="too coarse"):
        choose_timesteps(prior, 2000, EVEN)


@pytest.mark.parametrize("orientations", [1, 2, 4])
@pytest.mark.parametrize("double", [False, True])
def test_parameters_survive_the_header(orientations: int, double: bool) -> None:
    parameters = BitsBackParameters(40, 64, double=double, orientations=orientations)
    assert BitsBackParameters.from_bytes(parameters.to_bytes()) == parameters
    for flags in (6, 16, 255):
        with pytest.raises(CodecError, match="does not know"):
            BitsBackParameters.from_bytes(bytes([40, 4, 2, flags]))


def test_preset_best_averages_over_quarter_turns(prior: Prior) -> None:
    image = synthetic_photo(48, 80)
    codec = BitsBack(prior, preset="best")
    stream = codec.encode(image)
    assert BitsBackParameters.from_bytes(stream.header.params).orientations == 4
    assert torch.equal(BitsBack(prior, preset="fast").decode(stream), image)


def test_turned_estimates_do_not_depend_on_how_the_picture_lies() -> None:
    """With all four quarter turns averaged, turning the picture turns the estimate."""
    prior = load_model("diffc-pixel", device="cpu")
    z = np.random.default_rng(0).integers(-9, 10, (3, 32, 48))
    chain = BitsBackChain(prior, 20, orientations=4)
    lying, = chain.denoise([z], 10)
    standing, = chain.denoise([np.rot90(z, 1, (1, 2)).copy()], 10)
    assert torch.allclose(standing, lying.rot90(1, (1, 2)), atol=1e-5)
    one, = BitsBackChain(prior, 20).denoise([z], 10)
    assert not torch.allclose(one, lying, atol=1e-3)


def test_latents_drift_no_further_than_the_forward_process(prior: Prior) -> None:
    """Walking from the cleanest grid to the noisiest ends where q(z | x) says, in mean and variance."""
    chain = BitsBackChain(prior, 20)
    rng = np.random.default_rng(0)
    pixels = np.full((3, 64, 64), 200, np.uint8)
    z = np.rint(chain.pixel_means(pixels) / 16 + chain.q_clean.std * rng.standard_normal(pixels.shape))
    for step in reversed(range(19)):
        mean = chain.forward_means(z.astype(np.int64), step) / 16
        z = np.rint(mean + chain.q_forward[step].std * rng.standard_normal(pixels.shape))
    snr = np.exp(prior.log_snr(chain.timesteps[0]))
    alpha, sigma = (snr / (1 + snr)) ** 0.5, (1 / (1 + snr)) ** 0.5
    value = z * chain.delta[0]
    assert value.mean() == pytest.approx(alpha * (2 * 200 / 255 - 1), abs=0.03)
    assert value.std() == pytest.approx(sigma, rel=0.03)


def test_tiles_cover_everything_once() -> None:
    for height, width, top in ((512, 768, 40), (33, 100, 0), (64, 12800 // 8, 16)):
        seen = np.zeros((height, width), int)
        for rows, columns in BitsBackParameters(20, best_tile(height * width)).tiles(top, (height, width)):
            seen[rows, columns] += 1
        assert (seen[top:] == 1).all()
        assert (seen[:top] == 0).all()


def test_pictures_made_of_smaller_ones_are_cut_between_them(prior: Prior) -> None:
    pictures = torch.cat([synthetic_photo(32, 32, seed) for seed in range(8)], dim=1)
    codec = BitsBack(prior, preset="fast", tile=32)
    stream = codec.encode(pictures)
    rows, _ = container.read_varint(stream.segments[0], 0)
    assert rows % 32 == 0
    assert 0 < rows < 256
    assert torch.equal(BitsBack(prior).decode(stream), pictures)
    with pytest.raises(CodecError, match="multiple of 16"):
        BitsBack(prior, tile=40)


def test_network_runs_in_float64_unless_it_is_exact(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    image = synthetic_photo(80, 64)
    for exact in (False, True):
        monkeypatch.setattr(prior, "exact", exact)
        stream = BitsBack(prior, preset="fast").encode(image)
        assert BitsBackParameters.from_bytes(stream.header.params).double is not exact
        assert torch.equal(BitsBack(prior).decode(stream), image)


def test_arithmetic_of_the_float64_copy(prior: Prior) -> None:
    z = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    copy = prior.double()
    assert copy is not None
    twice = copy.denoise(z, 300)
    assert twice.dtype == torch.float64
    assert (twice - prior.denoise(z.float(), 300)).abs().max() < 1e-4


def test_every_damaged_byte_is_noticed(codec: BitsBack) -> None:
    data = container.write(codec.encode(synthetic_photo(64, 64)), codec)
    rng = np.random.default_rng(0)
    for place in rng.choice(len(data), 40, replace=False):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        with pytest.raises(CodecError):
            codec.decode(container.read(bytes(damaged), codec))


def test_another_machines_arithmetic_is_named(codec: BitsBack, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = codec.encode(synthetic_photo(96, 96))
    denoise = type(codec.prior).denoise
    monkeypatch.setattr(type(codec.prior), "denoise", lambda self, z, step: denoise(self, z, step) * 1.01)
    with pytest.raises(CodecError, match=r"differs from the writer's"):
        codec.decode(stream)


def test_mistakes_are_one_sentence(codec: BitsBack, tmp_path: Path) -> None:
    image = synthetic_photo(32, 32)
    with pytest.raises(CodecError, match="--bpp"):
        codec.encode(image, bpp=1.0)
    with pytest.raises(CodecError, match="preset"):
        BitsBack(codec.prior, preset="slow")
    with pytest.raises(CodecError, match="latents"):
        BitsBack(object())  # type: ignore[arg-type]
    stream = codec.encode(image)
    with pytest.raises(CodecError, match="whole"):
        codec.decode(stream, segments=0)
    other = BitsBack(codec.prior)
    other.fingerprint = b"1234"
    with pytest.raises(ModelMismatch):
        other.decode(stream)


@pytest.mark.parametrize("kind", ["vdm", "unet"])
def test_other_pixel_priors(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "vdm":
        from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
        from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
        from diffpress.lightning_modules.vdm import VDM

        network = ScoreNetConfig(embedding_dim=16, n_blocks=1, norm_groups=4, mid_attention=False, patch_size=2)
        VDM(network, ScheduleConfig(learned=False)).save_folder(tmp_path)
    else:
        from diffusers import DDPMScheduler, UNet2DModel

        UNet2DModel(
            block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        ).save_pretrained(tmp_path)
        DDPMScheduler().save_pretrained(tmp_path)
    codec = get_codec("bitsback", model=load_model(tmp_path, device="cpu"), preset="fast")
    image = synthetic_photo(64, 48)
    assert torch.equal(codec.decode(codec.encode(image)), image)


@pytest.mark.parametrize("threads", [(1, 2), (2, 1)])
def test_command_line_with_any_number_of_threads(
    tiny_prior: Path, tmp_path: Path, threads: tuple[int, int]
) -> None:
    image = synthetic_photo(120, 100)
    save_image(image, tmp_path / "in.png")

    def call(command: str, count: int, *words: str) -> None:
        code = f"import runpy, sys, torch; torch.set_num_threads({count}); sys.argv = {[command, *words]!r}; " \
               f"runpy.run_path({str(ROOT / command)!r}, run_name='__main__')"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)

    call("compress.py", threads[0], "in.png", "-o", "out", "--codec", "bitsback", "--model", str(tiny_prior))
    call("decompress.py", threads[1], "out/in.bb", "-o", "back", "--model", str(tiny_prior))
    assert torch.equal(read_image(tmp_path / "back" / "in.png"), image)


def test_a_file_in_float64_is_refused_where_the_model_has_no_such_form(
    codec: BitsBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = codec.encode(synthetic_photo(64, 64))
    monkeypatch.setattr(type(codec.prior), "double", lambda self: None)
    with pytest.raises(CodecError, match="float64"):
        codec.decode(stream)
