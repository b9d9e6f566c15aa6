"""``python train.py fit|validate|test|predict|export``: Lightning's command line over our modules, and export."""

from __future__ import annotations

import logging
import sys
import textwrap
from argparse import ArgumentError
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.cli import ArgsType, LightningCLI

from ..data import ImageData, ImageError
from ..lightning_modules import ModelError
from ..lightning_modules.training.checkpoints import AtomicCheckpoints
from ..lightning_modules.training.export import export
from .command_line import CommandLine
from .errors import NothingAsked, UsageError, run
from .options import options_of

EXAMPLES = """python train.py fit -c configs/denoiser/pixel.yaml --data.train photos
python train.py fit -c configs/denoiser/pixel.yaml --data.train photos --ckpt_path LAST.ckpt    # goes on
python train.py export LAST.ckpt my-model
python train.py export LAST.ckpt my-model --integers photos
"""
HELP = f"""usage: train.py {{fit,validate,test,predict,export}} ...

Train, validate and test models, and turn a checkpoint into a model folder for compress.py --model.

examples:
{textwrap.indent(EXAMPLES, "  ")}
sub-commands:
  fit       train on --data.train; the recipes are in configs/denoiser, configs/uqdm and configs/vdm
  validate  measure --ckpt_path FILE on the validation photos
  test      measure whole images: UQDM and VDM with --ckpt_path FILE, or the codec DiffC
  predict   compress images with DiffC, spread over devices
  export    make a model folder of a checkpoint

Every one has its own --help; fit -c CONFIG --print_config shows all settings.
"""

_PARSERS = {"exit_on_error": False} | {
    name: {"exit_on_error": False} for name in LightningCLI.subcommands()
}


class _CommandLine(LightningCLI):
    def _parse_ckpt_path(self) -> None:
        """The options given hold for a resumed run, too: Lightning would silently take the checkpoint's instead."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = AtomicCheckpoints()
        return trainer


def main(args: ArgsType = None) -> int:
    """Exit code of one sub-command, 2 where a model or data cannot be used; `args` replaces the command line."""
    words = sys.argv[1:] if args is None else args
    if words in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    if isinstance(words, list) and words[:1] == ["export"]:
        return run(lambda: _export(words[1:]))
    # What a weight without gradient leaves in the optimizer decays into numbers so small that a CPU takes three times
    # as long for a step: 2.9 instead of 0.93 s after 1,900 steps of configs/uqdm/photo.yaml (Intel Xeon).
    torch.set_flush_denormal(True)
    try:
        return run(lambda: _command(words, args))
    finally:
        torch.set_flush_denormal(False)


def _refuse(message: str) -> NoReturn:
    raise ModelError(f"{' '.join(message.split())} (--help shows the options)")


def _export(words: list[str]) -> int:
    p = CommandLine("train.py export", "Turn a checkpoint of train.py fit into a model folder.", [
        "train.py export LAST.ckpt my-model",
    ])  # fmt: skip
    options = options_of("lightning_modules/training/export.py", "export")
    for name in ("checkpoint", "folder"):
        p.add_argument(name, type=Path, help=options.pop(name).help)
    p.add_options("options", options.values())
    export(**{name: value for name, value in vars(p.parse_args(words)).items() if value is not None})
    return 0


def _command(words: ArgsType, args: ArgsType) -> int:
    if words == []:
        raise NothingAsked(EXAMPLES.rstrip())
    if isinstance(words, list) and words[0][:1] != "-" and words[0] not in LightningCLI.subcommands():
        _refuse(f"there is no sub-command {words[0]!r}")
    # these list devices and tips before they know whether anything can start
    names = "pytorch.utilities.rank_zero", "fabric.utilities.seed"
    loggers = [logging.getLogger(f"lightning.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        _CommandLine(
            L.LightningModule, ImageData, subclass_mode_model=True, seed_everything_default=0, args=args,
            save_config_kwargs={"overwrite": True}, parser_kwargs=_PARSERS,
        )
    except ArgumentError as error:
        if "required" in str(error) and str(error).endswith(".model"):
            raise UsageError("name a recipe with -c, e.g. -c configs/denoiser/pixel.yaml") from None
        _refuse(str(error))
    except (TypeError, ValueError) as error:
        cause: BaseException | None = error  # the command line wraps what a constructor raises
        while cause is not None and not isinstance(cause, (ImageError, ModelError)):
            cause = cause.__cause__
        raise (cause or error) from error.__cause__
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return 0
