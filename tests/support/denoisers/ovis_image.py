"""Ovis-Image: joint blocks, then single blocks of attention and gated MLP."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import OvisImageTransformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _ovis_image() -> nn.Module:
    return OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 4, 8),
    )


def _ovis_image_inputs() -> dict[str, Any]:
    return {
        **by_rules(_ovis_image, height=8, width=8, text_tokens=8)(),
        "img_ids": torch.randn(16, 3),
    }


DENOISERS = [
    # 2 joint blocks: attention, image MLP, text MLP; 2 single blocks
    Denoiser(
        "OvisImageTransformer2DModel",
        _ovis_image,
        _ovis_image_inputs,
        regions=8,
        first=1.0,
        last=0.02,
    ),
]
