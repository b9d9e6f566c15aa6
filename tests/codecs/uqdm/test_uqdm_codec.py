"""The UQDM codec: lossless, progressive, reproducible, and as short as its model says."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.codecs import CodecError, Stream, container, get_codec
from diffpress.codecs.base import ModelMismatch
from diffpress.codecs.uqdm.codec import DOUBLE, ENDINGS, PIXELS, STEPS_BEFORE_PIXELS, UQDMCodec
from diffpress.codecs.uqdm.latents import DITHERS, MIN_STD_INDEX, STDS_PER_OCTAVE, UQDMChain
from diffpress.codecs.uqdm.tables import PixelTables, step_index, step_table
from diffpress.commands.compress import main as compress
from diffpress.commands.decompress import main as decompress
from diffpress.data import read_image, save_image
from diffpress.evaluation.metrics import psnr
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.uqdm import METHODS, UQDM, Method
from helpers import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that denoises linearly, with random disturbances so that means and scales differ everywhere."""
    torch.manual_seed(0)
    network = ScoreNetConfig(
        embedding_dim=8, norm_groups=4, mid_attention=False, use_fourier_features=False, patch_size=2,
        preconditioned=True,
    )  # fmt: skip
    model = UQDM(network, ScheduleConfig(-12.0, 6.0), n_steps=4)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("uqdm")
    model.save_folder(path)
    return path


@pytest.fixture(scope="module")
def codec(folder: Path) -> UQDMCodec:
    from diffpress.lightning_modules import load_model

    return get_codec("uqdm", model=load_model(folder, device="cpu"))


@pytest.fixture(scope="module")
def published(codec: UQDMCodec) -> UQDMCodec:
    return UQDMCodec(codec.model, ending="likelihood")


def picture(height: int, width: int) -> torch.Tensor:
    torch.manual_seed(height * 1000 + width)
    y, x = torch.arange(height)[:, None] / 20, torch.arange(width) / 20
    smooth = torch.stack([120 + 70 * torch.sin(x * (k + 1) + y) for k in range(3)])
    return (smooth + 4 * torch.randn(3, height, width)).clamp(0, 255).byte()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [(1, 1), (37, 91), (65, 64), (3, 200), (128, 128)])
def test_every_size_comes_back_exactly_through_a_file(
    request: pytest.FixtureRequest, ending: str, size: tuple[int, int]
) -> None:
    codec, image = request.getfixturevalue("codec" if ending == "pixels" else "published"), picture(*size)
    data = container.write(codec.encode(image), codec)
    assert torch.equal(codec.decode(container.read(data, codec)), image)
    assert container.write(codec.encode(image), codec) == data


@pytest.mark.parametrize("kind", ["black", "white", "noise", "checkerboard"])
def test_extreme_images_come_back_exactly(codec: UQDMCodec, published: UQDMCodec, kind: str) -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    if kind == "white":
        image += 255
    elif kind == "noise":
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    elif kind == "checkerboard":
        image[:, ::2, ::2] = image[:, 1::2, 1::2] = 255
    for one in (codec, published):
        assert torch.equal(one.decode(one.encode(image)), image)


@pytest.mark.parametrize("reconstruction", METHODS)
def test_quality_rises_with_every_segment(published: UQDMCodec, reconstruction: Method) -> None:
    codec, image = published, picture(64, 128)
    stream = codec.encode(image)
    assert len(stream.segments) == codec.model.n_steps + 1
    quality = [psnr(codec.decode(stream, segments=k, reconstruction=reconstruction), image) for k in range(6)]
    assert quality == sorted(quality)
    assert quality[-1] == np.inf
    again = codec.decode(stream, segments=2, reconstruction=reconstruction)
    assert torch.equal(again, codec.decode(stream, segments=2, reconstruction=reconstruction))


