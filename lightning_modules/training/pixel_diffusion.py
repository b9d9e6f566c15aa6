"""What the two pixel-space training modules, UQDM and VDM, have in common.

Network, schedule, optimiser, logging, and the folder form in which trained models ship (config.json and
model.safetensors).  The losses are in uqdm.py and vdm.py.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...data.tiling import tile
from ..diffusion.noise_schedule import LinearSchedule, ScheduleConfig
from ..diffusion.pixels import psnr
from ..identity import ModelError, fingerprint, of_module, read_json
from ..networks.scaled_denoiser import DenoiserConfig, ScaledDenoiser
from ..networks.score_net import ScoreNet, ScoreNetConfig
from .optimizers import MuonAdam, split_parameters


@dataclass
class OptimizerConfig:
    """Adam with linear warm-up and, optionally, cosine decay.

    lr             Adam's learning rate after the warm-up
    muon_lr        inner convolutions are trained by Muon at this rate (optimizers.py), which takes far fewer steps, and
                   only the rest by Adam, best with betas (0.9, 0.99); None: Adam for everything
    warmup_steps   optimiser steps over which both rates rise linearly from 0
    decay_steps    step at which a cosine decay reaches a hundredth of the rates; None: constant
    betas, eps     as in torch.optim.Adam
    weight_decay   as in torch.optim.Adam; Muon has none, so that both together raise ValueError
    """

    lr: float = 2e-4
    muon_lr: float | None = None
    warmup_steps: int = 1000
    decay_steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.muon_lr is not None and self.weight_decay:
            raise ValueError("weight_decay is for Adam alone: it cannot be combined with muon_lr")

    def factor(self, step: int) -> float:
        """Multiplier of lr at optimiser step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_steps is None:
            return rise
        progress = min(1.0, step / self.decay_steps)
        return rise * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress)))


