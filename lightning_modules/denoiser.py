"""Training of the noise-conditional denoiser behind the shipped DiffC prior (networks/denoiser.py).

The loss is the epsilon-loss E |eps - eps_hat|^2 with log-SNR drawn evenly from a range, which is the NELBO up to a
constant (VDM eq. 17); a stated share of every batch is drawn from the narrower range that lossy coding pays for.
What turns the trained weights into a codec prior is priors/pixel.py.
"""

from __future__ import annotations

import json
import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid

from .diffusion.gaussian import alpha_sigma, diffuse
from .diffusion.pixels import psnr, to_signed
from .identity import ModelError
from .loading import find_model
from .networks.denoiser import Denoiser
from .training.optimizers import MuonAdam, split_parameters

VALIDATION_SIGMAS = (5, 15, 25, 50, 100)  # of 255 grey levels, beside unit-scale data: comparable with the literature


class DenoiserTraining(L.LightningModule):
    """Trains a :class:`Denoiser` on uint8 crops [B, 3, H, W].

    widths, blocks, embedding,
    activation                 the network's shape, see Denoiser
    initial                    folder of a trained denoiser to go on from, with the channels left inside its blocks;
                               blocks beyond its own are new and change nothing at first; None: untrained
    lr, adam_lr                learning rates of Muon (inner convolutions) and Adam (the rest)
    warmup                     steps of linear warm-up
    decay                      the last steps, over which the rate falls to zero, after being constant: a run can
                               be prolonged or brought to an end at any checkpoint; None: from the warm-up on the rate
                               falls as the square of what is left
    log_snr_range              levels drawn evenly, from nearly pure noise to far below one grey level
    focus_range, focus_share   levels from which `focus_share` of the batch is drawn instead
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (48, 96, 128, 160),
        blocks: int | list[int] = 2,
        embedding: int = 128,
        activation: str = "relu",
        initial: str | None = None,
        lr: float = 0.02,
        adam_lr: float = 1e-3,
        warmup: int = 100,
        decay: int | None = None,
        log_snr_range: tuple[float, float] = (-8.0, 13.0),
        focus_range: tuple[float, float] = (-3.0, 6.0),
        focus_share: float = 0.5,
    ) -> None:
        super().__init__()
        self.lr, self.adam_lr, self.warmup, self.decay = lr, adam_lr, warmup, decay
        self.log_snr_range, self.focus_range, self.focus_share = log_snr_range, focus_range, focus_share
        network = Denoiser(widths, blocks, embedding, activation)
        if initial is not None:
            trained = Denoiser.load(find_model(initial))
            if (trained.config["widths"], trained.config["embedding"]) != (list(widths), embedding):
                raise ModelError(f"{initial} holds no denoiser of widths {list(widths)} and embedding {embedding}")
            if trained.activation != activation:
                raise ModelError(f"{initial} was trained with {trained.activation}, not with {activation}")
            network = trained.deepened(blocks)
        self.network = network.to(memory_format=torch.channels_last)

    def draw_log_snr(self, batch: int, rng: torch.Generator) -> Tensor:
        """log-SNR [batch]: stratified draws, so that every batch covers both ranges."""
        focused = round(batch * self.focus_share)
        parts = []
        for count, (low, high) in ((focused, self.focus_range), (batch - focused, self.log_snr_range)):
            jitter = torch.rand(count, device=self.device, generator=rng)
            places = (torch.arange(count, device=self.device) + jitter) / max(count, 1)
            parts.append(low + (high - low) * places)
        return torch.cat(parts)

    def eps_loss(self, x: Tensor, log_snr: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(mean squared error of eps_hat per image [B], x0_hat [B, 3, H, W])."""
        x_hat = self.network(diffuse(x, log_snr[:, None, None, None], noise), log_snr)
        return (x_hat - x).square().mean((1, 2, 3)) * log_snr.exp(), x_hat

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        x = to_signed(batch).contiguous(memory_format=torch.channels_last)
        # noise follows from the step alone, so that a resumed run sees what an uninterrupted one would have seen
        rng = torch.Generator(self.device).manual_seed(self.global_step * self.trainer.world_size + self.global_rank)
        noise = torch.randn(x.shape, device=self.device, generator=rng)
        loss, _ = self.eps_loss(x, self.draw_log_snr(len(x), rng), noise)
        self.log("train/eps_loss", loss.mean(), prog_bar=True)
        return loss.mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        x = to_signed(batch).contiguous(memory_format=torch.channels_last)
        seeded = torch.Generator().manual_seed(batch_idx)
        noise = torch.randn(x.shape, generator=seeded).to(x)
        for grey in VALIDATION_SIGMAS:
            log_snr = torch.full((len(x),), -2 * math.log(grey / 127.5), device=x.device)
            _, x_hat = self.eps_loss(x, log_snr, noise)
            quality = psnr((x_hat + 1) * 127.5, batch).mean().float()  # of the estimate as it is, not rounded to 8 bits
            self.log(f"val/psnr_{grey}", quality, batch_size=len(x))
            if batch_idx == 0 and grey == 50 and isinstance(self.logger, TensorBoardLogger):
                alpha, _ = alpha_sigma(log_snr[0])
                pairs = torch.stack([diffuse(x, log_snr[0], noise) / alpha.to(x), x_hat], 1)[:4].flatten(0, 1)
                grid = make_grid(pairs.clamp(-1, 1) / 2 + 0.5, nrow=2)
                self.logger.experiment.add_image("val/noisy_and_denoised_50", grid, self.global_step)
        log_snrs = torch.linspace(*self.log_snr_range, 8, device=x.device)
        losses = [self.eps_loss(x, log_snr.expand(len(x)), noise)[0].mean() for log_snr in log_snrs]
        self.log("val/eps_loss", torch.stack(losses).mean(), batch_size=len(x), prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the checkpoint holds, for training/export.py."""
        checkpoint["diffpress"] = json.dumps({**self.network.config, "log_snr_range": self.log_snr_range})

    def configure_optimizers(self) -> dict[str, Any]:
        muon, adam = split_parameters(self.network, self.network.first_and_last_layers())
        optimizer = MuonAdam(muon, adam, self.lr, self.adam_lr)
        total = int(self.trainer.estimated_stepping_batches)

        def rate(step: int) -> float:
            rising = (step + 1) / max(1, self.warmup)
            left = max(0, total - step)
            falling = (left / total) ** 2 if self.decay is None else min(1.0, left / max(1, self.decay))
            return min(1.0, rising) * falling

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