def test_prefix_of_the_stream_is_enough(codec: UQDMCodec, published: UQDMCodec) -> None:
    image = picture(64, 64)
    stream = published.encode(image)
    assert stream.header.params == bytes([DOUBLE])
    assert codec.encode(image, segments=5) == stream  # the published file, whatever a lossless one ends in
    for count in range(1, 6):
        short = Stream(stream.header, stream.segments[:count])
        assert torch.equal(codec.decode(short), codec.decode(stream, segments=count))
        sent = codec.encode(image, segments=count)
        assert sent.segments[:-1] == stream.segments[: count - 1]  # the last one also flushes the coder
        assert torch.equal(codec.decode(sent), codec.decode(short))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pixels_behind_any_number_of_steps(codec: UQDMCodec, published: UQDMCodec, steps: int) -> None:
    image = picture(70, 90)
    data = container.write(codec.encode(image, lossless=True, segments=steps), codec)
    if steps < 4:  # behind all of them p(x | z_0) knows more than a rounded picture
        assert len(data) < len(container.write(published.encode(image), codec))
    stream = container.read(data, codec)
    lossy = codec.encode(image, segments=steps)
    assert len(stream.segments) == steps + 1
    assert stream.header.params == bytes([DOUBLE | PIXELS])
    assert codec.prefix(stream, steps) == lossy
    assert codec.prefix(stream, steps + 1) == stream
    for reconstruction in METHODS:  # of prefixes; the pixels are given the picture of least error
        assert torch.equal(codec.decode(stream, reconstruction=reconstruction), image)
        prefix = codec.decode(stream, segments=steps, reconstruction=reconstruction)
        assert torch.equal(prefix, codec.decode(lossy, reconstruction=reconstruction))
    pictures = list(codec.decode_prefixes(stream, range(steps + 2)))
    for count, one in enumerate(pictures[:-1]):
        assert torch.equal(one, codec.decode(codec.prefix(stream, count)))
    assert torch.equal(pictures[-1], image)


def test_a_cut_in_the_pixels_gives_the_picture_before_them(codec: UQDMCodec) -> None:
    image = picture(64, 128)
    data = container.write(codec.encode(image, lossless=True, segments=2), codec)
    cut = container.read(data[:-100], codec)
    assert "2 of 3 segments are there" in cut.note
    assert torch.equal(codec.decode(cut), codec.decode(codec.encode(image, segments=2)))


