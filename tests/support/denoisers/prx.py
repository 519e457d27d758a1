"""PRX: attention of image tokens over image and text, MLP."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _prx() -> nn.Module:
    return PRXTransformer2DModel(
        in_channels=4,
        patch_size=2,
        context_in_dim=24,
        hidden_size=32,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        axes_dim=[8, 8],
    )


def _prx_inputs() -> dict[str, Any]:
    return {
        **by_rules(_prx, height=8, width=8, text_tokens=8)(),
        "attention_mask": torch.tensor([[True] * 8, [True] * 5 + [False] * 3]),
    }


DENOISERS = [
    # 2 blocks: attention, MLP; the text is no stream
    Denoiser(
        "PRXTransformer2DModel", _prx, _prx_inputs, regions=4, first=1.0, last=0.02
    ),
]
