"""``python train.py fit|validate|test|predict -c configs/...``: Lightning's command line over our modules and data."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.cli import ArgsType, LightningCLI

from ..data import ImageData
from .memory import keep_freed_memory


class _CommandLine(LightningCLI):
    def _parse_ckpt_path(self) -> None:
        """The options given hold for a resumed run, too: Lightning would silently take the checkpoint's instead."""


def main(args: ArgsType = None) -> int:
    """Run one sub-command; `args` replaces the command line (a list of strings)."""
    keep_freed_memory()
    # What a weight without gradient leaves in the optimizer decays into numbers so small that a CPU takes three times
    # as long for a step: 2.9 instead of 0.93 s after 1,900 steps of configs/uqdm/photo.yaml (Intel Xeon).
    torch.set_flush_denormal(True)
    try:
        _CommandLine(
            L.LightningModule, ImageData, subclass_mode_model=True, seed_everything_default=0, args=args,
            save_config_kwargs={"overwrite": True},
        )
    finally:
        torch.set_flush_denormal(False)
    return 0