def test_damaged_pixels_and_wrong_headers_are_noticed(codec: UQDMCodec) -> None:
    stream = codec.encode(picture(64, 64))
    *steps, pixels = stream.segments
    for number in range(0, len(pixels) - 8, len(pixels) // 12):
        broken = bytearray(pixels)
        broken[number] ^= 1
        with pytest.raises(CodecError):
            codec.decode(Stream(stream.header, (*steps, bytes(broken))))
    with pytest.raises(CodecError, match="pixels behind a step, and has none"):
        codec.decode(Stream(stream.header, (pixels,)))
    with pytest.raises(CodecError, match="an option of the uqdm codec that this program does not know"):
        codec.decode(Stream(replace(stream.header, params=bytes([PIXELS])), stream.segments))


def test_file_is_as_long_as_the_negative_elbo(codec: UQDMCodec) -> None:
    image = picture(128, 192)
    stream, nelbo = codec.measure(image)
    assert torch.equal(codec.decode(stream), image)
    assert stream.payload_bits == pytest.approx(sum(nelbo), rel=3e-3)
    overhead = len(container.write(stream, codec)) - stream.payload_bits / 8
    assert overhead <= 24 + 0.01 * stream.payload_bits / 8
    with torch.no_grad():
        from diffpress.data.tiling import tile

        of_model = codec.model.nelbo(tile(image, 64))
    assert sum(nelbo) / image.numel() == pytest.approx(float(of_model.total.mean()), rel=0.02)


def test_budget_limits_the_file(codec: UQDMCodec, published: UQDMCodec) -> None:
    image = picture(64, 128)
    whole = len(container.write(published.encode(image), codec)) * 8 / (64 * 128)
    part = codec.encode(image, bpp=whole / 2)
    assert 0 < len(part.segments) < 5
    assert len(container.write(part, codec)) * 8 / (64 * 128) <= whole / 2
    exact = codec.encode(image, bpp=whole / 2, lossless=True)  # the same steps, and the pixels
    assert len(exact.segments) == len(part.segments) + 1
    assert torch.equal(codec.decode(exact), image)
    assert torch.equal(codec.decode(exact, segments=len(part.segments)), codec.decode(part))
    with pytest.raises(CodecError, match="less than the first segment"):
        codec.encode(image, bpp=1e-4)


def test_padding_costs_nothing(codec: UQDMCodec) -> None:
    one, four = (codec.encode(picture(33, 33)[:, :side, :side]).payload_bits for side in (16, 33))
    assert one < 0.4 * four


_OTHER_PROCESS = """
import sys, torch
from diffpress.codecs import container, get_codec
from diffpress.lightning_modules import load_model
folder, *files = sys.argv[1:]
torch.set_num_threads(2)
codec = get_codec("uqdm", model=load_model(folder, device="cpu"))
for file in files:
    image = codec.decode(container.read(open(file, "rb").read(), codec))
    torch.save(image, file + ".pt")
    open(file + ".two", "wb").write(container.write(codec.encode(image), codec))
assert torch.get_num_threads() == 2
"""


def test_files_of_one_thread_decode_in_another_process_with_two_and_the_reverse(
    codec: UQDMCodec, folder: Path, tmp_path: Path
) -> None:
    image = picture(40, 600)  # 10 tiles: two batches
    file = tmp_path / "photo.uqdm"
    file.write_bytes(container.write(codec.encode(image), codec))
    subprocess.run([sys.executable, "-c", _OTHER_PROCESS, str(folder), str(file)], check=True, cwd=ROOT)
    assert torch.equal(torch.load(f"{file}.pt", weights_only=True), image)
    other = Path(f"{file}.two").read_bytes()
    assert other == file.read_bytes()
    assert torch.equal(codec.decode(container.read(other, codec)), image)


def test_prefixes_by_every_reconstruction_from_the_command_line(
    codec: UQDMCodec, folder: Path, tmp_path: Path
) -> None:
    image = picture(40, 72)
    save_image(image, tmp_path / "photo.png")
    model = ["--model", str(folder), "--device", "cpu"]
    file = tmp_path / "photo.uqdm"
    assert compress([str(tmp_path / "photo.png"), "-o", str(file), "--codec", "uqdm", *model]) == 0
    stream = container.read(file.read_bytes(), codec)
    assert stream.header.params == bytes([DOUBLE | PIXELS])
    assert len(stream.segments) == STEPS_BEFORE_PIXELS + 1
    for reconstruction in METHODS:
        out = tmp_path / f"{reconstruction}.png"
        partial = ["--segments", "1", "--reconstruction", reconstruction]
        assert decompress([str(file), "-o", str(out), *partial, *model]) == 0
        assert torch.equal(read_image(out), codec.decode(stream, segments=1, reconstruction=reconstruction))
    assert decompress([str(file), "-o", str(tmp_path / "whole.png"), *model]) == 0
    assert torch.equal(read_image(tmp_path / "whole.png"), image)


def test_endings_from_the_command_line_in_processes_of_their_own(folder: Path, tmp_path: Path) -> None:
    image = picture(40, 72)
    save_image(image, tmp_path / "photo.png")
    common = ["--model", str(folder), "--device", "cpu"]
    photo, files = str(tmp_path / "photo.png"), [str(tmp_path / f"{ending}.uqdm") for ending in ENDINGS]
    assert compress([photo, "-o", files[1], "--codec", "uqdm", "--ending", "likelihood", *common]) == 0
    for words in (
        ["compress.py", photo, "-o", files[0], "--codec", "uqdm", "--lossless", "--segments", "3"],
        ["decompress.py", *files, "-o", str(tmp_path / "out")],
    ):
        subprocess.run([sys.executable, *words, *common], check=True, cwd=ROOT)
    assert [container.peek(Path(file).read_bytes())[1] for file in files] == [4, 5]
    for ending in ENDINGS:
        assert torch.equal(read_image(tmp_path / "out" / f"{ending}.png"), image)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "count"), [("imagenet64", 16), ("kodak", 4)])
