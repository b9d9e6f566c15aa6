"""train.py export: checkpoints of every kind, older ones too, and what it says of files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffpress.commands.train import main
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.networks.denoiser import Denoiser
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.uqdm import UQDM
from diffpress.lightning_modules.vdm import VDM

NETWORK = ScoreNetConfig(embedding_dim=8, norm_groups=4, mid_attention=False, patch_size=2)


@pytest.mark.parametrize("kind", [UQDM, VDM])
def test_the_kind_of_a_checkpoint_is_recognised(kind: type[UQDM] | type[VDM], tmp_path: Path) -> None:
    module = kind(NETWORK, ScheduleConfig(-9.0, 5.0), n_steps=2)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "run.ckpt")
    assert main(["export", str(tmp_path / "run.ckpt"), str(tmp_path / "model")]) == 0
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == module.folder_config()
    load_model(tmp_path / "model", device="cpu")


def test_a_denoiser_checkpoint_of_earlier_versions_is_exported(tmp_path: Path) -> None:
    """They have "hyper_parameters", as Lightning writes them, and no entry "diffpress"."""
    network = Denoiser((8, 12), 1, 16)
    settings = {"widths": (8, 12), "blocks": 1, "embedding": 16, "lr": 0.02, "log_snr_range": (-8.0, 13.0)}
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": settings}, tmp_path / "run.ckpt")
    assert main(["export", str(tmp_path / "run.ckpt"), str(tmp_path / "model")]) == 0
    prior = load_model(tmp_path / "model", device="cpu")
    assert (prior.log_snr(0), prior.log_snr(1000)) == (13.0, -8.0)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in prior.network.state_dict().items())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "run.ckpt is missing"),
        (b"junk", "run.ckpt is damaged, or no checkpoint"),
        ({"state_dict": {}}, "no checkpoint of a denoiser, UQDM or VDM ('hyper_parameters' is missing)"),
        ({"diffpress": '{"_class_name": "Sofa"}', "state_dict": {}}, "it holds a model of kind Sofa"),
        ({"diffpress": '{"_class_name": "UQDM"}', "state_dict": {}}, "no checkpoint of a denoiser, UQDM or VDM"),
        ([1, 2], "no checkpoint of a denoiser, UQDM or VDM"),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    content: object, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert main(["export", str(path), str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("words", [[], ["run.ckpt"], ["run.ckpt", "model", "--whole"]])
def test_wrong_command_lines_are_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_model_folder_is_no_checkpoint(tiny_prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_prior), str(tmp_path / "model")]) == 2
    assert "is a model folder already" in capsys.readouterr().err
