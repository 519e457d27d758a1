"""EasyAnimate: joint attention; the streams have MLPs of their own or share one."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import EasyAnimateTransformer3DModel
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "num_layers": 2,
    "time_embed_dim": 16,
    "text_embed_dim": 24,
}


def _easyanimate() -> nn.Module:
    return EasyAnimateTransformer3DModel(**_CONFIG, mmdit_layers=2)


_inputs = by_rules(_easyanimate, height=8, width=8, frames=2, text_tokens=8, whole=True)


def _shared() -> nn.Module:
    return EasyAnimateTransformer3DModel(
        **_CONFIG,
        mmdit_layers=0,
        after_norm=True,
        add_norm_text_encoder=True,
        text_embed_dim_t5=24,
    )


def _shared_inputs() -> dict[str, Any]:
    return {**_inputs(), "encoder_hidden_states_t5": torch.randn(2, 6, 24)}


DENOISERS = [
    # 2 joint blocks: attention, video MLP, text MLP; the last text MLP is dead code
    Denoiser("EasyAnimateTransformer3DModel", _easyanimate, _inputs, regions=5),
    # one projection and one MLP for both streams, a norm after the MLPs
    Denoiser(
        "EasyAnimateTransformer3DModel-shared", _shared, _shared_inputs, regions=5
    ),
]
