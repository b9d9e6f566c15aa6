"""Diffusers pipelines of the right topology with random weights: what tests and benchmarks run in place of real models.

Every pipeline is built through diffusers' and transformers' own classes and saved as diffusers saves it.  ``"tiny"``
networks have some ten thousand parameters; ``"full"`` is the architecture of the published model (SD 1.5 only).
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


def _sdxl(size: Size, refiner: bool = False, turbo: bool = False) -> Any:
    """SDXL, or its refiner: six or five numbers about sizes in the time embedding, two text encoders or one."""
    from diffusers import (
        EulerAncestralDiscreteScheduler,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLPipeline,
    )

    scheduler = _ddim("epsilon")
    if turbo:
        scheduler = EulerAncestralDiscreteScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    shared: dict[str, Any] = {
        "vae": _vae(4, 0.13025, force_upcast=True), "text_encoder_2": _clip(16, projection=True),
        "tokenizer_2": _clip_tokenizer(), "scheduler": scheduler,
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


def _sd3(size: Size, **network: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    encoder, tokenizer = _t5(32)
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4,
        pos_embed_max_size=96, **network,
    )
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, 1.5305, 0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(8, projection=True), tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(8, projection=True), tokenizer_2=_clip_tokenizer(),
        text_encoder_3=encoder, tokenizer_3=tokenizer, transformer=transformer,
    )


def _chroma(size: Size) -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    encoder, tokenizer = _t5(16)
    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(2, 2, 4), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=encoder, tokenizer=tokenizer,
        vae=_vae(4, 0.3611, 0.1159, use_quant_conv=False, use_post_quant_conv=False), transformer=transformer,
    )


def _pixart(size: Size) -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    encoder, tokenizer = _t5(16)
    transformer = PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=16,
        in_channels=4, cross_attention_dim=16, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
    )
    return PixArtSigmaPipeline(
        scheduler=DPMSolverMultistepScheduler(), text_encoder=encoder, tokenizer=tokenizer, vae=_vae(4, 0.13025),
        transformer=transformer,
    )


def _latent_consistency(size: Size) -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    return LatentConsistencyModelPipeline(
        vae=_vae(4, 0.18215), text_encoder=_clip(16), tokenizer=_clip_tokenizer(),
        unet=_unet(16, time_cond_proj_dim=8), scheduler=LCMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )


def _qwen_tokenizer(*more: str) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]
    tokenizer = Qwen2Tokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    return tokenizer


def _qwen3(layers: int = 2) -> dict[str, Any]:
    """Text encoder and tokenizer; hidden states have 16 dimensions."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )
    return {"text_encoder": Qwen3ForCausalLM(config), "tokenizer": _qwen_tokenizer()}


def _z_image(size: Size) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[2, 2, 4], axes_lens=[1024, 64, 64],
    )
    for parameter in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.zeros_(parameter)  # which the class leaves as it finds them
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(4, 0.3611, 0.1159), transformer=transformer,
        **_qwen3(),
    )


def _mistral3() -> dict[str, Any]:
    """Text encoder and processor of FLUX.2 dev; hidden states have 16 dimensions."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    config = Mistral3Config(
        text_config={
            "model_type": "mistral", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16,
            "num_hidden_layers": 31, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        },
        image_token_index=299,
    )
    processor = PixtralProcessor(
        PixtralImageProcessor(patch_size=8), _qwen_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]"), patch_size=8,
        chat_template="{% for m in messages %}<|im_start|>{{ m.content[0].text }}<|im_end|>{% endfor %}",
    )
    return {"text_encoder": Mistral3ForConditionalGeneration(config), "tokenizer": processor}


def _flux2(size: Size, dev: bool = False) -> Any:
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Pipeline,
        Flux2Transformer2DModel,
    )

    vae = AutoencoderKLFlux2(block_out_channels=(4, 4, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=8, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=dev,
    )
    return (Flux2Pipeline if dev else Flux2KleinPipeline)(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae.eval(), transformer=transformer,
        **(_mistral3() if dev else _qwen3(28)),
    )


def _qwen_image(size: Size) -> Any:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        },
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16},
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(2, 2, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 1.0, 2.0]
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae.eval(), transformer=transformer,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config), tokenizer=_qwen_tokenizer(),
    )


def _sana(size: Size, sprint: bool = False) -> Any:
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaSprintPipeline,
        SanaTransformer2DModel,
        SCMScheduler,
    )
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    config = Gemma2Config(
        vocab_size=300, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4,
    )
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    layers = {"encoder_block_out_channels": (4,) * 6, "decoder_block_out_channels": (4,) * 6}
    vae = AutoencoderDC(
        latent_channels=4, scaling_factor=0.41407, attention_head_dim=2, encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6, encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6,
        downsample_block_type="conv", upsample_block_type="interpolate", **layers,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=32, guidance_embeds=sprint,
    )
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return (SanaSprintPipeline if sprint else SanaPipeline)(
        scheduler=SCMScheduler() if sprint else DPMSolverMultistepScheduler(**flow),
        vae=vae.eval(), transformer=transformer,
        text_encoder=Gemma2Model(config),
        tokenizer=GemmaTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[]),
    )


KINDS: dict[str, Callable[[Size], Any]] = {
    "sd15": _stable_diffusion,
    "sd21": lambda size: _stable_diffusion(size, "v_prediction"),
    "sdxl": _sdxl,
    "sdxl-refiner": lambda size: _sdxl(size, refiner=True),
    "sdxl-turbo": lambda size: _sdxl(size, turbo=True),
    "flux": _flux,
    "flux-schnell": lambda size: _flux(size, guidance=False),
    "sd3": _sd3,
    "sd35": lambda size: _sd3(size, qk_norm="rms_norm", dual_attention_layers=(0,)),
    "chroma": _chroma,
    "pixart": _pixart,
    "lcm": _latent_consistency,
    "z-image": _z_image,
    "flux2": _flux2,
    "flux2-dev": lambda size: _flux2(size, dev=True),
    "qwen-image": _qwen_image,
    "sana": _sana,
    "sana-sprint": lambda size: _sana(size, sprint=True),
}


if __name__ == "__main__":
    save_random_pipeline(sys.argv[1], Path(sys.argv[2]), "full" if "--full" in sys.argv else "tiny")
