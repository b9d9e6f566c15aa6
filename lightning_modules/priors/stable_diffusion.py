"""Stable Diffusion 1.x, 2.x and SDXL: U-Nets that predict epsilon, v or x0 at the timesteps of a DDPM schedule.

Timestep t counts from 1, has alpha_t^2 = alphas_cumprod[t - 1], and is the network's own timestep t - 1: the
signal-to-noise ratio and the network agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...kernels import upload
from ..diffusion.gaussian import PREDICTIONS, x0_from_prediction
from ..identity import ModelError, with_refiner
from .components import load_pipeline
from .latent import LatentPrior, Text

REFINED = 0.2  # share of the timesteps, the cleanest ones, that SDXL's refiner was trained for
AESTHETIC, PLAIN = 6.0, 2.5  # scores the refiner is told with a prompt and without (as diffusers does)


class StableDiffusionPrior(LatentPrior):
    """SD 1.x (epsilon), SD 2.x (epsilon or v) and fine-tunings of them; options as LatentPrior."""

    def __init__(self, folder: Path, device: str | torch.device = "cpu", **options: Any) -> None:
        super().__init__(folder, device, **options)
        unet = self.pipeline.unet.config
        if unet.in_channels != self.channels:
            raise ModelError(f"{folder} denoises {unet.in_channels} channels, and its autoencoder has {self.channels}")
        self.smallest = self.factor * 2 ** (len(unet.block_out_channels) - 1)
        if self.schedule is None:
            wide = unet.cross_attention_dim >= 1024  # SD 2.x
            self.schedule = "sd21" if wide or self.prediction == "v_prediction" else "sd15"

    def _log_snrs(self) -> list[float]:
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        self.prediction = scheduler.config["prediction_type"]
        if self.prediction not in PREDICTIONS:
            raise ModelError(f"{self.folder} has the unknown prediction type {self.prediction!r}")
        return [float("inf"), *torch.logit(scheduler.alphas_cumprod.double()).tolist()]

    def _embed(self, prompt: str) -> Text:
        embedded, _ = self.pipeline.encode_prompt(prompt, self._text_device(), 1, False)
        return (embedded,)

    def _text_device(self) -> torch.device:
        return next(self._parts["text"][0].parameters()).device

    def _predict(self, z: Tensor, timestep: int, text: Text, guidance: Tensor) -> Tensor:
        time = _own_timestep(timestep, z)
        output = self.network(z.to(self.dtype), time, encoder_hidden_states=text[0]).sample
        return x0_from_prediction(self.prediction, z, output.float(), self.log_snr(timestep))


def _own_timestep(timestep: int, z: Tensor) -> Tensor:
    """The model's own timestep, which counts from 0, int64 [B].

    As a tensor it is written by a kernel: a Python number is copied to a GPU, which waits, and compiled networks are
    compiled anew for each.
    """
    return torch.full((len(z),), timestep - 1, device=z.device)


class SDXLPrior(StableDiffusionPrior):
    """SDXL, told the size of the picture; optionally with its refiner at the cleanest 20 % of the timesteps.

    refiner  folder of the refiner's pipeline; it shares the autoencoder and the second text encoder
    """

    schedule = "sdxl"

    def __init__(
        self, folder: Path, device: str | torch.device = "cpu", refiner: Path | None = None, **options: Any
    ) -> None:
        super().__init__(folder, device, **options)
        self.refiner: Any = None
        if refiner is None:
            return
        shared = {name: getattr(self.pipeline, name) for name in ("vae", "text_encoder_2", "tokenizer_2")}
        with self._enough_memory():
            self.refiner, _, fingerprint = load_pipeline(refiner, self.dtype, options.get("variant"), **shared)
        network = self.refiner.unet
        if network.config.in_channels != self.channels or not hasattr(network, "add_embedding"):
            raise ModelError(f"{refiner} is not an SDXL refiner")
        self.fingerprint = with_refiner(self.fingerprint, fingerprint)
        self.smallest = max(self.smallest, self.factor * 2 ** (len(network.config.block_out_channels) - 1))
        self.refiner_network = self._prepare(network, options.get("compile", False))
        self._parts["network"].append(network)
        if self.offload == "none":
            with self._enough_memory():
                network.to(self.device)

    def _embed(self, prompt: str) -> Text:
        text = self._embed_with(self.pipeline, prompt)
        if self.refiner is None:
            return text
        score = torch.tensor([AESTHETIC if prompt else PLAIN], device=text[0].device)
        return *text, *self._embed_with(self.refiner, prompt), score

    def _embed_with(self, pipeline: Any, prompt: str) -> Text:
        """(embeddings, pooled embedding); zeros for no prompt where the model was trained so."""
        embedded, _, pooled, _ = pipeline.encode_prompt(
            prompt, device=self._text_device(), do_classifier_free_guidance=False
        )
        if not prompt and pipeline.config.get("force_zeros_for_empty_prompt"):
            return torch.zeros_like(embedded), torch.zeros_like(pooled)
        return embedded, pooled

    def _predict(self, z: Tensor, timestep: int, text: Text, guidance: Tensor) -> Tensor:
        count, size = len(z), [side * self.factor for side in z.shape[-2:]]
        if self.refiner is not None and timestep <= REFINED * self.num_levels:
            network, embedded, pooled = self.refiner_network, text[2], text[3]
            ids = upload(torch.tensor([*size, 0, 0]), z.device).expand(count, 4)
            ids = torch.cat([ids, text[4].float()[:, None]], 1)
        else:
            network, embedded, pooled = self.network, text[0], text[1]
            ids = upload(torch.tensor([*size, 0, 0, *size]), z.device).expand(count, 6)
        added = {"text_embeds": pooled, "time_ids": ids.to(self.dtype)}
        time = _own_timestep(timestep, z)
        output = network(z.to(self.dtype), time, encoder_hidden_states=embedded, added_cond_kwargs=added).sample
        return x0_from_prediction(self.prediction, z, output.float(), self.log_snr(timestep))
