"""The documentation holds: links lead somewhere, commands and snippets run.

Commands are the lines of fenced blocks that begin with "python"; they run as they stand, on small synthetic photos, in
a folder that holds what a visitor has: the repository and photos.  Only training and calibration get smaller sizes.
Figures are held to docs/results by tests/evaluation/test_figures.py.
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from diffpress.data import save_image
from helpers import ROOT, synthetic_photo

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "checkpoints").glob("*/*.md")),
]
BY_NAME = {"README": ROOT / "README.md", "quickstart": ROOT / "docs" / "quickstart.md"}
SNIPPETS = BY_NAME | {"denoisers": ROOT / "docs" / "denoisers.md"}

CALLBACKS = """
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {every_n_train_steps: 1, save_last: true, save_top_k: 0}
"""
SMALL_RUN = f"""
data: {{crop_size: 32, batch_size: 2, val_samples: 1, samples_per_epoch: 4}}
trainer:
  accelerator: cpu
  max_steps: 2
  val_check_interval: 1
  limit_val_batches: 1
  enable_progress_bar: false{CALLBACKS}"""
SMALL_DENOISER = "model: {init_args: {widths: [8, 16], blocks: 1}}"


def blocks(page: Path, language: str) -> list[str]:
    """Contents of the page's fenced blocks of a language, "" for those that name none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def commands(page: Path) -> list[list[str]]:
    """Arguments of every command of a page, without "python" and comments."""
    lines = [line for block in blocks(page, "") for line in block.splitlines() if line.startswith("python ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def small(arguments: list[str], folder: Path) -> list[str]:
    """The arguments with what makes training and calibration take seconds."""
    if arguments[:2] == ["train.py", "fit"]:
        config = folder / "small.yaml"
        config.write_text(SMALL_RUN + (SMALL_DENOISER if "denoiser" in arguments[3] else ""))
        return [*arguments, "--config", str(config)]
    if arguments[0] == "calibrate.py":
        return [*arguments, "--images", "1", "--size", "32", "--stride", "200", "--last", "200"]
    return arguments


@pytest.fixture
def visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder a visitor works in: the repository's folders and scripts, photo.jpg, and a folder photos."""
    for name in ("configs", "checkpoints"):
        (tmp_path / name).symlink_to(ROOT / name)
    for number in range(2):
        save_image(synthetic_photo(32, 40, number), tmp_path / "photos" / f"{number}.png")
    Image.fromarray(synthetic_photo(32, 40, 2).permute(1, 2, 0).numpy()).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: list[str], folder: Path) -> int:
    script, *options = small(arguments, folder)
    return import_module(f"diffpress.commands.{script.removesuffix('.py')}").main(options)


@pytest.mark.parametrize("name", BY_NAME)
def test_commands_run(name: str, visitor: Path) -> None:
    found = commands(BY_NAME[name])
    assert found
    for arguments in found:
        assert run(arguments, visitor) == 0, " ".join(arguments)


@pytest.mark.parametrize("name", SNIPPETS)
def test_python_snippets_run(name: str, visitor: Path) -> None:
    found = blocks(SNIPPETS[name], "python")
    assert found
    for code in found:
        exec(compile(code, name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_readme_is_short() -> None:
    text = BY_NAME["README"].read_text()
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1000
