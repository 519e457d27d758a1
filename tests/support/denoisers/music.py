"""Denoisers of music: cross-attention to text, lyrics or notes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AceStepTransformer1DModel,
    StableAudioDiTModel,
    T5FilmDecoder,
)
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import nn

from denoisers.base import Denoiser, by_rules


def _ace_step() -> nn.Module:
    return AceStepTransformer1DModel(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
        sliding_window=4,
    )


_ace_step_inputs = by_rules(_ace_step, frames=24, text_tokens=6)


def _stable_audio() -> nn.Module:
    return StableAudioDiTModel(
        sample_size=16,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        out_channels=4,
        cross_attention_dim=16,
        time_proj_dim=16,
        global_states_input_dim=16,
        cross_attention_input_dim=16,
    )


def _stable_audio_inputs() -> dict[str, Any]:
    rotary = get_1d_rotary_pos_embed(8, 17, use_real=True, repeat_interleave_real=False)
    return {
        "hidden_states": torch.randn(2, 4, 16),
        "timestep": torch.tensor([1.0]),
        "encoder_hidden_states": torch.randn(2, 6, 16),
        "global_hidden_states": torch.randn(2, 1, 16),
        "rotary_embedding": rotary,
    }


def _t5_film() -> nn.Module:
    return T5FilmDecoder(
        input_dims=8,
        targets_length=16,
        d_model=16,
        num_layers=2,
        num_heads=2,
        d_kv=8,
        d_ff=32,
    )


def _t5_film_inputs() -> dict[str, Any]:
    notes = torch.randn(2, 6, 16), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    before = torch.randn(2, 16, 16), torch.zeros(2, 16, dtype=torch.bool)
    return {
        "encodings_and_masks": [notes, before],
        "decoder_input_tokens": torch.randn(2, 16, 8),
        "decoder_noise_time": torch.tensor([1.0, 1.0]),
    }


DENOISERS = [
    # 2 blocks: attention in a window or over all, cross-attention, MLP
    Denoiser(
        "AceStepTransformer1DModel",
        _ace_step,
        _ace_step_inputs,
        regions=6,
        also=("timestep_r",),
        first=1.0,
        last=0.02,
    ),
    # 2 blocks: attention, cross-attention, MLP; the convolutions at the two ends, each
    # added to its input, are one linear layer, neither attention nor MLP
    Denoiser(
        "StableAudioDiTModel",
        _stable_audio,
        _stable_audio_inputs,
        regions=6,
        first=1.0,
        last=0.02,
    ),
    # 2 layers: attention, cross-attention, MLP
    Denoiser(
        "T5FilmDecoder",
        _t5_film,
        _t5_film_inputs,
        regions=6,
        latent="decoder_input_tokens",
        timestep="decoder_noise_time",
        first=0.99,
        last=0.02,
        velocity=lambda result: result,
    ),
]
