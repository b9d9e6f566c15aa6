"""Models replaced, sources gone, clocks that jump, folders that nobody can write, what killed processes left."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpress.codecs import container, get_codec
from diffpress.commands.batch import run_batch
from diffpress.commands.coding import Compressing
from diffpress.commands.compress import main as compress
from diffpress.commands.errors import UsageError
from diffpress.commands.manifest import Manifest, read_manifests
from diffpress.commands.options import Routed
from diffpress.commands.train import main as train
from diffpress.data import save_image
from diffpress.lightning_modules import ModelError, load_model, loading
from diffpress.lightning_modules.training.checkpoints import AtomicCheckpoints
from helpers import ROOT, EndsAtC, synthetic_photo

PHOTO = synthetic_photo(24, 32, 1)


@pytest.mark.parametrize("shipped", ["checkpoints/diffc-pixel-2", "tests/golden/diffc-model"])
def test_a_model_overwritten_while_it_is_used_changes_no_file(shipped: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / shipped, tmp_path / "model")
    expected, used = (get_codec("diffc", model=load_model(folder, device="cpu"), preset="fast" if "pixel" in shipped
                                else "default") for folder in (ROOT / shipped, tmp_path / "model"))  # fmt: skip
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    size = weights.stat().st_size
    with weights.open("r+b") as file:  # in place, as cp does
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    files = [container.write(codec.encode(PHOTO, segments=3), codec) for codec in (expected, used)]
    assert files[0] == files[1]


def test_a_model_changed_while_it_is_read_is_refused(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, model = loading._load_folder, shutil.copytree(tiny_prior, tmp_path / "model")

    def slowly(folder: Path, *more: Any) -> Any:
        model = read(folder, *more)
        (folder / "prior.json").write_text((folder / "prior.json").read_text() + " ")
        return model

    monkeypatch.setattr(loading, "_load_folder", slowly)
    with pytest.raises(ModelError, match="was changed while it was read"):
        load_model(model, device="cpu")


def test_processes_that_find_another_model_are_refused(tmp_path: Path) -> None:
    jobs = [(tmp_path / name, tmp_path / f"{name}.out") for name in "abde"]
    assert run_batch(jobs, EndsAtC(b"one"), 2) == 0
    with pytest.raises(UsageError, match="the model was replaced while this ran"):
        run_batch(jobs, EndsAtC(b"id"), 2)


def test_resume_makes_files_of_another_uqdm_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same folder name and options, other contents."""
    save_image(PHOTO, tmp_path / "photos" / "a.png")
    model = tmp_path / "model"
    shutil.copytree(ROOT / "tests" / "golden" / "uqdm-model", model)
    words = [str(tmp_path / "photos"), "--codec", "uqdm", "--segments", "1", "--model", str(model), "--device", "cpu",
             "-o", str(tmp_path / "out"), "--resume"]  # fmt: skip
    assert compress(words) == 0
    first = read_manifests(tmp_path / "out")["a.uqdm"]
    assert len(first["model"]) == 8
    assert compress(words) == 0
    assert "there already" in capsys.readouterr().out
    (model / "note.json").write_text("{}")  # part of a model's identity
    assert compress(words) == 0
    assert "there already" not in capsys.readouterr().out
    second = read_manifests(tmp_path / "out")["a.uqdm"]
    assert second["model"] != first["model"]
    assert (tmp_path / "out" / "a.uqdm").read_bytes()[3:7].hex() == second["model"]


def test_a_source_that_is_gone_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image(PHOTO, tmp_path / "b.png")
    settings = Compressing("webp", None, None, Routed({}, {}, {}))
    jobs = [(tmp_path / f"{name}.png", tmp_path / f"{name}.webp") for name in "abc"]
    with Manifest(tmp_path, "") as manifest:
        assert run_batch(jobs, settings, 1, manifest) == 1
    assert (tmp_path / "b.webp").is_file()
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    found = read_manifests(tmp_path)
    assert [found[f"{name}.webp"]["status"] for name in "abc"] == ["failed", "done", "failed"]


def test_clocks_that_jump_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        save_image(PHOTO, tmp_path / "photos" / f"{name}.png")
    words = [str(tmp_path / "photos"), "--codec", "webp", "-o", str(tmp_path / "out"), "--resume"]
    now = iter(range(10**9, 0, -10**5))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert compress(words) == compress(words) == 0
    found = read_manifests(tmp_path / "out")
    assert all(0 <= entry["seconds"] < 10 for entry in found.values())


def test_resume_removes_what_killed_processes_left_of_its_own_files(tmp_path: Path) -> None:
    for name in ("a", "deep/b"):
        save_image(PHOTO, tmp_path / "photos" / f"{name}.png")
    left = [".a.webp.k3j_x9zq.tmp", ".manifest.jsonl.aaaaaaaa.tmp", "deep/.b.webp.11111111.tmp"]
    others = [".c.webp.k3j_x9zq.tmp", ".b.webp.11111111.tmp", ".tmp", "a.webp.tmp"]
    for name in [*left, *others]:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    words = [str(tmp_path / "photos"), "--codec", "webp", "-o", str(tmp_path / "out")]
    assert compress([*words, "--resume"]) == 0
    assert not any((tmp_path / "out" / name).exists() for name in left)
    assert all((tmp_path / "out" / name).exists() for name in others)


def test_a_folder_that_nobody_can_write_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"manifest\.jsonl: cannot be written \(Not a directory\)"):
        Manifest(tmp_path / "file" / "out", "")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_checkpoints_are_renamed_within_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is moved from another file system is copied over the last good one."""
    monkeypatch.chdir(tmp_path)  # where Lightning writes its settings
    for number in range(2):
        save_image(synthetic_photo(16, 16, number), tmp_path / "photos" / f"{number}.png")
    monkeypatch.setattr(shutil, "move", lambda *_: pytest.fail("moved"))
    model, trainer = "--model.init_args.", "--trainer."
    assert train([
        "fit", "-c", str(ROOT / "configs" / "uqdm" / "tiny.yaml"), f"--data.train={tmp_path / 'photos'}",
        f"--data.val={tmp_path / 'photos'}", "--data.crop_size=16", f"{model}network.embedding_dim=8",
        f"{model}network.norm_groups=4", f"{model}network.mid_attention=false", f"{trainer}max_steps=1",
        f"{trainer}accelerator=cpu", f"{trainer}enable_progress_bar=false", f"{trainer}num_sanity_val_steps=0",
        f"{trainer}default_root_dir={tmp_path}", f"{trainer}callbacks.every_n_train_steps=1", f"{trainer}logger=false",
    ]) == 0  # fmt: skip
    found = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["global_step"] == 1
    monkeypatch.setattr("os.replace", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        AtomicCheckpoints().save_checkpoint({}, tmp_path / "checkpoints" / "last.ckpt")
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1
