"""MiniMax: H3 packs video, audio and text in one sequence; Music 3 denoises audio."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import MiniMaxH3Transformer3DModel
from diffusers.models.transformers.transformer_minimax_music3 import (
    MiniMaxMusic3Transformer1DModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules


def _h3() -> nn.Module:
    return MiniMaxH3Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=2,
        ffn_dim=48,
        in_channels=4,
        audio_in_channels=6,
        text_dim=16,
        freq_dim=32,
        time_embed_hidden_dim=32,
        time_embed_dim=24,
        rope_freq_dim=2,
    )


def _h3_inputs() -> dict[str, Any]:
    # 8 tokens of text, 6 of audio, 16 of video
    text, audio, video = torch.arange(30).split([8, 6, 16])
    return {
        "hidden_states": torch.randn(1, 16, 16),
        "audio_hidden_states": torch.randn(1, 6, 6),
        "encoder_hidden_states": torch.randn(1, 8, 16),
        "timestep": torch.ones(1),
        "timestep_indices": torch.zeros(30, dtype=torch.long),
        "token_tags": torch.tensor([1] * 8 + [2] * 6 + [0] * 16),
        "position_ids": torch.randint(0, 16, (30, 3)),
        "video_indices": video,
        "audio_indices": audio,
        "text_indices": text,
    }


def _music() -> nn.Module:
    return MiniMaxMusic3Transformer1DModel(
        in_channels=4,
        condition_dim=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        ff_inner_dim=48,
        rotary_dim=8,
        fourier_embedding_dim=32,
    )


_music_inputs = by_rules(_music, frames=24)


DENOISERS = [
    # attention, MLP in each of 2 text refiners and 2 blocks
    Denoiser(
        "MiniMaxH3Transformer3DModel", _h3, _h3_inputs, regions=8, first=1.0, last=0.02
    ),
    # 2 blocks: attention, MLP; the convolutions with a residual add before and after
    # them are single linear maps
    Denoiser(
        "MiniMaxMusic3Transformer1DModel",
        _music,
        _music_inputs,
        regions=4,
        first=0.0,
        last=0.98,
    ),
]
