"""Ideogram 4 and Krea 2: one stream of text and image; the text has several layers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Ideogram4Transformer2DModel, Krea2Transformer2DModel
from torch import nn

from denoisers.base import Denoiser


def _ideogram4() -> nn.Module:
    return Ideogram4Transformer2DModel(
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=64,
        adaln_dim=16,
        llm_features_dim=24,
        mrope_section=(4, 2, 2),
    )


def _ideogram4_inputs() -> dict[str, Any]:
    # padding, 8 text tokens, 16 image tokens; the features of the others are zero
    text, image = torch.arange(8), 65536 + torch.arange(16)
    positions = torch.cat([torch.zeros(2, dtype=torch.long), text, image])
    indicator = torch.tensor([-1] * 2 + [3] * 8 + [2] * 16)
    return {
        "hidden_states": torch.randn(2, 26, 4),
        "timestep": torch.tensor([0.0, 0.0]),
        "encoder_hidden_states": torch.randn(2, 26, 24),
        "position_ids": positions[None, :, None].repeat(2, 1, 3),
        "segment_ids": torch.where(indicator < 0, -1, 1).repeat(2, 1),
        "indicator": indicator.repeat(2, 1),
    }


def _krea2() -> nn.Module:
    return Krea2Transformer2DModel(
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        timestep_embed_dim=16,
        text_hidden_dim=24,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=48,
        axes_dims_rope=(4, 4, 8),
    )


def _krea2_inputs() -> dict[str, Any]:
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, 7:] = False
    return {
        "hidden_states": torch.randn(2, 16, 4),
        "encoder_hidden_states": torch.randn(2, 10, 3, 24),
        "timestep": torch.tensor([1.0, 1.0]),
        "position_ids": torch.randint(0, 4, (26, 3)).float(),
        "encoder_attention_mask": mask,
    }


DENOISERS = [
    # 2 blocks: attention, MLP
    Denoiser(
        "Ideogram4Transformer2DModel",
        _ideogram4,
        _ideogram4_inputs,
        regions=4,
        first=0.0,
        last=0.98,
    ),
    # attention, MLP in each of 2 text blocks over the layers, 2 over the tokens,
    # 2 blocks
    Denoiser(
        "Krea2Transformer2DModel",
        _krea2,
        _krea2_inputs,
        regions=12,
        first=1.0,
        last=0.02,
    ),
]
