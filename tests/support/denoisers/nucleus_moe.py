"""Nucleus-Image: attention over image and text, then a mixture of experts."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_nucleusmoe_image import (
    NucleusMoEImageTransformer2DModel,
)
from torch import Tensor, nn

from denoisers.base import Denoiser, by_rules


def _nucleus(**variant: Any) -> nn.Module:
    return NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
        mlp_ratio=6.5,
        dense_moe_strategy="leave_first_block_dense",
        num_experts=4,
        moe_intermediate_dim=32,
        capacity_factors=2.0,
        **variant,
    )


def _nucleus_grouped() -> nn.Module:
    # Dynamo knows grouped matrix products of this type only
    return _nucleus(use_grouped_mm=True).to(torch.bfloat16)


def _nucleus_inputs() -> dict[str, Any]:
    return {
        **by_rules(_nucleus, height=8, width=8, text_tokens=8)(),
        "encoder_hidden_states_mask": torch.ones(2, 8, dtype=torch.bool),
    }


def _nucleus_grouped_inputs() -> dict[str, Any]:
    return {
        name: value.bfloat16()
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in _nucleus_inputs().items()
    }


DENOISERS = [
    # 3 blocks: attention; an MLP in the first, a mixture of experts in the others
    Denoiser(
        "NucleusMoEImageTransformer2DModel",
        _nucleus_grouped,
        _nucleus_grouped_inputs,
        regions=6,
        first=1.0,
        last=0.02,
    ),
    # attention, MLP of the first block; attention of the other two, which share a graph
    Denoiser(
        "NucleusMoEImageTransformer2DModel-loop",
        _nucleus,
        _nucleus_inputs,
        regions=3,
        graphs=8,
        share=0.5,
        why="the loop over the experts splits their mixture into several graphs",
        first=1.0,
        last=0.02,
    ),
]
