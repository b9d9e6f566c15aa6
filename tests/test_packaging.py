"""The import name works from a checkout, with links or without, in worker processes, and after an installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffpress import resource
from helpers import ROOT

PROGRAM = """
import codecs, multiprocessing
from diffpress.codecs import get_codec
from diffpress.data import load_data
from diffpress.kernels import get_backend
from diffpress.lightning_modules import load_model
from diffpress import resource

def name(_):
    import diffpress.codecs.container
    return diffpress.codecs.container.__name__

if __name__ == "__main__":
    assert codecs.lookup("utf-8")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(name, [0]) == ["diffpress.codecs.container"]
    assert (resource("kernels") / "philox.cuh").is_file() or list(resource("kernels").glob("*.cu"))
    assert resource("configs").is_dir()
    print(resource("codecs"))
"""


def run(folder: Path, path: Path, *command: str) -> str:
    environment = {"PYTHONPATH": str(path), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_another_working_directory_and_in_workers(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert str(ROOT) in run(tmp_path, ROOT, sys.executable, "program.py")
    assert "usage" in run(tmp_path, tmp_path, sys.executable, str(ROOT / "decompress.py"), "--help")


def test_after_installation(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    done = subprocess.run([*install, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "program.py").write_text(PROGRAM)
    assert str(site) in run(tmp_path, site, sys.executable, "program.py")
    assert "usage" in run(tmp_path, site, sys.executable, str(site / "bin" / "diffpress-compress"), "--help")


def test_every_folder_has_its_link() -> None:
    """Editors and type checkers look at files: docs/decisions/0001-import-name.md."""
    for folder in ("checkpoints", "codecs", "configs", "data", "evaluation", "kernels", "lightning_modules"):
        assert (ROOT / "diffpress" / folder).resolve() == ROOT / folder


def test_a_checkout_without_links(tmp_path: Path) -> None:
    """What git makes of links where it may not make any: files that hold their targets."""
    package = tmp_path / "diffpress"
    package.mkdir()
    for entry in (ROOT / "diffpress").iterdir():
        if entry.is_symlink():
            (package / entry.name).write_text(str(entry.readlink()))
            (tmp_path / entry.name).symlink_to(ROOT / entry.name)
        elif entry.suffix == ".py":
            (package / entry.name).write_text(entry.read_text())
    program = "import diffpress.codecs.base as base, diffpress as d; print(base.__file__, d.resource('configs'))"
    assert str(tmp_path / "codecs" / "base.py") in run(tmp_path, tmp_path, sys.executable, "-c", program)


def test_missing_resource_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="checkpoints/none"):
        resource("checkpoints/none")
