"""Sana-WM: camera-controlled blocks, and the refiner of its second stage."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SanaWMLTX2RefinerTransformer3DModel, SanaWMTransformer3DModel
from diffusers.models.transformers.transformer_sana_wm_refiner import (
    SanaWMRefinerKVCache,
)
from torch import Tensor, nn

from denoisers.base import Denoiser


def _sana_wm() -> nn.Module:
    return SanaWMTransformer3DModel(
        in_channels=4,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        chunk_plucker_channels=6,
        caption_channels=16,
        mlp_ratio=2.0,
    )


def _sana_wm_inputs() -> dict[str, Any]:
    cameras = torch.eye(4).repeat(1, 3, 1, 1)
    cameras[..., :3, 3] = torch.randn(1, 3, 3)
    lens = torch.tensor([4.0, 4.0, 2.0, 2.0]).repeat(1, 3, 1)
    return {
        "hidden_states": torch.randn(1, 4, 3, 4, 4),
        "timestep": torch.full((1, 1, 3), 1000.0),
        "encoder_hidden_states": torch.randn(1, 1, 8, 16),
        "encoder_attention_mask": torch.ones(1, 8, dtype=torch.long),
        "camera_conditions": torch.cat([cameras.flatten(2), lens], dim=-1),
        "chunk_plucker": torch.randn(1, 6, 3, 4, 4),
    }


def _refiner() -> nn.Module:
    return SanaWMLTX2RefinerTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
    )


def _rope(tokens: int) -> tuple[Tensor, Tensor]:
    angles = torch.randn(1, tokens, 16).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


def _refiner_inputs() -> dict[str, Any]:
    # the frames before have filled the cache: the first ones and the last ones
    cache = SanaWMRefinerKVCache(2)
    cache.sink_pe = _rope(4)
    for layer in cache.layer_caches:
        layer.store_sink(torch.randn(1, 4, 32), torch.randn(1, 4, 32))
        layer.store_history(torch.randn(1, 8, 32), torch.randn(1, 8, 32))
    return {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 8, 16),
        "timestep": torch.full((1, 16), 1000.0),
        "video_rotary_emb": _rope(16),
        "encoder_attention_mask": torch.ones(1, 8),
        "kv_cache": cache,
        "kv_cache_mode": "inject",
    }


DENOISERS = [
    # 2 blocks, the first one with a gated delta rule for attention: attention over
    # tokens and cameras, cross-attention, convolutional MLP with an add of its own
    Denoiser(
        "SanaWMTransformer3DModel",
        _sana_wm,
        _sana_wm_inputs,
        regions=6,
        share=0.9,
        why="the projections of the camera rays do not depend on the latent",
    ),
    # 2 blocks: attention over the cached frames too, cross-attention, MLP
    Denoiser(
        "SanaWMLTX2RefinerTransformer3DModel", _refiner, _refiner_inputs, regions=6
    ),
]
