"""Wan and its descendants: self-attention, cross-attention, MLP over video tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    SkyReelsV2Transformer3DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def _wan() -> nn.Module:
    return WanTransformer3DModel(**_CONFIG)


_wan_inputs = by_rules(_wan, height=8, width=8, frames=2, text_tokens=12, whole=True)


def _wan_image() -> nn.Module:
    return WanTransformer3DModel(**_CONFIG, image_dim=16, added_kv_proj_dim=24)


def _wan_image_inputs() -> dict[str, Any]:
    # the processor takes the last 512 tokens for text
    return {
        **_wan_inputs(),
        "encoder_hidden_states": torch.randn(2, 512, 16),
        "encoder_hidden_states_image": torch.randn(2, 10, 16),
    }


def _skyreels() -> nn.Module:
    return SkyReelsV2Transformer3DModel(**_CONFIG)


def _vace() -> nn.Module:
    return WanVACETransformer3DModel(**_CONFIG, vace_layers=[0, 1], vace_in_channels=6)


def _vace_inputs() -> dict[str, Any]:
    return {**_wan_inputs(), "control_hidden_states": torch.randn(2, 6, 2, 8, 8)}


DENOISERS = [
    # 2 blocks: self-attention, cross-attention, MLP
    Denoiser("WanTransformer3DModel", _wan, _wan_inputs, regions=6),
    # the two cross-attentions, over text and over the image, share one projection
    Denoiser("WanTransformer3DModel-i2v", _wan_image, _wan_image_inputs, regions=6),
    # 2 blocks: self-attention, cross-attention, MLP
    Denoiser("SkyReelsV2Transformer3DModel", _skyreels, _wan_inputs, regions=6),
    # 2 blocks and 2 control blocks: self-attention, cross-attention, MLP
    Denoiser("WanVACETransformer3DModel", _vace, _vace_inputs, regions=12),
]
