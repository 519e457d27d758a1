"""Pipelines that draw images, with one stream of tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from pipelines.base import STEPS, noise, tiny_vae

GUIDANCE = 1.5
"""Weak: guidance magnifies what random networks make of a small difference."""


def without_text(cls: Any, *names: str, **components: Any) -> Any:
    """A pipeline that is given prompt embeddings, so has no text encoders."""
    absent = ("text_encoder", "tokenizer", *names)
    return cls(**dict.fromkeys(absent), **components)


def sizes(pixels: int) -> dict[str, Any]:
    """Arguments that all these pipelines take."""
    return {
        "height": pixels,
        "width": pixels,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }


def texts(tokens: int, width: int) -> dict[str, Any]:
    """A prompt and a negative prompt, already embedded."""
    return {
        "prompt_embeds": noise(1, tokens, width),
        "negative_prompt_embeds": noise(1, tokens, width),
    }


def masks(tokens: int, dtype: torch.dtype = torch.int64) -> dict[str, Any]:
    """Attention masks of two prompts, the negative one shorter."""
    shorter = torch.ones(1, tokens, dtype=dtype)
    shorter[:, tokens // 2 :] = 0
    return {
        "prompt_attention_mask": torch.ones(1, tokens, dtype=dtype),
        "negative_prompt_attention_mask": shorter,
    }


def dit() -> Any:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    return DiTPipeline(transformer, tiny_vae(), scheduler)


def dit_call() -> dict[str, Any]:
    return {
        "class_labels": [3],
        "guidance_scale": GUIDANCE,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }


def pixart(scheduler: Any = None) -> Any:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=32,
        sample_size=8,
        caption_channels=16,
        use_additional_conditions=False,
    )
    return without_text(
        PixArtSigmaPipeline,
        transformer=transformer,
        vae=None,
        scheduler=scheduler
        or DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    )


def pixart_call() -> dict[str, Any]:
    return {
        **sizes(64),
        **texts(8, 16),
        **masks(8),
        "negative_prompt": None,
        "guidance_scale": GUIDANCE,
        "use_resolution_binning": False,
    }


def sana() -> Any:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=16,
        sample_size=8,
    )
    return without_text(
        SanaPipeline,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=None,
    )


def sana_call() -> dict[str, Any]:
    return {
        **sizes(256),
        **texts(8, 16),
        **masks(8),
        "negative_prompt": None,
        "guidance_scale": GUIDANCE,
        "use_resolution_binning": False,
    }


def lumina2() -> Any:
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=2,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=8,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(32, 16, 16),
        cap_feat_dim=16,
    )
    return without_text(
        Lumina2Pipeline,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=None,
    )


def lumina2_call() -> dict[str, Any]:
    mask = torch.ones(1, 8, dtype=torch.int64)
    return {
        **sizes(64),
        **texts(8, 16),
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
        "guidance_scale": GUIDANCE,
    }


def z_image() -> Any:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return without_text(
        ZImagePipeline,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=None,
    )


def z_image_call() -> dict[str, Any]:
    return {
        **sizes(64),
        "prompt_embeds": [noise(8, 16)],
        "negative_prompt_embeds": [noise(8, 16)],
        "guidance_scale": GUIDANCE,
    }
