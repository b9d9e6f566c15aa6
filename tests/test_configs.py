"""Every YAML file that ships is accepted by the command it is for, and none needs a folder that only we have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from diffpress.commands.train import main as train
from helpers import ROOT

FILES = sorted((ROOT / "configs").rglob("*.yaml"))
TRAINING = [path for path in FILES if "trainer" in yaml.safe_load(path.read_text())]
DATA = sorted((ROOT / "configs" / "data").glob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


def settings(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    """What train.py makes of a command line, without running it."""
    with pytest.raises(SystemExit) as exit_code:
        train([*words, "--print_config"])
    assert exit_code.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("path", TRAINING, ids=name)
def test_recipe_is_accepted_with_a_folder_of_photos(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, option = ("predict", "test") if path.stem == "predict" else ("fit", "train")
    found = settings(capsys, command, "-c", str(path), f"--data.{option}=PHOTOS")
    given = yaml.safe_load(path.read_text())
    assert found["data"][option] == "PHOTOS"
    assert found["data"]["val"] is None
    assert found["model"]["class_path"] == given["model"]["class_path"]
    assert given["model"]["init_args"].keys() <= found["model"]["init_args"].keys()
    if command == "fit":
        assert not {"train", "val", "data_dir"} & given["data"].keys()


@pytest.mark.parametrize("path", DATA, ids=name)
def test_data_is_accepted_beside_a_recipe(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ROOT / "configs" / "uqdm" / "tiny.yaml"
    found = settings(capsys, "fit", "-c", str(recipe), "--data", str(path))["data"]
    given = yaml.safe_load(path.read_text())
    assert found["val"] == given.get("val")
    assert found["crop_size"] == yaml.safe_load(recipe.read_text())["data"]["crop_size"]
    if isinstance(given["train"], list):
        assert [source["path"] for source in found["train"]] == [source["path"] for source in given["train"]]


def test_every_file_is_one_of_these_or_of_compress() -> None:
    """Those of configs/diffc name a model and a schedule for compress.py: tests/codecs/diffc/test_latent.py."""
    assert len(TRAINING) >= 8
    others = set(FILES) - set(TRAINING) - set(DATA)
    assert {path.parent.name for path in others} == {"diffc"}
    assert all({"model", "schedule"} <= yaml.safe_load(path.read_text()).keys() for path in others)


def test_the_uqdm_of_photos_starts_from_a_network_of_its_shape() -> None:
    options = yaml.safe_load((ROOT / "configs" / "uqdm" / "photo.yaml").read_text())["model"]["init_args"]
    prior = json.loads((ROOT / "checkpoints" / options["initial"] / "config.json").read_text())
    assert {key: options["network"][key] for key in ("widths", "blocks", "embedding")}.items() <= prior.items()
