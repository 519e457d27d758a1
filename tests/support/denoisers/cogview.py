"""CogView and GLM-Image: joint attention with one projection for both streams."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    CogView3PlusTransformer2DModel,
    CogView4Transformer2DModel,
    GlmImageTransformer2DModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "text_embed_dim": 24,
    "time_embed_dim": 32,
    "condition_dim": 8,
}


def _cogview3() -> nn.Module:
    return CogView3PlusTransformer2DModel(**_CONFIG, pos_embed_max_size=8)


def _cogview4() -> nn.Module:
    return CogView4Transformer2DModel(**_CONFIG, rope_axes_dim=(8, 8))


_cogview_inputs = by_rules(_cogview3, height=8, width=8, text_tokens=8, whole=True)


def _glm_image() -> nn.Module:
    return GlmImageTransformer2DModel(**_CONFIG, prior_vq_quantizer_codebook_size=32)


def _glm_image_inputs() -> dict[str, Any]:
    call = _cogview_inputs()
    del call["original_size"]
    return {
        **call,
        "prior_token_id": torch.randint(0, 32, (2, 16)),
        "prior_token_drop": torch.tensor([[False], [True]]).expand(2, 16).clone(),
    }


DENOISERS = [
    # 2 blocks: attention, MLP, both over the two streams
    Denoiser("CogView3PlusTransformer2DModel", _cogview3, _cogview_inputs, regions=4),
    # 2 blocks: attention, image MLP, text MLP; the last text MLP is dead code
    Denoiser("CogView4Transformer2DModel", _cogview4, _cogview_inputs, regions=5),
    # the same, in the graph after the boolean index, which writes to its input
    Denoiser(
        "GlmImageTransformer2DModel",
        _glm_image,
        _glm_image_inputs,
        regions=0,
        graphs=2,
        share=0.0,
        why="the graph with the blocks writes to the prior embedding, its input",
    ),
]
