"""What somebody tries first: in a folder of their own, with relative paths, and with mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffpress.commands.compress import main as compress
from diffpress.commands.compress import parser
from diffpress.commands.decompress import main as decompress
from diffpress.data import read_image, save_image
from helpers import ROOT, synthetic_photo


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for photo.png and photos/{a,b}.png, in which the commands run."""
    for number, name in enumerate(("photo", "photos/a", "photos/b")):
        save_image(synthetic_photo(16, 24, number), tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tiny_prior: Path) -> list[str]:
    return ["--model", str(tiny_prior), "--device", "cpu"]


def test_a_photo_becomes_a_file_beside_it_and_an_image_again(here: Path, model: list[str]) -> None:
    original = read_image("photo.png")
    assert compress(["--lossless", "photo.png", *model]) == 0
    assert (here / "photo.dfc").is_file()
    (here / "photo.png").unlink()
    assert decompress(["photo.dfc", *model]) == 0
    assert torch.equal(read_image("photo.png"), original)


def test_decoding_beside_the_photo_does_not_replace_it(
    here: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (here / "photo.png").read_bytes()
    assert compress(["photo.png", *model]) == 0
    assert decompress(["photo.dfc", *model]) == 2
    assert "photo.png exists; name another place with -o" in capsys.readouterr().err
    assert (here / "photo.png").read_bytes() == before
    assert decompress(["photo.dfc", "--force", *model]) == 0
    assert (here / "photo.png").read_bytes() != before


def test_a_folder_becomes_a_folder(here: Path, model: list[str]) -> None:
    (here / "photos" / "deeper").mkdir()
    save_image(synthetic_photo(24, 24), here / "photos" / "deeper" / "c.png")
    assert compress(["photos", *model]) == 0
    files = ["a.dfc", "b.dfc", "deeper", "manifest.jsonl"]
    assert sorted(path.name for path in (here / "photos-dfc").iterdir()) == files
    assert decompress(["photos-dfc", *model]) == 0
    assert sorted(path.name for path in (here / "photos-dfc-png").iterdir()) == ["a.png", "b.png", "deeper"]
    assert read_image(here / "photos-dfc-png" / "deeper" / "c.png").shape == (3, 24, 24)
    assert sorted(path.name for path in (here / "photos").iterdir()) == ["a.png", "b.png", "deeper"]


def test_a_folder_of_one_image_goes_into_a_folder_whatever_its_name(here: Path) -> None:
    (here / "photos" / "b.png").unlink()
    assert compress(["photos", "--codec", "webp", "-o", "version.2"]) == 0
    assert (here / "version.2" / "a.webp").is_file()


def test_patterns_named_folders_and_this_folder(here: Path) -> None:
    assert compress(["photos/*.png", "--codec", "webp"]) == 0
    assert sorted(path.name for path in (here / "photos").glob("*.webp")) == ["a.webp", "b.webp"]
    assert compress(["photo.png", "photos/a.png", "--codec", "webp", "-o", "out"]) == 0
    assert sorted(path.name for path in (here / "out").glob("*.webp")) == ["a.webp", "photo.webp"]
    assert compress([".", "--codec", "webp"]) == 0
    assert (here.parent / f"{here.name}-webp" / "photo.webp").is_file()


def test_an_input_is_never_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (here / "photo.png").read_bytes()
    assert compress(["photo.png", "--codec", "png", "--force"]) == 2
    assert compress(["photo.png", "--codec", "webp", "-o", "./photos/../photo.png", "--force"]) == 2
    assert decompress(["photo.png", "--force"]) == 2
    assert capsys.readouterr().err.count("photo.png is an input and is never overwritten") == 3
    assert (here / "photo.png").read_bytes() == before


@pytest.mark.parametrize("place", ["before", "after"])
def test_explicit_options_go_before_the_configuration_file(here: Path, place: str) -> None:
    (here / "c.yaml").write_text("bpp: 2\nquality: 7\nlocal_files_only: true\noutput_dir: files\nlossless: false\n")
    words = ["--bpp", "1", "photo.png"]
    config = ["--config", "c.yaml"]
    given = parser().parse_args([*config, *words] if place == "before" else [*words, *config])
    assert (given.bpp, given.quality, given.local_files_only, given.lossless) == (1.0, 7, True, False)
    assert given.out == Path("files")
    assert given.images == ["photo.png"]


@pytest.mark.parametrize("flag", [key for key, one in parser().options.items() if one.kind == "bool"])
def test_flags_take_no_value(flag: str) -> None:
    given = parser().parse_args([f"--{flag}", "photo.png"])
    assert given.images == ["photo.png"]
    assert getattr(given, flag) is True


def test_shipped_configurations_are_found_from_any_folder(here: Path) -> None:
    given = parser().parse_args(["photos", "--config", "configs/diffc/flux.yaml", "--offload", "layers"])
    assert (given.model, given.schedule, given.offload) == ("black-forest-labs/FLUX.1-dev", "flux", "layers")


def test_published_spellings() -> None:
    given = parser().parse_args(["--image_dir", "my_photos", "--output_dir=my_files", "--denoising_guidance", "2"])
    assert (given.image_dir, given.out, given.denoising_guidance) == ("my_photos", Path("my_files"), 2.0)


WRONG = [
    (["compress.py", "absent.png"], "absent.png: no such file or folder"),
    (["compress.py", "photo.png", "--bpp", "much"], "--bpp takes a number, not 'much'"),
    (["compress.py", "photo.png", "--bpp"], "--bpp"),
    (["compress.py", "photo.png", "--tune", "psnr"], "--tune does not apply to --codec diffc"),
    (["compress.py", "photo.png", "--codec", "gif"], "unknown codec 'gif'; available: avif"),
    (["compress.py", "photo.png", "--lossles"], "there is no option --lossles"),
    (["compress.py", "photo.png", "--config", "absent.yaml"], "the configuration file absent.yaml cannot be read"),
    (["compress.py", "photo.png", "--config", "wrong.yaml"], "wrong.yaml has 'bbp', which is no option"),
    (["compress.py", "photo.png", "--prompt", "x", "--captions", "c.txt"], "give one of --prompt, --captions"),
    (["compress.py", "photo.png", "--model", "absent"], "there is no model folder 'absent'"),
    (["compress.py", "photo.png", "--device", "gpu"], "PyTorch finds no device 'gpu' here"),
    (["compress.py", "photo.png", "--device", "cuda:99"], "PyTorch finds no device 'cuda:99' here"),
    (["compress.py", "photo.png", "photos", "-o", "wrong.yaml"], "wrong.yaml is a file, and this takes a folder"),
    (["compress.py", "empty"], "empty: no images in this folder"),
    (["decompress.py", "absent.dfc"], "absent.dfc: no such file"),
    (["decompress.py", "empty"], "empty: no files in this folder"),
    (["decompress.py", "wrong.yaml"], "wrong.yaml: this is neither a diffpress file nor an image"),
    (["decompress.py", "wrong.yaml", "--format", "heic"], "--format must be one of png, webp, bmp, tiff"),
    (["decompress.py", "wrong.yaml", "--segments", "few"], "--segments takes a whole number, not 'few'"),
    (["train.py", "bake"], "there is no sub-command 'bake'"),
    (["train.py", "fit"], "name a recipe with -c"),
    (["train.py", "fit", "-c", "absent.yaml"], "absent.yaml"),
    (["train.py", "export", "photo.png"], "folder"),
    (["train.py", "export", "photo.png", "folder"], "photo.png is damaged, or no checkpoint\n"),
    (["data", "download-kodak", "--nope"], "--nope"),
    (["calibrate.py", "--data", "photos"], "--model must name what to calibrate"),
    (["calibrate.py", "--pyramid", "true"], "no option takes the word true"),
    (["calibrate.py", "--model", "diffc-pixel"], "--data must name a folder of photos"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_a_wrong_command_says_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    from diffpress.commands.calibrate import main as calibrate
    from diffpress.commands.data import main as data
    from diffpress.commands.train import main as train

    (here / "empty").mkdir()
    (here / "wrong.yaml").write_text("bbp: 1\n")
    mains = {"compress.py": compress, "decompress.py": decompress, "calibrate.py": calibrate, "train.py": train,
             "data": data}  # fmt: skip
    command = mains[words[0]]
    assert command(words[1:]) == (1 if "neither" in message else 2)
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not said.out


def test_train_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    from diffpress.commands.train import _CommandLine, main

    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in (*_CommandLine.subcommands(), "export"))
    assert main([]) == 2
    assert all(line.startswith("python train.py ") for line in capsys.readouterr().err.splitlines())


def test_a_command_without_files_shows_two_lines_that_work(here: Path) -> None:
    command = [sys.executable, str(ROOT / "compress.py"), "--codec", "webp"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for line in lines:
        words = line.partition("#")[0].split()
        assert words[0] == "python"
        tried = [sys.executable, str(ROOT / words[1]), *words[2:]]
        assert subprocess.run(tried, capture_output=True, cwd=here, check=False).returncode == 0
    assert (here / "copy.png").is_file()
