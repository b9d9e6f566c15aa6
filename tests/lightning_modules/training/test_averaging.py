"""The averaged weights of a run: exact values, and what a resumed run makes of them."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from diffpress import resource
from diffpress.lightning_modules.training.averaging import EMA


class Falling(lightning.LightningModule):
    """A weight that is 100 - k^2 after step k, beside a buffer that never changes."""

    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(100.0))
        self.register_buffer("constant", torch.tensor(0.1))
        self.validated: list[float] = []

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return self.weight * (2 * self.global_step + 1)  # its gradient: (k + 1)^2 - k^2

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.validated.append(float(self.weight))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(folder: Path, steps: int, decay: float, resume: Path | None = None) -> tuple[Falling, dict]:
    """The module after `steps` steps, with a validation after each, and the checkpoint written after the last."""
    module = Falling()
    batches = DataLoader([torch.zeros(1)] * 4, batch_size=None)
    lightning.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, val_check_interval=1, limit_val_batches=1,
        callbacks=[EMA(decay), ModelCheckpoint(folder, "last", every_n_train_steps=steps)],
    ).fit(module, batches, batches, ckpt_path=resume)  # fmt: skip
    return module, torch.load(folder / "last.ckpt", weights_only=True)


def averages(steps: int, decay: float) -> list[float]:
    """The definition: d = min(decay, (1 + n) / (10 + n)) after n updates; the first update copies."""
    result = [99.0]
    for n in range(1, steps):
        d = min(decay, (1 + n) / (10 + n))
        result.append(d * result[-1] + (1 - d) * (100.0 - (n + 1) ** 2))
    return result


@pytest.mark.parametrize("decay", [0.9999, 0.25])
def test_the_average_is_exact_validated_saved_and_left_in_the_module(tmp_path: Path, decay: float) -> None:
    module, checkpoint = fit(tmp_path, 6, decay)
    expected = averages(6, decay)
    assert module.validated == pytest.approx(expected, rel=1e-6)
    assert module.weight.item() == pytest.approx(expected[-1], rel=1e-6)
    assert float(checkpoint["state_dict"]["weight"]) == pytest.approx(expected[-1], rel=1e-6)
    assert float(checkpoint["current_model_state"]["weight"]) == 64.0
    assert int(checkpoint["averaging_state"]["n_averaged"]) == 6
    assert torch.equal(module.constant, torch.tensor(0.1))


def test_first_averages_by_hand() -> None:
    assert averages(3, 0.9999) == pytest.approx([99.0, 99.0 - 3 * 9 / 11, (99.0 - 27 / 11) / 4 + 91.0 * 3 / 4])


def test_resumed_averages_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    whole, checkpoint = fit(tmp_path / "whole", 7, 0.3)
    fit(tmp_path / "half", 3, 0.3)
    resumed, again = fit(tmp_path / "resumed", 7, 0.3, resume=tmp_path / "half" / "last.ckpt")
    assert resumed.validated == whole.validated[3:]
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert again[part] == checkpoint[part]


def test_every_training_recipe_averages_its_weights_this_way() -> None:
    recipes = [path for path in resource("configs").glob("*/*.yaml") if "max_steps" in path.read_text()]
    recipes = [path for path in recipes if path.parent.name != "pixels"]  # not a network that denoises
    assert len(recipes) >= 8
    average = "diffpress.lightning_modules.training.averaging.EMA"
    assert [path for path in recipes if average not in path.read_text()] == []
