"""Diffusers pipelines of the right topology with random weights: what tests and benchmarks run in place of real models.

Every pipeline is built through diffusers' and transformers' own classes and saved as diffusers saves it.  ``"tiny"``
networks have some ten thousand parameters; ``"full"`` is the architecture of the published model (SD 1.5 only), for
timing.  Images made with these mean nothing; rates, sizes and the agreement of both sides do.

    python -m pipelines sd15 /tmp/tiny-sd15
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

Size = Literal["tiny", "full"]
WORDS = ["a", "photo", "of", "the", "red", "door", "boat", "on", "water", "sky", "with", "and", "in", "house"]


def save_random_pipeline(kind: str, folder: Path, size: Size = "tiny", seed: int = 0) -> Path:
    """Write a pipeline of `kind` (a key of KINDS) with weights drawn from `seed` to `folder`, which is returned.

    Raises ValueError for an unknown kind, or a full-size one other than SD 1.5.
    """
    if kind not in KINDS or (size == "full" and kind != "sd15"):
        raise ValueError(f"there is no {size} random pipeline of kind {kind!r}")
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        KINDS[kind](size).save_pretrained(folder)
    finally:
        torch.set_rng_state(state)
    return folder


def _clip_tokenizer(length: int = 77) -> Any:
    """CLIP's byte-level tokenizer with an alphabet of bytes and no merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=length
    )


def _clip(width: int, projection: bool = False, full: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=514, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12 if full else 2,
        num_attention_heads=12 if full else 2, projection_dim=width, max_position_embeddings=77,
        bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5(width: int) -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [("▁" + word, -3.0) for word in WORDS] + [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, additional_special_tokens=[])
    config = T5Config(
        vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config), tokenizer


def _vae(latents: int, scaling: float, shift: float | None = None, full: bool = False, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    widths = (128, 256, 512, 512) if full else (4, 4, 8, 8)
    vae = AutoencoderKL(
        block_out_channels=widths, layers_per_block=2 if full else 1, latent_channels=latents,
        norm_num_groups=32 if full else 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=512, scaling_factor=scaling, shift_factor=shift,
        **options,
    )
    _standardise(vae.eval(), latents)
    return vae


@torch.no_grad()
def _standardise(vae: Any, latents: int) -> None:
    """Scale the encoder's last layer so that scaled latents have mean 0 and variance 1, as those of real models do."""
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16) * 2 - 1, size=128, mode="bilinear")
    means = vae.encode(picture).latent_dist.mean
    centre, spread = means.mean((0, 2, 3)), means.std((0, 2, 3))
    layer = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
    gain = 1 / (spread * vae.config.scaling_factor)
    layer.weight[:latents] *= gain[:, None, None, None]
    layer.bias[:latents] = (layer.bias[:latents] - centre) * gain + (vae.config.shift_factor or 0)


def _unet(context: int, full: bool = False, **options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    if full:
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=context)
    return UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context, attention_head_dim=4, **options,
    )


def _ddim(prediction: str) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )


def _stable_diffusion(size: Size, prediction: str = "epsilon") -> Any:
    from diffusers import StableDiffusionPipeline

    full = size == "full"
    width = 768 if full else 16
    return StableDiffusionPipeline(
        vae=_vae(4, 0.18215, full=full), text_encoder=_clip(width, full=full), tokenizer=_clip_tokenizer(),
        unet=_unet(width, full), scheduler=_ddim(prediction), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(size: Size, refiner: bool = False) -> Any:
    """SDXL, or its refiner: six or five numbers about sizes in the time embedding, two text encoders or one."""
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    shared: dict[str, Any] = {
        "vae": _vae(4, 0.13025, force_upcast=True), "text_encoder_2": _clip(16, projection=True),
        "tokenizer_2": _clip_tokenizer(), "scheduler": _ddim("epsilon"),
    }
    added: dict[str, Any] = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    if refiner:
        unet = _unet(16, projection_class_embeddings_input_dim=5 * 8 + 16, **added)
        return StableDiffusionXLImg2ImgPipeline(
            unet=unet, text_encoder=None, tokenizer=None, requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False, **shared,
        )
    unet = _unet(8 + 16, projection_class_embeddings_input_dim=6 * 8 + 16, **added)
    return StableDiffusionXLPipeline(unet=unet, text_encoder=_clip(8), tokenizer=_clip_tokenizer(), **shared)


def _flux(size: Size, guidance: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    encoder, tokenizer = _t5(16)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=8, guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(4, 0.3611, 0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(8), tokenizer=_clip_tokenizer(), text_encoder_2=encoder, tokenizer_2=tokenizer,
        transformer=transformer,
    )


def _sd3(size: Size) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    encoder, tokenizer = _t5(32)
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4,
        pos_embed_max_size=96,
    )
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, 1.5305, 0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(8, projection=True), tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(8, projection=True), tokenizer_2=_clip_tokenizer(),
        text_encoder_3=encoder, tokenizer_3=tokenizer, transformer=transformer,
    )


KINDS: dict[str, Callable[[Size], Any]] = {
    "sd15": _stable_diffusion,
    "sd21": lambda size: _stable_diffusion(size, "v_prediction"),
    "sdxl": _sdxl,
    "sdxl-refiner": lambda size: _sdxl(size, refiner=True),
    "flux": _flux,
    "flux-schnell": lambda size: _flux(size, guidance=False),
    "sd3": _sd3,
}


if __name__ == "__main__":
    save_random_pipeline(sys.argv[1], Path(sys.argv[2]), "full" if "--full" in sys.argv else "tiny")
