"""ERNIE-Image: one stream of image and text, laid out tokens first."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ErnieImageTransformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _ernie() -> nn.Module:
    return ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=64,
        in_channels=4,
        out_channels=4,
        text_in_dim=24,
        rope_axes_dim=(4, 6, 6),
    )


def _ernie_inputs() -> dict[str, Any]:
    return {
        **by_rules(_ernie, height=4, width=4, text_tokens=8, whole=True)(),
        "text_lens": torch.tensor([8, 5]),
    }


DENOISERS = [
    # 2 blocks: attention, MLP
    Denoiser("ErnieImageTransformer2DModel", _ernie, _ernie_inputs, regions=4),
]
