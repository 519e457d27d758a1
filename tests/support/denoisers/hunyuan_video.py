"""HunyuanVideo and its relatives: a token refiner, joint blocks, single blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoTransformer3DModel,
)
from torch import Tensor, nn

from denoisers.base import Denoiser, by_rules

_SIZES: dict[str, Any] = {
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_refiner_layers": 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": 16,
    "rope_axes_dim": (4, 4, 8),
}


def _video(in_channels: int, condition: str | None) -> nn.Module:
    return HunyuanVideoTransformer3DModel(
        in_channels=in_channels,
        num_single_layers=2,
        pooled_projection_dim=16,
        guidance_embeds=condition is None,
        image_condition_type=condition,
        **_SIZES,
    )


def _text() -> dict[str, Any]:
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 7:] = 0
    return {
        "encoder_hidden_states": torch.randn(2, 10, 16),
        "encoder_attention_mask": mask,
    }


def _inputs(channels: int) -> dict[str, Any]:
    return {
        **_text(),
        "hidden_states": torch.randn(2, channels, 3, 8, 8),
        "timestep": torch.tensor([1000, 1000]),
        "pooled_projections": torch.randn(2, 16),
    }


def _guided_inputs(channels: int) -> dict[str, Any]:
    return {**_inputs(channels), "guidance": torch.tensor([6000.0, 6000.0])}


def _noisy_channels(result: Any) -> Tensor:
    """The model's latent comes with 5 channels of conditioning, which do not move."""
    sample: Tensor = result[0]
    still = torch.zeros_like(sample).repeat(1, 2, 1, 1, 1)[:, :5]
    return torch.cat([sample, still], dim=1)


def _video_15() -> nn.Module:
    return HunyuanVideo15Transformer3DModel(
        in_channels=9, text_embed_2_dim=12, image_embed_dim=12, **_SIZES
    )


def _video_15_inputs() -> dict[str, Any]:
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    return {
        **_text(),
        "hidden_states": torch.randn(2, 9, 3, 4, 4),
        "timestep": torch.tensor([1000.0, 1000.0]),
        "encoder_hidden_states_2": torch.randn(2, 6, 12),
        "encoder_attention_mask_2": mask,
        "image_embeds": torch.randn(2, 5, 12),
    }


def _framepack() -> nn.Module:
    return HunyuanVideoFramepackTransformer3DModel(
        in_channels=4,
        num_single_layers=2,
        pooled_projection_dim=16,
        has_image_proj=True,
        image_proj_dim=12,
        has_clean_x_embedder=True,
        **_SIZES,
    )


def _framepack_inputs() -> dict[str, Any]:
    return {
        **by_rules(
            _framepack, batch=1, height=8, width=8, frames=3, text_tokens=10, whole=True
        )(),
        "encoder_attention_mask": torch.tensor([[1] * 8 + [0] * 2]),
        "image_embeds": torch.randn(1, 5, 12),
        "indices_latents": torch.arange(10, 13),
        "indices_latents_clean": torch.tensor([0, 9]),
        "indices_latents_history_2x": torch.arange(7, 9),
        "latents_history_4x": torch.randn(1, 4, 4, 8, 8),
        "indices_latents_history_4x": torch.arange(3, 7),
    }


DENOISERS = [
    # 2 text refiners: attention, MLP; 2 joint blocks: attention, video MLP, text MLP;
    # 2 single blocks
    Denoiser(
        "HunyuanVideoTransformer3DModel",
        partial(_video, 4, None),
        partial(_guided_inputs, 4),
        regions=12,
    ),
    # the same
    Denoiser(
        "HunyuanVideoTransformer3DModel-latent_concat",
        partial(_video, 9, "latent_concat"),
        partial(_inputs, 9),
        regions=12,
        velocity=_noisy_channels,
    ),
    # the same; the first frame's tokens have a modulation of their own
    Denoiser(
        "HunyuanVideoTransformer3DModel-token_replace",
        partial(_video, 4, "token_replace"),
        partial(_inputs, 4),
        regions=12,
    ),
    # 2 text refiners: attention, MLP; the joint blocks share a graph: attention, video
    # MLP, text MLP
    Denoiser(
        "HunyuanVideo15Transformer3DModel",
        _video_15,
        _video_15_inputs,
        regions=7,
        graphs=3,
        why="it asks whether the image is zero and sorts the text by its masks",
        velocity=_noisy_channels,
    ),
    # as HunyuanVideo; every block is a graph, for the first ones have other strides
    Denoiser(
        "HunyuanVideoFramepackTransformer3DModel",
        _framepack,
        _framepack_inputs,
        regions=12,
        graphs=6,
        why="the length of the text becomes a Python number before the blocks",
    ),
]
