"""LongCat: an image model like FLUX, an audio model that convolves the text."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import LongCatAudioDiTTransformer, LongCatImageTransformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _image() -> nn.Module:
    return LongCatImageTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )


def _image_inputs() -> dict[str, Any]:
    return {
        **by_rules(_image, height=8, width=8, text_tokens=10)(),
        "img_ids": torch.randn(16, 3),
    }


def _audio(modulation: str, *, norm: bool) -> nn.Module:
    return LongCatAudioDiTTransformer(
        dit_dim=32,
        dit_depth=2,
        dit_heads=2,
        dit_text_dim=16,
        latent_dim=4,
        adaln_type=modulation,
        adaln_use_text_cond=modulation == "global",
        cross_attn_norm=norm,
        long_skip=not norm,
    )


def _audio_inputs() -> dict[str, Any]:
    text = torch.ones(2, 10, dtype=torch.bool)
    text[1, 7:] = False
    return {
        "hidden_states": torch.randn(2, 20, 4),
        "encoder_hidden_states": torch.randn(2, 10, 16),
        "encoder_attention_mask": text,
        "timestep": torch.tensor([1.0, 1.0]),
        "attention_mask": torch.ones(2, 20, dtype=torch.bool),
        "latent_cond": torch.randn(2, 20, 4),
    }


DENOISERS = [
    # 2 joint blocks: attention, image MLP, text MLP; 2 single blocks
    Denoiser(
        "LongCatImageTransformer2DModel",
        _image,
        _image_inputs,
        regions=8,
        first=1.0,
        last=0.02,
    ),
    # 4 convolution blocks over the text; 2 blocks: self-attention, cross-attention,
    # MLP; a long skip around the blocks
    Denoiser(
        "LongCatAudioDiTTransformer",
        partial(_audio, "global", norm=False),
        _audio_inputs,
        regions=10,
        first=1.0,
        last=0.02,
    ),
    # the same without the long skip
    Denoiser(
        "LongCatAudioDiTTransformer-local",
        partial(_audio, "local", norm=True),
        _audio_inputs,
        regions=10,
        first=1.0,
        last=0.02,
    ),
]
