"""Any text-to-image pipeline of diffusers as a prior, driven through its own call, so that a new model needs no code.

The pipeline runs as if it made an image in one step, with three of its parts exchanged for that time: where it draws
noise it gets z; its scheduler knows one noise level and hands on what the network says; and what it gives to its
autoencoder is taken from it.  So text, guidance, packing into patches and the network's arguments are the pipeline's
own.  A call without a step leads from z to the autoencoder alone: an image of zeros, one of ones and some of numbers
show where each value goes and what it is multiplied with and added to (:class:`Route`), which is then undone.

Stable Diffusion, SDXL, SD 3 and Flux.1 have adapters of their own (stable_diffusion.py, flow.py), which can offload.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ...data.tiling import crop, pad_to_multiple
from ..diffusion.gaussian import PREDICTIONS, x0_from_prediction
from ..diffusion.pixels import from_signed, to_signed
from ..identity import ModelError
from .components import load_pipeline
from .flow import NUM_LEVELS, flow_log_snr, to_flow, x0_from_velocity
from .interface import Prior, Reconstruction, enough_memory
from .latent import as_dtype


class _Stopped(Exception):
    """Ends a pipeline's call where all is known that was wanted."""


class OneStep:
    """In place of a pipeline's scheduler: `times`, of one timestep or none, and the network's output as the result."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, config: Any, end: Sequence[float] = ()) -> None:
        self.config, self.end = config, list(end)  # what follows the last timestep
        self.times: list[float] = []
        self.keep = False

    def set_timesteps(
        self, num_inference_steps: Any = None, device: Any = None, timesteps: Any = None, sigmas: Any = None,
        mu: Any = None, **more: Any,
    ) -> None:
        """The one timestep, whatever is asked for."""
        kind = torch.int64 if all(isinstance(time, int) for time in self.times) else torch.float32
        self.timesteps = torch.tensor(self.times + self.end, dtype=kind, device=device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing: there is one step."""

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """`sample` as it is."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        """What the network said, or what it was given if `keep`, in float32 or float64."""
        result = _float(sample if self.keep else model_output)
        return result, result


@dataclass(frozen=True)
class Route:
    """How a pipeline brings z to its autoencoder: raw = factor * z[place] + offset, here in float64.

    shape     of z as the pipeline asks for it, without the batch
    raw       shape of what the autoencoder gets, without the batch
    """

    shape: tuple[int, ...]
    raw: tuple[int, ...]
    place: Tensor
    factor: Tensor
    offset: Tensor

    def back(self, raw: Tensor) -> Tensor:
        """z [B, *shape] of raw [B, *raw]."""
        z = torch.empty_like(raw.flatten(1), dtype=torch.float64)
        z[:, self.place] = (raw.flatten(1) - self.offset) / self.factor
        return z.view(len(raw), *self.shape)

    def forth(self, z: Tensor) -> Tensor:
        """raw [B, *raw] of z [B, *shape]."""
        return (z.flatten(1)[:, self.place] * self.factor + self.offset).view(len(z), *self.raw)


class PipelinePrior(Prior):
    """A text-to-image pipeline of diffusers as a Prior; x0 is its latent, as normal as the pipeline wants it.

    folder, device, dtype, variant  as of LatentPrior; the autoencoder is float32
    Flow matching counts timesteps as Flux does and takes Flux's published schedule, which goes by signal-to-noise
    ratio, until it is calibrated.  So does TrigFlow (SANA Sprint; Lu and Song 2025): z_t = cos(t) x + sin(t) eps, and
    the network says dz/dt, which is v.  What predicts epsilon, v or x0 has its scheduler's timesteps and is calibrated.
    A guidance scale is what the pipeline calls guidance_scale.  Raises ModelError.
    """

    reconstruction: Reconstruction = "flow"

    def __init__(
        self, folder: Path, device: str | torch.device = "cpu", *, dtype: str | torch.dtype | None = None,
        variant: str | None = None,
    ) -> None:
        self.folder, self.device = folder, torch.device(device)
        self.dtype = as_dtype(dtype, torch.float32 if self.device.type == "cpu" else torch.bfloat16)
        with self._enough_memory():
            self.pipeline, _, self.fingerprint = load_pipeline(folder, self.dtype, variant)
            if "vae" not in self.pipeline.components or "prepare_latents" not in dir(type(self.pipeline)):
                raise ModelError(f"{folder} holds a pipeline of an unknown kind ({type(self.pipeline).__name__})")
            self.pipeline.to(self.device)
            if self.dtype != torch.float32:
                self.pipeline.vae.to(torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.prediction = self._read_scheduler()
        self._options = inspect.signature(self.pipeline.__call__).parameters
        self._texts: dict[str, Any] = {}
        self._routes: dict[tuple[int, int], Route] = {}
        self.factor = int(self.pipeline.vae_scale_factor)
        self.multiple = self._smallest_multiple()

    def _read_scheduler(self) -> str:
        """What the network predicts; sets timesteps and puts OneStep in the scheduler's place."""
        from diffusers import DDPMScheduler

        config = self.pipeline.scheduler.config
        prediction = str(config.get("prediction_type", "flow_prediction"))
        trigonometric = prediction == "trigflow"
        if trigonometric or prediction == "flow_prediction" or config.get("use_flow_sigmas"):
            self._log_snr = [flow_log_snr(t / NUM_LEVELS) for t in range(NUM_LEVELS + 1)]
            self.schedule, prediction = "flux", "trigflow" if trigonometric else "flow_prediction"
        elif prediction in PREDICTIONS:
            cumulative = DDPMScheduler.from_config(config).alphas_cumprod.double()
            self._log_snr = [float("inf"), *torch.logit(cumulative).tolist()]
        else:
            raise ModelError(f"{self.folder} has the unknown prediction type {prediction!r}")
        self.num_levels = len(self._log_snr) - 1
        self.one_step = OneStep(config, end=[0] if trigonometric else [])
        self.pipeline.scheduler = self.one_step
        return prediction

    def _smallest_multiple(self) -> int:
        """Multiple of pixels that the pipeline neither rounds nor refuses."""
        patch_size = self._network().config.get("patch_size") or 1
        for side in (1, 2, 4):
            if side % patch_size == 0 and self._route((3 * side * self.factor, 3 * side * self.factor)) is not None:
                return side * self.factor
        raise ModelError(f"{self.folder} takes no size that is a small multiple of {self.factor}")

    def _network(self) -> Any:
        return self.pipeline.components.get("transformer") or self.pipeline.components.get("unet")

    # ---- driving the pipeline ---------------------------------------------------------------------------------------

    def _run(
        self, size: tuple[int, int], draw: Callable[[tuple[int, ...], Any], Tensor], times: list[float],
        prompts: list[str], guidance: float = 1.0, keep: bool = False,
    ) -> Tensor:
        """What the autoencoder would get for images of (H, W) = `size`; the noise is `draw`(shape, dtype).

        keep  a step hands on what it was given, and the network does not run
        """
        true_guidance = "true_cfg_scale" in self._options  # beside that of distilled networks
        wanted = {
            "prompt": prompts, "height": size[0], "width": size[1], "num_inference_steps": 1,
            "true_cfg_scale": guidance, "negative_prompt": [""] * len(prompts) if guidance != 1 else None,
            "guidance_scale": None if true_guidance else guidance, "output_type": "pt", "return_dict": False,
            "use_resolution_binning": False, "clean_caption": False, "intermediate_timesteps": None,
        }  # fmt: skip
        caught: list[Tensor] = []

        def randn(shape: Any, *args: Any, dtype: Any = None, **more: Any) -> Tensor:
            return draw(tuple(shape), dtype)

        def decode(raw: Tensor, *args: Any, **kwargs: Any) -> Any:
            caught.append(raw)
            raise _Stopped

        def unchanged(z: Any = None, *args: Any, **given: Any) -> Any:
            return (given.get("hidden_states", z),)

        stand_in: Any = patch.object(self._network(), "forward", unchanged) if keep else nullcontext()
        self.one_step.times, self.one_step.keep = times, keep
        prepare = type(self.pipeline).prepare_latents.__globals__
        with (
            self._enough_memory(),
            patch.dict(prepare, {"randn_tensor": randn}),
            patch.object(self.pipeline.vae, "decode", decode),
            patch.object(type(self.pipeline.vae), "dtype", torch.float64),  # to which some pipelines round
            stand_in,
            patch.object(self.pipeline, "encode_prompt", self._remembered(self.pipeline.encode_prompt)),
        ):
            try:
                self.pipeline(**{name: value for name, value in wanted.items() if name in self._options})
            except _Stopped:
                return _float(caught[0])
        raise ModelError(f"{self.folder}: {type(self.pipeline).__name__} does not decode what it makes")

    def _remembered(self, encode_prompt: Callable[..., Any]) -> Callable[..., Any]:
        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = repr((args, sorted(kwargs.items())))
            if key not in self._texts:
                self._texts[key] = encode_prompt(*args, **kwargs)
            return self._texts[key]

        return remembered

    def _route(self, size: tuple[int, int]) -> Route | None:
        """The route for images of (H, W) = `size`, multiples of `factor`; None where the pipeline rounds the size."""
        if size in self._routes:
            return self._routes[size]
        shape: tuple[int, ...] = ()

        def probe(values: Callable[[Tensor], Tensor]) -> Tensor:
            """The raw of z whose values are a function of their positions."""

            def draw(wanted: tuple[int, ...], dtype: Any) -> Tensor:
                nonlocal shape
                shape = wanted[1:]
                return values(torch.arange(torch.Size(shape).numel(), device=self.device)).double().view(wanted)

            try:
                return self._run(size, draw, [], [""]).double()
            except UnboundLocalError:  # a pipeline that cannot do without a step
                return self._run(size, draw, [0], [""], keep=True).double()

        try:
            offset = probe(torch.zeros_like)
        except ValueError:  # how pipelines refuse a size
            return None
        if [side * self.factor for side in offset.shape[-2:]] != list(size):
            return None
        factor = probe(torch.ones_like) - offset
        place, digit = torch.zeros_like(offset, dtype=torch.int64), 1
        while digit < torch.Size(shape).numel():  # by digits of 16, which a pipeline in bfloat16 keeps
            place += digit * ((probe(partial(_hexadecimal, digit)) - offset) / factor).round().long()
            digit *= 16
        self._routes[size] = Route(shape, tuple(offset.shape[1:]), place.flatten(), factor.flatten(), offset.flatten())
        return self._routes[size]

    def _known_route(self, size: tuple[int, int]) -> Route:
        padded = tuple(-(-side // self.multiple) * self.multiple for side in size)
        route = self._route((padded[0], padded[1]))
        if route is None:
            raise ModelError(f"{self.folder} does not take images of {size[1]} x {size[0]} pixels")
        return route

    # ---- the Prior interface ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Tensor:
        route = self._known_route((image.shape[-2], image.shape[-1]))
        pixels = to_signed(pad_to_multiple(image.to(self.device), self.multiple))
        with self._enough_memory():  # a video's autoencoder gets one frame
            found = self.pipeline.vae.encode(pixels if len(route.raw) == 3 else pixels[:, :, None])
        latent = found.latent_dist.mode() if "latent_dist" in found else found.latent
        return _planes(route.back(latent)).float()

    @torch.inference_mode()
    def decode(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        raw = self._known_route(size).forth(x0).to(x0.dtype)
        with self._enough_memory():
            pixels = self.pipeline.vae.decode(raw).sample
        return from_signed(crop(pixels if pixels.ndim == 4 else pixels[:, :, 0], size))

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        route = self._known_route(size)
        channels, height, width = _planes(torch.empty(1, *route.shape, device="meta")).shape[1:]
        return channels, height, width

    def log_snr(self, timestep: int) -> float:
        return self._log_snr[timestep]

    def condition(self, prompt: str = "", guidance: float = 1.0) -> tuple[str, float]:
        return prompt, guidance

    @torch.inference_mode()
    def denoise(self, z: Tensor, timestep: int, conditions: Sequence[Any] | None = None) -> Tensor:
        given = list(conditions or [("", 1.0)] * len(z))
        if len({guidance for _, guidance in given}) > 1:
            return torch.cat([self.denoise(one[None], timestep, [c]) for one, c in zip(z, given, strict=True)])
        route = self._route_of_shape(z)
        sigma = timestep / self.num_levels
        state, time = self._as_trained(z, timestep)
        raw = self._run(
            (route.raw[-2] * self.factor, route.raw[-1] * self.factor),
            lambda shape, dtype: state.view(shape).to(dtype), [time], [prompt for prompt, _ in given], given[0][1],
        )  # fmt: skip
        output = _planes(route.back(raw))
        if self.prediction == "flow_prediction":
            return x0_from_velocity(state, output, sigma).to(z.dtype)
        # in float64: noise is divided by an alpha that is small where little is known
        prediction = "v_prediction" if self.prediction == "trigflow" else self.prediction
        return x0_from_prediction(prediction, z.double(), output, self.log_snr(timestep)).to(z.dtype)

    def _as_trained(self, z: Tensor, timestep: int) -> tuple[Tensor, float]:
        """(z, timestep) as the network knows them."""
        sigma = timestep / self.num_levels
        if self.prediction == "flow_prediction":
            return to_flow(z, sigma), 1000.0 * sigma
        return z, math.atan2(sigma, 1 - sigma) if self.prediction == "trigflow" else timestep - 1

    def _route_of_shape(self, z: Tensor) -> Route:
        """The route of latents [B, C, h, w]; they are as many times smaller than the image as those of one block."""
        _, rows, columns = self.shape((self.multiple, self.multiple))
        height, width = z.shape[-2:]
        return self._known_route((height // rows * self.multiple, width // columns * self.multiple))

    def _enough_memory(self) -> Any:
        return enough_memory(self.device, "--dtype bfloat16, or a smaller image, needs less")


def _planes(latent: Tensor) -> Tensor:
    """[B, C, h, w] of latents that may have a dimension for a video's frames, before or behind the channels."""
    return latent if latent.ndim == 4 else latent.squeeze(1 if latent.shape[1] == 1 else 2)


def _float(values: Tensor) -> Tensor:
    """`values` in float32, or float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _hexadecimal(unit: int, numbers: Tensor) -> Tensor:
    """Of int64 `numbers`, the digit to the base 16 that counts `unit`s."""
    return numbers // unit % 16
