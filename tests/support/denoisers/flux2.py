"""FLUX.2 and FLUX.3."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2Transformer2DModel, Flux3Transformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 4, 4, 4),
}


def _flux2() -> nn.Module:
    return Flux2Transformer2DModel(**_CONFIG, timestep_guidance_channels=32)


def _inputs() -> dict[str, Any]:
    return {
        **by_rules(_flux3, height=8, width=8, text_tokens=8)(),
        "img_ids": torch.randn(16, 4),
    }


def _flux2_inputs() -> dict[str, Any]:
    return {**_inputs(), "guidance": torch.tensor([4.0, 4.0])}


def _flux3() -> nn.Module:
    return Flux3Transformer2DModel(**_CONFIG, timestep_channels=32)


def _flux3_reference() -> nn.Module:
    return Flux3Transformer2DModel(**_CONFIG, timestep_channels=32, cond_in_channels=6)


def _flux3_reference_inputs() -> dict[str, Any]:
    return {
        **_inputs(),
        "image_cond_hidden_states": torch.randn(2, 12, 6),
        "image_cond_ids": torch.randn(12, 4),
    }


DENOISERS = [
    # 2 joint blocks: attention, image MLP, text MLP; 2 single blocks
    Denoiser(
        "Flux2Transformer2DModel",
        _flux2,
        _flux2_inputs,
        regions=8,
        first=1.0,
        last=0.02,
    ),
    # attention and MLP are summed before one gate: 2 blocks of the text, 2 of the
    # image, 2 joint ones
    Denoiser(
        "Flux3Transformer2DModel", _flux3, _inputs, regions=6, first=1.0, last=0.02
    ),
    # and 2 of the reference image
    Denoiser(
        "Flux3Transformer2DModel-reference",
        _flux3_reference,
        _flux3_reference_inputs,
        regions=8,
        first=1.0,
        last=0.02,
    ),
]