def test_published_tiny_writes_its_negative_elbo_and_loses_nothing(shared: Path, data: str, count: int) -> None:
    from diffpress.lightning_modules import load_model

    codec = UQDMCodec(load_model(shared / "reference" / "uqdm-tiny", device="cpu"))
    if data == "imagenet64":
        values = np.load(shared / "data" / "imagenet64" / "val_data.npz")["data"][:count]
        images = list(torch.from_numpy(values.reshape(-1, 3, 64, 64)))
    else:  # 128 x 128 pixels from the middle of each photo
        photos = (read_image(shared / "data" / "kodak" / f"kodim{i:02d}.png") for i in (1, 5, 20, 23)[:count])
        images = [photo[:, 200:328, 200:328] for photo in photos]
    bits = bound = 0.0
    for image in images:
        stream, nelbo = codec.measure(image)
        assert torch.equal(codec.decode(stream), image)
        bits, bound = bits + stream.payload_bits, bound + sum(nelbo)
    print(f"{data}: {bits / bound - 1:+.4%} of the negative ELBO")
    assert bits == pytest.approx(bound, rel=3e-3)


def test_threads_do_not_change_the_stream(codec: UQDMCodec) -> None:
    image = picture(40, 600)
    one = codec.encode(image)
    torch.set_num_threads(2)
    try:
        two = codec.encode(image)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert one == two


def test_files_of_a_network_in_float32_are_still_read(codec: UQDMCodec) -> None:
    image = picture(64, 72)
    stream, _ = codec._encode(image, codec.model.n_steps + 1, None, None, 1, double=False)
    assert stream.header.params == b"\0"
    assert torch.equal(codec.decode(stream), image)


def test_network_is_stable_against_rounding_errors(codec: UQDMCodec) -> None:
    """Weights disturbed by 1e-13, far more than another order of float64 sums does, give the same integers."""
    chains = [UQDMChain(codec.model, 2) for _ in range(2)]
    with torch.no_grad():
        for parameter in chains[1].model.network.parameters():
            parameter.mul_(1 + 1e-13 * torch.randn_like(parameter))
    for _ in range(codec.model.n_steps):
        a, b = (chain.step_parameters() for chain in chains)
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.std_index, b.std_index)
        assert torch.equal(*(chain.reconstruct("denoise") for chain in chains))
        for chain in chains:
            chain.advance(a.mean - chain.dither_value(chain.dither()))


def test_other_model_is_named(codec: UQDMCodec, folder: Path) -> None:
    from diffpress.lightning_modules.uqdm import load_uqdm

    stream = codec.encode(picture(8, 8))
    other = load_uqdm(folder)
    other.folder_fingerprint = b"\1\2\3\4"
    with pytest.raises(ModelMismatch, match=f"{codec.model.fingerprint.hex()}.*01020304"):
        UQDMCodec(other).decode(stream)


def test_arithmetic_that_differs_is_reported_with_its_segment(codec: UQDMCodec, folder: Path) -> None:
    from diffpress.lightning_modules.uqdm import load_uqdm

    image = picture(64, 64)
    stream, whole = codec.encode(image, lossless=True, segments=2), codec.encode(image)
    other = load_uqdm(folder)  # the same fingerprint, other results
    with torch.no_grad():
        other.network.conv_out[2].bias.add_(1e-3)
    with pytest.raises(CodecError, match=r"segment 1 does not decode: "):
        UQDMCodec(other).decode(whole, segments=1)
    with pytest.raises(CodecError, match=r"the lossless pixels do not come out as they were written"):
        UQDMCodec(other).decode(stream)
    assert torch.equal(UQDMCodec(other).decode(whole), image)  # pixels behind one step need no network


