"""Qwen-Image: joint attention of two streams; version 2.1 has one stream."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import QwenImage21Transformer2DModel, QwenImageTransformer2DModel
from torch import Tensor, nn

from denoisers.base import Denoiser, by_rules


def _qwen_image() -> nn.Module:
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
    )


def _qwen_image_inputs() -> dict[str, Any]:
    return {
        **by_rules(_qwen_image, height=8, width=8, text_tokens=8)(),
        "encoder_hidden_states_mask": torch.ones(2, 8, dtype=torch.bool),
    }


def _qwen_image_21() -> nn.Module:
    return QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=24,
        axes_dims_rope=(4, 6, 6),
    )


_qwen_image_21_inputs = by_rules(_qwen_image_21, height=8, width=8, text_tokens=6)


def _image_tokens(result: Any) -> Tensor:
    tokens: Tensor = result[0]
    return tokens[:, -16:]


DENOISERS = [
    # joint attention, image MLP, text MLP; nothing reads the last block's text stream:
    # attention with one output, image MLP
    Denoiser(
        "QwenImageTransformer2DModel",
        _qwen_image,
        _qwen_image_inputs,
        regions=5,
        first=1.0,
        last=0.02,
    ),
    # 2 blocks: attention, MLP
    Denoiser(
        "QwenImage21Transformer2DModel",
        _qwen_image_21,
        _qwen_image_21_inputs,
        regions=4,
        graphs=3,
        why="the layout of the sequence is made of Python numbers before the blocks",
        first=1.0,
        last=0.02,
        velocity=_image_tokens,
    ),
]
