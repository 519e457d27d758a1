"""Bria: joint and single blocks; Fibo 2.0 has one stream and a perceiver."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    BriaFibo2Transformer2DModel,
    BriaFiboTransformer2DModel,
    BriaTransformer2DModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 4, 8),
}


def _bria() -> nn.Module:
    return BriaTransformer2DModel(**_CONFIG)


def _bria_inputs() -> dict[str, Any]:
    return {
        **by_rules(_bria, height=8, width=8, text_tokens=8)(),
        "img_ids": torch.randn(16, 3),
    }


def _fibo() -> nn.Module:
    return BriaFiboTransformer2DModel(**_CONFIG, text_encoder_dim=20)


def _fibo_inputs() -> dict[str, Any]:
    layers = [torch.randn(2, 8, 20) for _ in range(4)]
    return {**_bria_inputs(), "text_encoder_layers": layers}


def _fibo2() -> nn.Module:
    model = BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=2,
        cap_feat_dim=24,
        injection_layer_ids=(1,),
        perceiver_num_layers=2,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=2,
        gist_min_text_len=4,
        gist_max_text_len=20,
        axes_dims=(4, 6, 6),
        axes_lens=(16, 8, 8),
    )
    # its table of positions is made at the first call, which would compile twice
    model.rope_embedder(torch.zeros(1, 3, dtype=torch.int32))
    return model


def _fibo2_inputs() -> dict[str, Any]:
    return {
        **by_rules(_fibo2, height=8, width=8, text_tokens=2)(),
        "encoder_hidden_states": torch.randn(2, 2, 12, 24),
    }


DENOISERS = [
    # 2 joint blocks: attention, image MLP, text MLP; 2 single blocks
    Denoiser("BriaTransformer2DModel", _bria, _bria_inputs, regions=8),
    # the same; before every block half of the text stream is replaced
    Denoiser("BriaFiboTransformer2DModel", _fibo, _fibo_inputs, regions=8),
    # 2 noise refiners of attention, MLP; 2 perceiver layers of cross-attention,
    # attention, MLP, less the first, whose stream is a parameter; 2 blocks of
    # attention, MLP, the second with cross-attention
    Denoiser(
        "BriaFibo2Transformer2DModel",
        _fibo2,
        _fibo2_inputs,
        regions=14,
        first=1.0,
        last=0.02,
    ),
]
