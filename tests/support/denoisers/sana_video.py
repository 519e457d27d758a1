"""Sana-Video: linear attention, cross-attention, and a convolutional MLP."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SanaVideoTransformer3DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


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
        **by_rules(_sana_video, frames=3, text_tokens=10, whole=True)(),
        "encoder_attention_mask": torch.tensor([[1] * 10, [1] * 6 + [0] * 4]),
    }


DENOISERS = [
    # 2 blocks: linear attention, cross-attention, MLP of 1x1, depthwise and temporal
    # convolutions, the last one with an add of its own
    Denoiser("SanaVideoTransformer3DModel", _sana_video, _sana_video_inputs, regions=6),
]
