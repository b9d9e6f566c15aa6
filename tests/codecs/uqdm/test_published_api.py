"""The calls of the original README."""

from pathlib import Path

import pytest
import torch

from diffpress.codecs.uqdm.published_api import load_checkpoint, load_data
from diffpress.data import save_image
from diffpress.lightning_modules.diffusion.noise_schedule import ScheduleConfig
from diffpress.lightning_modules.networks.score_net import ScoreNetConfig
from diffpress.lightning_modules.uqdm import UQDM


def test_load_train_evaluate_compress_decompress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = ScoreNetConfig(embedding_dim=8, norm_groups=4, mid_attention=False, patch_size=2, preconditioned=True)
    UQDM(network, ScheduleConfig(-12.0, 6.0), n_steps=2).save_folder(tmp_path / "model")
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    (tmp_path / "photos").mkdir()
    save_image(image, tmp_path / "photos" / "a.png")

    model = load_checkpoint(tmp_path / "model")
    train_iter, eval_iter = load_data(str(tmp_path / "photos"), {"batch_size": 1}, data_dir=str(tmp_path))
    model.trainer(
        train_iter, max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    result = model.evaluate(eval_iter, n_batches=1)
    assert len(result["bpd"]) == len(result["psnr_flow"]) == 4
    assert result["bpp"][-1] == pytest.approx(3 * result["bpd"][-1])
    assert "psnr_ancestral" in capsys.readouterr().out
    reconstructions = model.decompress(model.compress(image))
    assert len(reconstructions) == 4
    assert torch.equal(reconstructions[-1], image)
