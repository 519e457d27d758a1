"""LTX-Video and LTX-2, which denoises video and audio together."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import LTX2VideoTransformer3DModel, LTXVideoTransformer3DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _ltx() -> nn.Module:
    return LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )


def _ltx_inputs() -> dict[str, Any]:
    return {
        **by_rules(_ltx, height=4, width=4, frames=2, text_tokens=10)(),
        "encoder_attention_mask": torch.ones(2, 10),
        "rope_interpolation_scale": (0.32, 32.0, 32.0),
    }


def _ltx2(**options: Any) -> nn.Module:
    return LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=12,
        audio_cross_attention_dim=24,
        num_layers=2,
        caption_channels=16,
        **options,
    )


def _ltx2_gated() -> nn.Module:
    return _ltx2(
        gated_attn=True,
        cross_attn_mod=True,
        audio_gated_attn=True,
        audio_cross_attn_mod=True,
        rope_type="split",
        use_prompt_embeddings=False,
        perturbed_attn=True,
    )


def _ltx2_inputs() -> dict[str, Any]:
    return {
        **by_rules(_ltx2, height=4, width=4, frames=2, text_tokens=10)(),
        "audio_hidden_states": torch.randn(2, 12, 4),
        "encoder_attention_mask": torch.ones(2, 10),
        "audio_encoder_attention_mask": torch.ones(2, 10),
        "audio_num_frames": 12,
    }


def _ltx2_gated_inputs() -> dict[str, Any]:
    return {
        **_ltx2_inputs(),
        "encoder_hidden_states": torch.randn(2, 10, 32),
        "audio_encoder_hidden_states": torch.randn(2, 10, 24),
        "sigma": torch.tensor([1000.0, 1000.0]),
        "use_cross_timestep": True,
    }


DENOISERS = [
    # 2 blocks: self-attention, cross-attention, MLP
    Denoiser("LTXVideoTransformer3DModel", _ltx, _ltx_inputs, regions=6),
    # 2 blocks, for video and audio: self-attention, attention to the text, attention
    # to the other stream, MLP
    Denoiser("LTX2VideoTransformer3DModel", _ltx2, _ltx2_inputs, regions=16),
    # the same with gated attention and a modulated text
    Denoiser(
        "LTX2VideoTransformer3DModel-gated",
        _ltx2_gated,
        _ltx2_gated_inputs,
        regions=16,
        also=("sigma",),
    ),
]
