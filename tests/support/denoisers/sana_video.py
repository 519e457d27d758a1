"""Sana-Video: linear attention, cross-attention, and a convolutional MLP."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SanaVideoTransformer3DModel
from torch import nn

from denoisers.base import Denoiser


def _sana_video() -> nn.Module:
    return SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
        rope_max_seq_len=32,
    )


def _sana_video_inputs() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 3, 8, 8),
        "encoder_hidden_states": torch.randn(2, 10, 16),
        "timestep": torch.tensor([1000, 1000]),
        "encoder_attention_mask": torch.tensor([[1] * 10, [1] * 6 + [0] * 4]),
    }


DENOISERS = [
    # 2 blocks: linear attention, cross-attention, MLP of 1x1, depthwise and temporal
    # convolutions, the last one with an add of its own
    Denoiser("SanaVideoTransformer3DModel", _sana_video, _sana_video_inputs, regions=6),
]
