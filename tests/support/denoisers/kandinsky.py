"""Kandinsky 5 and 6: text blocks, then visual ones; 6 denoises audio as well."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    Kandinsky5Transformer3DModel,
    Kandinsky6SRTransformer3DModel,
    Kandinsky6Transformer3DModel,
)
from torch import Tensor, nn

from denoisers.base import Denoiser, by_rules


def _kandinsky5() -> nn.Module:
    return Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=12,
        time_dim=24,
        out_visual_dim=4,
        model_dim=32,
        ff_dim=64,
        num_text_blocks=2,
        num_visual_blocks=2,
        axes_dims=(4, 4, 8),
    )


_kandinsky5_inputs = by_rules(_kandinsky5, height=8, width=8, frames=2, text_tokens=10)


def _kandinsky6() -> nn.Module:
    return Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=12,
        time_dim=24,
        model_dim=32,
        ff_dim=64,
        num_text_blocks=2,
        num_visual_blocks=2,
        axes_dims=(4, 4, 8),
        in_audio_dim=6,
        out_audio_dim=6,
        model_dim_a=24,
        ff_dim_a=48,
        axes_dims_a=(4, 4, 4),
        cross_gates=True,
        fix_modulation=True,
    )


def _kandinsky6_inputs(*, audio: bool) -> dict[str, Any]:
    mask = torch.ones(2, 10, dtype=torch.bool)
    inputs = {
        "hidden_states": torch.randn(2, 2, 8, 8, 9),
        "encoder_hidden_states": torch.randn(2, 10, 16),
        "pooled_projections": torch.randn(2, 12),
        "timestep": torch.tensor([1000.0, 1000.0]),
        "encoder_attention_mask": mask[:, None, None],
    }
    if audio:
        inputs["audio_hidden_states"] = torch.randn(2, 12, 6)
    return inputs


def _noisy_channels(result: Any) -> Tensor:
    """The model's latent comes with 5 channels of conditioning, which do not move."""
    sample: Tensor = result[0]
    still = torch.zeros_like(sample).repeat(1, 1, 1, 1, 2)[..., :5]
    return torch.cat([sample, still], dim=-1)


def _upscaler() -> nn.Module:
    return Kandinsky6SRTransformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        time_dim=24,
        model_dim=32,
        ff_dim=64,
        num_visual_blocks=2,
        axes_dims=(4, 4, 8),
        nabla_window=(1, 1, 1),
    )


_upscaler_inputs = by_rules(_upscaler, batch=1, height=8, width=16, frames=2)


DENOISERS = [
    # 2 text blocks: attention, MLP; 2 visual blocks: self-attention, cross-attention,
    # MLP
    Denoiser(
        "Kandinsky5Transformer3DModel",
        _kandinsky5,
        _kandinsky5_inputs,
        regions=10,
        velocity=lambda result: result,
    ),
    # for video and audio: 2 text blocks: attention, MLP; 2 fused blocks:
    # self-attention, attention to the text, attention to the other stream, MLP
    Denoiser(
        "Kandinsky6Transformer3DModel",
        _kandinsky6,
        partial(_kandinsky6_inputs, audio=True),
        regions=24,
        velocity=_noisy_channels,
    ),
    # the video half of the same
    Denoiser(
        "Kandinsky6Transformer3DModel-video",
        _kandinsky6,
        partial(_kandinsky6_inputs, audio=False),
        regions=10,
        velocity=_noisy_channels,
    ),
    # 2 blocks: attention, MLP
    Denoiser(
        "Kandinsky6SRTransformer3DModel",
        _upscaler,
        _upscaler_inputs,
        regions=4,
        velocity=_noisy_channels,
    ),
]
