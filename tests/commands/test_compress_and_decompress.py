"""compress.py and decompress.py: round trips, names, and one sentence with a non-zero exit for every bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffpress.commands.compress import main as compress
from diffpress.commands.decompress import main as decompress
from diffpress.data import read_image, save_image
from diffpress.evaluation.metrics import psnr
from helpers import synthetic_photo


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number, size in enumerate([(24, 40), (17, 9)]):
        save_image(synthetic_photo(*size, number), folder / f"{number}.png")
    return folder


@pytest.fixture
def model(tiny_prior: Path) -> list[str]:
    return ["--model", str(tiny_prior), "--device", "cpu"]


def test_folder_there_and_back(
    photos: Path, model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress([str(photos), "-o", str(tmp_path / "out"), "--lossless", *model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("bpp" in line and "bpd" in line for line in lines[:2])
    assert lines[2].startswith("2 of 2 files, ")
    assert decompress(["--input_dir", str(tmp_path / "out"), "--output_dir", str(tmp_path / "back"), *model]) == 0
    for number in (0, 1):
        assert torch.equal(read_image(tmp_path / "back" / f"{number}.png"), read_image(photos / f"{number}.png"))


def test_fewer_segments_give_a_coarser_image(photos: Path, model: list[str], tmp_path: Path) -> None:
    file = tmp_path / "0.dfc"
    assert compress([str(photos / "0.png"), "-o", str(file), "--bpp", "8", *model]) == 0
    for count in (1, 4):
        assert decompress([str(file), "-o", str(tmp_path / f"{count}.png"), "--segments", str(count), *model]) == 0
    original = read_image(photos / "0.png")
    assert psnr(read_image(tmp_path / "4.png"), original) > psnr(read_image(tmp_path / "1.png"), original) + 1


def test_published_names_and_configuration_files(photos: Path, model: list[str], tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("codec: webp\nquality: 50\n")
    arguments = ["--config", str(config), "--image_dir", str(photos), "--output_dir", str(tmp_path / "out")]
    assert compress(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.webp", "1.webp", "manifest.jsonl"]
    assert decompress([str(tmp_path / "out"), "-o", str(tmp_path / "back")]) == 0
    assert read_image(tmp_path / "back" / "1.png").shape == (3, 17, 9)


def test_nothing_is_overwritten_without_force(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    existing = tmp_path / "0.webp"
    existing.write_text("precious")
    arguments = [str(photos), "-o", str(tmp_path), "--codec", "webp"]
    assert compress(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert existing.read_text() == "precious"
    assert not (tmp_path / "1.webp").exists()
    assert compress([*arguments, "--force"]) == 0
    assert existing.read_bytes() != b"precious"


def test_broken_images_are_named_and_the_rest_goes_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"not a picture")
    assert compress([str(photos), "-o", str(tmp_path / "out"), "--codec", "webp"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("broken.png") == 1
    assert len(captured.err.splitlines()) == 1
    assert len(list((tmp_path / "out").glob("*.webp"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bpp", "-1"], "positive"),
        (["--segments", "0"], "between"),
        (["--preset", "none"], "unknown preset"),
        (["--quality", "300"], "between 1 and 100"),
        (["--codec", "webp", "--bpp", "1"], "does not apply"),
    ],
)
def test_bad_requests(
    photos: Path,
    model: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    extra = [] if "webp" in arguments else model
    assert compress([str(photos / "0.png"), "-o", str(tmp_path / "out"), *arguments, *extra]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("out/*"))


def test_missing_inputs_and_models(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress([str(tmp_path / "absent.png"), "-o", str(tmp_path / "out"), "--codec", "webp"]) == 2
    assert compress([str(photos), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "absent")]) == 2
    assert decompress([str(tmp_path / "absent.dfc"), "-o", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    two = tmp_path / "two" / "0.png"
    save_image(synthetic_photo(4, 4), two)
    assert compress([str(photos / "0.png"), str(two), "-o", str(tmp_path / "out"), "--codec", "webp"]) == 2
    assert "would both be written" in capsys.readouterr().err


def test_bad_files(
    photos: Path, model: list[str], tiny_prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "0.dfc"
    assert compress([str(photos / "0.png"), "-o", str(file), "--bpp", "8", *model]) == 0
    data = file.read_bytes()
    capsys.readouterr()

    def attempt(content: bytes, *options: str) -> tuple[int, str]:
        file.write_bytes(content)
        code = decompress([str(file), "-o", str(tmp_path / "x.png"), "--force", *options])
        captured = capsys.readouterr()
        return code, captured.err + captured.out

    code, text = attempt(b"hello")
    assert (code, "neither" in text) == (1, True)
    damaged = bytearray(data)
    damaged[-20] ^= 1
    code, text = attempt(bytes(damaged), *model)
    assert code == 1
    assert "damaged in segment" in text
    code, text = attempt(bytes(damaged), "--recover", *model)
    assert code == 3
    assert "are good" in text
    code, text = attempt(data[:-30], *model)
    assert code == 3
    assert "cut" in text
    code, text = attempt(data[:200], *model)  # before the first checksum
    assert code == 1
    assert "cut before its first checksum, or damaged in its header; --recover" in text
    code, text = attempt(data[:200], "--recover", *model)
    assert code == 3
    assert "no checksum vouches" in text
    code, text = attempt(data, "--max-pixels", "10", *model)
    assert code == 1
    assert "limit" in text
    other = tmp_path / "other-model"
    other.mkdir()
    for path in tiny_prior.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "prior.json").write_text('{"log_snr": [12.0, -8.0]}')
    code, text = attempt(data, "--model", str(other), "--device", "cpu")
    assert code == 1
    assert data[3:7].hex() in text
    assert "other-model" in text


LAYERS = """
import ctypes, resource
from diffpress.commands.errors import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def layer(size=20 << 20):
    blocks = [libc.malloc(size) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, size)
    for block in blocks:
        libc.free(block)

kept = keep_freed_memory()
layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layer()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", LAYERS], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library has no such setting")
    assert int(faults) < 100  # the blocks have 41,000 pages of 4 kB
