"""Stable Audio 3: differential attention over memory and audio tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_stable_audio3 import (
    StableAudio3DiTModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules


def _stable_audio_3() -> nn.Module:
    return StableAudio3DiTModel(
        io_channels=4,
        embed_dim=32,
        depth=2,
        num_heads=2,
        cond_token_dim=16,
        global_cond_dim=16,
        local_add_cond_dim=5,
        timestep_features_dim=32,
        ff_mult=2.0,
        num_memory_tokens=4,
    )


def _stable_audio_3_inputs() -> dict[str, Any]:
    return {
        **by_rules(_stable_audio_3, frames=24, text_tokens=8)(),
        "encoder_attention_mask": torch.tensor([[True] * 8, [True] * 5 + [False] * 3]),
    }


def _inpaint_inputs() -> dict[str, Any]:
    return {**_stable_audio_3_inputs(), "local_add_cond": torch.randn(2, 5, 24)}


DENOISERS = [
    # 2 blocks: self-attention, cross-attention, MLP; the convolutions with a residual
    # add before and after them are single linear maps
    Denoiser(
        "StableAudio3DiTModel",
        _stable_audio_3,
        _stable_audio_3_inputs,
        regions=6,
        first=1.0,
        last=0.02,
    ),
    # the same; every block adds a projection of the known audio to a slice of tokens
    Denoiser(
        "StableAudio3DiTModel-inpaint",
        _stable_audio_3,
        _inpaint_inputs,
        regions=6,
        share=0.85,
        why="the projections of the known audio do not depend on the latent",
        first=1.0,
        last=0.02,
    ),
]