@dataclass
class Cost:
    """Negative ELBO in bits per dimension (bpd).

    prior           [B]     KL(q(z_1 | x) || N(0, I)); zero where z_1 is shared noise
    steps           [B, T]  one message per diffusion step; VDM: [B, 1], all of them from one random time per image
    reconstruction  [B]     -log p(x | z_0)
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """[B], bits per dimension."""
        return self.prior + self.steps.sum(dim=1) + self.reconstruction


class PixelDiffusion(L.LightningModule):
    """Base of UQDM and VDM; subclasses set `kind` and write `training_cost` and the evaluation steps."""

    kind: ClassVar[str]  # "_class_name" in config.json

    def __init__(
        self,
        network: ScoreNetConfig | DenoiserConfig,
        schedule: ScheduleConfig,
        optimizer: OptimizerConfig,
        predict_scale: bool,
        compile: bool,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.network: ScoreNet | ScaledDenoiser
        if isinstance(network, DenoiserConfig):
            self.network = ScaledDenoiser(network, predict_scale)
        else:
            self.network = ScoreNet(network, predict_scale)
        self.schedule = LinearSchedule(schedule)
        self.optimizer_config = optimizer
        self.folder_fingerprint: bytes | None = None
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()

    @classmethod
    def from_config(cls, config: dict[str, Any], **training: Any) -> Self:
        """The model of a `model_config()`, or of that of config.json; `training` are further init arguments."""
        kind = DenoiserConfig if "widths" in config["network"] else ScoreNetConfig
        nested = {"network": kind(**config["network"]), "schedule": ScheduleConfig(**config["schedule"])}
        return cls(**{**config, **nested}, **training)

    @abstractmethod
    def model_config(self) -> dict[str, Any]:
        """Init arguments that define the model (not its training), as plain JSON values."""

    @abstractmethod
    def training_cost(self, batch: Tensor) -> Cost:
        """What training minimises, of uint8 images [B, 3, H, W]; noise from torch's generator."""

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        with self.noise_of_step():
            cost = self.training_cost(batch)
        self.log_cost("train", cost, batch)
        return cost.total.mean()

    def folder_config(self) -> dict[str, Any]:
        """The contents of config.json."""
        return {"_class_name": self.kind, **self.model_config()}

    def configure_optimizers(self) -> Any:
        c = self.optimizer_config
        optimizer: torch.optim.Optimizer
        if c.muon_lr is None:
            optimizer = torch.optim.Adam(self.parameters(), c.lr, c.betas, c.eps, c.weight_decay)
        else:
            muon, adam = split_parameters(self, self.network.first_and_last_layers())
            optimizer = MuonAdam(muon, adam, c.muon_lr, c.lr, c.betas, c.eps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, c.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @contextmanager
    def noise_of_step(self) -> Iterator[None]:
        """Inside, torch's generators are seeded by training step and rank alone; outside, nothing changes.

        So a resumed run sees the noise that an uninterrupted one would have seen.
        """
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.global_step * self.trainer.world_size + self.global_rank)
            yield

    def log_dict_prefixed(self, prefix: str, values: dict[str, Tensor], batch_size: int) -> None:
        """Log scalars as `prefix`/name: every step in training, averaged over the epoch and devices otherwise."""
        training = prefix == "train"
        for name, value in values.items():
            self.log(f"{prefix}/{name}", value.detach(), on_step=training, on_epoch=not training,
                     sync_dist=not training, batch_size=batch_size, prog_bar=name == "bpd")  # fmt: skip

    def log_cost(self, prefix: str, cost: Cost, batch: Tensor) -> None:
        """Log the parts of `cost` of a batch [B, C, H, W], and but for training every step of several."""
        scalars = {
            "bpd": cost.total.mean(),
            "bpd_prior": cost.prior.mean(),
            "bpd_diffusion": cost.steps.sum(1).mean(),
            "bpd_reconstruction": cost.reconstruction.mean(),
            "bpp": cost.total.mean() * batch.shape[1],
        }
        if prefix != "train" and cost.steps.shape[1] > 1:
            scalars |= {f"bpd_step/{i + 1}": step.mean() for i, step in enumerate(cost.steps.T)}
        self.log_dict_prefixed(prefix, scalars, len(batch))

    def log_psnr(self, prefix: str, name: str, image: Tensor, original: Tensor) -> None:
        """Log as `prefix`/psnr_`name` the mean PSNR in dB of uint8 images [B, 3, H, W]; an exact one counts 100."""
        mean = psnr(image, original).clamp(max=100.0).mean().float()
        self.log_dict_prefixed(prefix, {f"psnr_{name}": mean}, len(original))

    @staticmethod
    def test_batches(batch: Tensor | tuple[str, Tensor]) -> tuple[Tensor, ...]:
        """A test image (name, uint8 [3, H, W]) as batches of 64 x 64 tiles; a batch [B, 3, H, W] as it is."""
        return (batch,) if isinstance(batch, Tensor) else tile(batch[1], 64).split(8)

    def log_images(self, name: str, images: list[Tensor]) -> None:
        """Send a grid to TensorBoard, one row per uint8 batch [B, 3, H, W] of `images`."""
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero:
            rows = [torch.cat(list(batch), dim=-1) for batch in images]
            self.logger.experiment.add_image(name, torch.cat(rows, dim=-2), self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diffpress"] = json.dumps(self.folder_config())

    def on_fit_start(self) -> None:
        self.folder_fingerprint = None

    @property
    def fingerprint(self) -> bytes:
        """4 bytes that say which model this is: those of the folder it was loaded from, unless trained since.

        Those of a model that comes from no folder follow from its configuration and weights (identity.of_module).
        """
        if self.folder_fingerprint is not None:
            return self.folder_fingerprint
        return of_module(self.folder_config(), self.state_dict())

    def save_folder(self, folder: str | Path, half: bool = False) -> None:
        """Write config.json and model.safetensors into `folder` (made if missing).

        half  store the network in half precision; it is computed in single precision all the same
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.folder_config(), indent=2) + "\n")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        if half:
            weights |= {name: value.half() for name, value in weights.items() if name.startswith("network.")}
        save_file(weights, str(folder / "model.safetensors"))


# what unfit configurations and weights raise where they are put to use
UNFIT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, SafetensorError)


@contextmanager
def refused_as(sentence: str) -> Iterator[None]:
    """Turn UNFIT errors inside into a ModelError: `sentence`, then the reason in brackets."""
    try:
        yield
    except ModelError:
        raise
    except UNFIT as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise ModelError(f"{sentence} ({reason})") from error


def read_checkpoint(path: Path) -> Any:
    """What torch.save wrote to `path`, if it is tensors and plain values alone; raises ModelError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except Exception as error:  # bytes that are no checkpoint raise whatever their reader stumbles over
        raise ModelError(f"{path} is damaged, or no checkpoint") from error


Module = TypeVar("Module", bound=PixelDiffusion)


def load_folder(folder: str | Path, cls: type[Module], device: str | torch.device | None) -> Module:
    """The module of class `cls` in `folder`, on `device` (None: CPU), in evaluation mode.

    ModelError if the folder holds another kind of model, or no weights that fit its configuration.
    """
    config = read_json(Path(folder) / "config.json")
    found = config.pop("_class_name", None)
    if found != cls.kind:
        raise ModelError(f"{folder} holds a model of kind {found}, not {cls.kind}")
    with refused_as(f"{Path(folder) / 'config.json'} describes no {cls.kind}"):
        module = cls.from_config(config)
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{path} is missing")
    with refused_as(f"{path} is damaged"):
        weights = load_file(str(path))
    with refused_as(f"the weights of {folder} do not fit its configuration"):
        module.load_state_dict(weights)
    module.to(device or "cpu").eval()
    module.folder_fingerprint = fingerprint(Path(folder))
    return module
