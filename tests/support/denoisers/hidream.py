"""HiDream: joint blocks, then single ones, with experts or with plain MLPs."""

from __future__ import annotations

from functools import partial

from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


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


_inputs = by_rules(partial(_hidream, 0), height=8, width=8, text_tokens=6, whole=True)


DENOISERS = [
    # 2 joint blocks: attention, image MLP, text MLP; 2 single blocks: attention, MLP;
    # the single blocks take the last joint block's text
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
