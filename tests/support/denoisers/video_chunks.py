"""Relatives of Wan with history, chunks or two timesteps."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnyFlowFARTransformer3DModel,
    AnyFlowTransformer3DModel,
    ChronoEditTransformer3DModel,
    HeliosTransformer3DModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}


def _chronoedit() -> nn.Module:
    return ChronoEditTransformer3DModel(
        **_CONFIG, rope_max_seq_len=32, image_dim=16, added_kv_proj_dim=24
    )


def _chronoedit_inputs() -> dict[str, Any]:
    return {
        **by_rules(_chronoedit, height=8, width=8, frames=2, whole=True)(),
        "encoder_hidden_states_image": torch.randn(2, 10, 16),
    }


def _helios() -> nn.Module:
    return HeliosTransformer3DModel(**_CONFIG, rope_dim=(4, 4, 4))


_helios_inputs = by_rules(
    _helios, height=8, width=8, frames=1, text_tokens=12, whole=True
)


def _helios_history() -> nn.Module:
    return HeliosTransformer3DModel(
        **_CONFIG, rope_dim=(4, 4, 4), is_amplify_history=True
    )


def _helios_history_inputs() -> dict[str, Any]:
    frames = torch.arange(8).expand(2, 8)
    return {
        **_helios_inputs(),
        "indices_hidden_states": frames[:, 7:],
        "indices_latents_history_short": frames[:, 6:7],
        "indices_latents_history_mid": frames[:, 4:6],
        "indices_latents_history_long": frames[:, :4],
        "latents_history_short": torch.randn(2, 4, 1, 8, 8),
        "latents_history_mid": torch.randn(2, 4, 2, 8, 8),
        "latents_history_long": torch.randn(2, 4, 4, 8, 8),
    }


def _anyflow() -> nn.Module:
    return AnyFlowTransformer3DModel(**_CONFIG, rope_max_seq_len=32)


_anyflow_inputs = by_rules(_anyflow, height=8, width=8, frames=2, text_tokens=12)


def _anyflow_far() -> nn.Module:
    return AnyFlowFARTransformer3DModel(
        **_CONFIG, rope_max_seq_len=32, chunk_partition=(1, 2)
    )


def _anyflow_far_inputs() -> dict[str, Any]:
    # the second chunk of a video: keys and values of the first one are cached
    return {
        **_anyflow_inputs(),
        "chunk_partition": [1, 2],
        "kv_cache": [
            {
                "compressed_cache": torch.randn(2, 2, 2, 4, 12),
                "full_cache": torch.randn(2, 2, 2, 16, 12),
            }
            for _ in range(2)
        ],
        "kv_cache_flag": {
            "is_cache_step": False,
            "num_cached_chunks": 1,
            "num_cached_full_tokens": 16,
            "num_cached_compressed_tokens": 0,
        },
    }


DENOISERS = [
    # 2 blocks: self-attention, cross-attention over text and image, MLP
    Denoiser(
        "ChronoEditTransformer3DModel", _chronoedit, _chronoedit_inputs, regions=6
    ),
    # the first chunk of a video: the history is empty
    Denoiser("HeliosTransformer3DModel", _helios, _helios_inputs, regions=6),
    # 2 blocks: self-attention, cross-attention of the part after the history, MLP
    Denoiser(
        "HeliosTransformer3DModel-history",
        _helios_history,
        _helios_history_inputs,
        regions=6,
    ),
    # 2 blocks: self-attention, cross-attention, MLP
    Denoiser("AnyFlowTransformer3DModel", _anyflow, _anyflow_inputs, regions=6),
    # 2 blocks: self-attention over the chunks before, cross-attention, MLP
    Denoiser(
        "AnyFlowFARTransformer3DModel", _anyflow_far, _anyflow_far_inputs, regions=6
    ),
]