def test_wrong_requests_are_refused(codec: UQDMCodec, published: UQDMCodec) -> None:
    stream, image = codec.encode(picture(8, 8)), picture(8, 8)
    for message, call in {
        "has 2 segments, not 3": lambda: codec.decode(stream, segments=3),
        "between 1 and 5 for this model$": lambda: codec.encode(image, segments=0),
        "between 1 and 4 for this model before the pixels": lambda: codec.encode(image, segments=5, lossless=True),
        "sends every step of a lossless": lambda: published.encode(image, segments=2, lossless=True),
        "give no --segments": lambda: published.encode(image, bpp=2.0, lossless=True),
        "less than the first segment": lambda: codec.encode(image, bpp=0.1, lossless=True),
        "unknown ending 'none'; available": lambda: UQDMCodec(codec.model, ending="none"),  # type: ignore[arg-type]
        "positive": lambda: codec.encode(picture(8, 8), bpp=0.0),
        "uint8": lambda: codec.encode(torch.zeros(3, 8, 8)),
        "unknown reconstruction": lambda: UQDMCodec(codec.model, reconstruction="best"),  # type: ignore[arg-type]
        "needs a UQDM model": lambda: UQDMCodec(torch.nn.Identity()),  # type: ignore[arg-type]
    }.items():
        with pytest.raises(CodecError, match=message):
            call()


def test_step_tables_hold_the_probabilities_of_the_model() -> None:
    std_index, dither = np.array([-20, 0, 45], np.int32), np.array([0, 13, DITHERS - 1], np.int32)
    for number, i, j in zip(step_index(std_index, dither), std_index, dither, strict=True):
        table = step_table("logistic", int(number))
        std, offset = 2.0 ** (int(i) / STDS_PER_OCTAVE), (2 * int(j) + 1 - DITHERS) / (2 * DITHERS)
        k = np.arange(table.low, table.low + len(table.weights) - 1) - offset
        s = std * np.sqrt(3) / np.pi
        mass = 1 / (1 + np.exp(-(k + 0.5) / s)) - 1 / (1 + np.exp(-(k - 0.5) / s))
        np.testing.assert_allclose(table.weights[1:] / 2**20, mass, atol=1e-6)
    assert step_index(np.array([MIN_STD_INDEX], np.int32), np.array([0], np.int32))[0] == 0


def test_pixel_tables_hold_the_likelihood_of_the_model() -> None:
    from diffpress.lightning_modules.diffusion import pixels as pixel_likelihood

    log_snr_0 = torch.tensor(9.0, dtype=torch.float64)
    tables = PixelTables(9.0)
    alpha = torch.sigmoid(log_snr_0).sqrt()
    for mean in (-9.0, -0.4, 0.6, 3.2, 100.37, 128.5, 253.9, 255.3, 266.0):
        number, base = tables.locate(np.array([mean]))
        table = tables.table(int(number[0]))
        rounded = round(mean * 64) / 64
        z = ((torch.tensor(rounded, dtype=torch.float64) * 2 + 1) / 256 - 1) * alpha
        low = int(base[0]) + table.low
        values = torch.arange(low, low + len(table.weights) - 1)
        assert int(values.min()) >= 0
        assert int(values.max()) <= 255
        expected = pixel_likelihood.log_likelihood(values, z.expand(len(values)), log_snr_0).exp()
        got = torch.from_numpy(table.weights[1:] / table.weights.sum())
        torch.testing.assert_close(got, expected, atol=3e-5, rtol=0)
