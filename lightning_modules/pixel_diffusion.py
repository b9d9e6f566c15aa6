"""What the two pixel-space training modules, UQDM and VDM, have in common.

Network, schedule, optimiser, logging, and the folder form in which trained models ship (config.json and
model.safetensors).  The losses are in uqdm.py and vdm.py.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file, save_file
from torch import Tensor

from .networks.score_net import ScoreNet, ScoreNetConfig
from .schedule import LinearSchedule, ScheduleConfig


@dataclass
class OptimizerConfig:
    """Adam with linear warm-up and, optionally, cosine decay.

    lr             learning rate after the warm-up
    warmup_steps   optimiser steps over which it rises linearly from 0
    decay_steps    step at which a cosine decay reaches a hundredth of lr; None: constant
    betas, eps, weight_decay  as in torch.optim.Adam
    """

    lr: float = 2e-4
    warmup_steps: int = 1000
    decay_steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def factor(self, step: int) -> float:
        """Multiplier of lr at optimiser step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_steps is None:
            return rise
        progress = min(1.0, step / self.decay_steps)
        return rise * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress)))


class PixelDiffusion(L.LightningModule):
    """Base of UQDM and VDM; subclasses set `kind` and write `training_step` and the evaluation steps."""

    kind: ClassVar[str]

    def __init__(
        self,
        network: ScoreNetConfig,
        schedule: ScheduleConfig,
        optimizer: OptimizerConfig,
        predict_scale: bool,
        compile: bool,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.network = ScoreNet(network, predict_scale)
        self.schedule = LinearSchedule(schedule)
        self.optimizer_config = optimizer
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()

    def model_config(self) -> dict[str, Any]:
        """Init arguments that define the model (not its training), as plain JSON values."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        c = self.optimizer_config
        adam = torch.optim.Adam(self.parameters(), lr=c.lr, betas=c.betas, eps=c.eps, weight_decay=c.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, c.factor)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def log_dict_prefixed(self, prefix: str, values: dict[str, Tensor], batch_size: int) -> None:
        """Log scalars as `prefix`/name: every step in training, averaged over the epoch and devices otherwise."""
        training = prefix == "train"
        for name, value in values.items():
            self.log(f"{prefix}/{name}", value.detach(), on_step=training, on_epoch=not training,
                     sync_dist=not training, batch_size=batch_size, prog_bar=name == "bpd")  # fmt: skip

    def log_images(self, name: str, images: list[Tensor]) -> None:
        """Send a grid to TensorBoard, one row per uint8 batch [B, 3, H, W] of `images`."""
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero:
            rows = [torch.cat(list(batch), dim=-1) for batch in images]
            self.logger.experiment.add_image(name, torch.cat(rows, dim=-2), self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diffpress"] = {"kind": self.kind, "config": json.dumps(self.model_config())}

    @property
    def fingerprint(self) -> bytes:
        """First 4 bytes of the SHA-256 over the configuration and all weights."""
        digest = hashlib.sha256(canonical_json({"kind": self.kind, "config": self.model_config()}))
        for name, value in sorted(self.state_dict().items()):
            array = value.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4")
            digest.update(name.encode() + b"\0" + array.tobytes())
        return digest.digest()[:4]

    def save_folder(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder` (made if missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"kind": self.kind, "config": self.model_config()}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, str(folder / "model.safetensors"))


def canonical_json(value: Any) -> bytes:
    """The one spelling of `value` that fingerprints are computed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_config(folder: str | Path, kind: str) -> dict[str, Any]:
    """The "config" part of `folder`/config.json; ValueError if the folder holds another kind of model."""
    config = json.loads((Path(folder) / "config.json").read_text())
    if config.get("kind") != kind:
        raise ValueError(f"{folder} holds a model of kind {config.get('kind')!r}, not {kind!r}")
    return config["config"]


def load_weights(module: PixelDiffusion, folder: str | Path, device: str | torch.device | None) -> None:
    """Fill `module` from `folder`/model.safetensors and put it on `device` in evaluation mode."""
    module.load_state_dict(load_file(str(Path(folder) / "model.safetensors")))
    module.to(device or "cpu").eval()


def load_checkpoint_config(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(model config, state dict) of a Lightning checkpoint; the averaged weights where EMA was on.

    ValueError if it was written by another kind of module.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    entry = checkpoint.get("diffpress", {})
    if entry.get("kind") != kind:
        raise ValueError(f"{path} is not a checkpoint of a {kind} model")
    # EMAWeightAveraging stores the averaged weights as "state_dict" and the current ones beside them.
    return json.loads(entry["config"]), checkpoint["state_dict"]
