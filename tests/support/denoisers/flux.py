"""FLUX and its relatives: joint blocks, then single blocks of attention and MLP."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ChromaTransformer2DModel, FluxTransformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}


def flux(joint: int = 2, single: int = 2) -> nn.Module:
    """FLUX with so many joint and single blocks."""
    config = {**_CONFIG, "num_layers": joint, "num_single_layers": single}
    return FluxTransformer2DModel(**config, pooled_projection_dim=32)


def _flux_inputs() -> dict[str, Any]:
    return {
        **by_rules(flux, batch=1, height=8, width=8, text_tokens=8)(),
        "img_ids": torch.randn(16, 3),
    }


def _guided() -> nn.Module:
    return FluxTransformer2DModel(
        **_CONFIG, pooled_projection_dim=32, guidance_embeds=True
    )


def _guided_inputs() -> dict[str, Any]:
    return {**_flux_inputs(), "guidance": torch.tensor([3.5])}


def _chroma() -> nn.Module:
    return ChromaTransformer2DModel(
        **_CONFIG, approximator_hidden_dim=24, approximator_layers=2
    )


def _chroma_inputs() -> dict[str, Any]:
    call = _flux_inputs()
    del call["pooled_projections"]
    return {**call, "attention_mask": torch.arange(24)[None] != 5}


DENOISERS = [
    # 2 joint blocks: attention, image MLP, text MLP; 2 single blocks
    Denoiser(
        "FluxTransformer2DModel", flux, _flux_inputs, regions=8, first=1.0, last=0.02
    ),
    # the same with an embedding of the guidance
    Denoiser(
        "FluxTransformer2DModel-guidance",
        _guided,
        _guided_inputs,
        regions=8,
        first=1.0,
        last=0.02,
    ),
    # the same; the residual MLPs of the approximator see only the timestep
    Denoiser(
        "ChromaTransformer2DModel",
        _chroma,
        _chroma_inputs,
        regions=8,
        first=1.0,
        last=0.02,
    ),
]
