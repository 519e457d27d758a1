"""Pipelines that draw images, with an image and a text stream."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from pipelines.base import noise, tiny_vae
from pipelines.images import GUIDANCE, masks, sizes, texts, without_text


def sd3_transformer() -> Any:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=16,
    )


SD3_TEXT = ("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")


def sd3(scheduler: Any = None) -> Any:
    return without_text(
        StableDiffusion3Pipeline,
        *SD3_TEXT,
        transformer=sd3_transformer(),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=None,
    )


def sd3_call() -> dict[str, Any]:
    return {
        **sizes(64),
        **texts(8, 32),
        "pooled_prompt_embeds": noise(1, 16),
        "negative_pooled_prompt_embeds": noise(1, 16),
        "guidance_scale": GUIDANCE,
    }


def flux_transformer() -> Any:
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )


FLUX_TEXT = ("text_encoder_2", "tokenizer_2")


def flux() -> Any:
    return without_text(
        FluxPipeline,
        *FLUX_TEXT,
        transformer=flux_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=None,
    )


def flux_call() -> dict[str, Any]:
    return {
        **sizes(64),
        "prompt_embeds": noise(1, 8, 32),
        "pooled_prompt_embeds": noise(1, 16),
    }


def flux2() -> Any:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 4, 4),
    )
    return without_text(
        Flux2Pipeline,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_vae(levels=4),
    )


def flux2_call() -> dict[str, Any]:
    return {**sizes(64), "prompt_embeds": noise(1, 8, 32)}


def qwen() -> Any:
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return without_text(
        QwenImagePipeline,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=None,
    )


def qwen_call() -> dict[str, Any]:
    return {**sizes(64), **texts(8, 32), "true_cfg_scale": GUIDANCE}


def chroma() -> Any:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return without_text(
        ChromaPipeline,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
    )


def chroma_call() -> dict[str, Any]:
    given = {**texts(8, 32), **masks(8, torch.float32)}
    return {**sizes(64), **given, "guidance_scale": GUIDANCE}
