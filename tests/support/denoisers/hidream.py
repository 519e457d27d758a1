"""HiDream: joint blocks, then single ones, with experts or with plain MLPs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from denoisers.base import Denoiser


def _hidream(experts: int) -> nn.Module:
    return HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[16, 24],
        text_emb_dim=16,
        num_routed_experts=experts,
        num_activated_experts=2,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(16, 16),
        llama_layers=[0, 1, 2, 3],
    )


def _inputs() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timesteps": torch.tensor([1000, 1000]),
        "encoder_hidden_states_t5": torch.randn(2, 6, 16),
        "encoder_hidden_states_llama3": torch.randn(4, 2, 6, 24),
        "pooled_embeds": torch.randn(2, 16),
    }


DENOISERS = [
    # 2 joint blocks: attention, image MLP, text MLP; 2 single blocks: attention, MLP;
    # the last joint block's text goes on into the single ones
    Denoiser(
        "HiDreamImageTransformer2DModel-dense",
        partial(_hidream, 0),
        _inputs,
        regions=10,
        timestep="timesteps",
    ),
    # joint and single blocks have a graph each for their attention; the experts' MLPs
    # are in several graphs
    Denoiser(
        "HiDreamImageTransformer2DModel",
        partial(_hidream, 3),
        _inputs,
        regions=2,
        graphs=15,
        share=0.0,
        why="the numbers of tokens per expert become Python numbers",
        timestep="timesteps",
    ),
]
