"""Motif-Video: joint blocks, single blocks, and single blocks that decode."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import MotifVideoTransformer3DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _motif_video(**variant: Any) -> nn.Module:
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "mlp_ratio": 2.0,
        "text_embed_dim": 24,
        "rope_axes_dim": (4, 6, 6),
    }
    return MotifVideoTransformer3DModel(**{**config, **variant})


def _motif_video_cross() -> nn.Module:
    return _motif_video(
        num_single_layers=4,
        num_decoder_layers=2,
        enable_text_cross_attention_dual=True,
        enable_text_cross_attention_single=True,
    )


def _motif_video_inputs() -> dict[str, Any]:
    return {
        **by_rules(
            _motif_video, height=8, width=8, frames=2, text_tokens=10, whole=True
        )(),
        "encoder_attention_mask": torch.tensor([[1] * 10, [1] * 6 + [0] * 4]),
    }


DENOISERS = [
    # 2 joint blocks: attention, video MLP, text MLP; 2 single blocks
    Denoiser(
        "MotifVideoTransformer3DModel", _motif_video, _motif_video_inputs, regions=8
    ),
    # the same with 2 more single blocks, which read the result of the others; in the
    # joint blocks a cross-attention reads the attention's result: three outputs
    Denoiser(
        "MotifVideoTransformer3DModel-cross",
        _motif_video_cross,
        _motif_video_inputs,
        regions=10,
    ),
]
