"""``python train.py fit|validate|test|predict -c configs/...``: Lightning's command line over our modules and data."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.cli import ArgsType, LightningCLI

from ..data import ImageData, ImageError
from ..lightning_modules import ModelError
from .errors import run


class _CommandLine(LightningCLI):
    def _parse_ckpt_path(self) -> None:
        """The options given hold for a resumed run, too: Lightning would silently take the checkpoint's instead."""


def main(args: ArgsType = None) -> int:
    """Exit code of one sub-command, 2 where a model or data cannot be used; `args` replaces the command line."""
    # What a weight without gradient leaves in the optimizer decays into numbers so small that a CPU takes three times
    # as long for a step: 2.9 instead of 0.93 s after 1,900 steps of configs/uqdm/photo.yaml (Intel Xeon).
    torch.set_flush_denormal(True)
    try:
        return run(lambda: _command(args))
    finally:
        torch.set_flush_denormal(False)


def _command(args: ArgsType) -> int:
    try:
        _CommandLine(
            L.LightningModule, ImageData, subclass_mode_model=True, seed_everything_default=0, args=args,
            save_config_kwargs={"overwrite": True},
        )
    except (TypeError, ValueError) as error:
        cause: BaseException | None = error  # the command line wraps what a constructor raises
        while cause is not None and not isinstance(cause, (ImageError, ModelError)):
            cause = cause.__cause__
        raise (cause or error) from error.__cause__
    return 0
