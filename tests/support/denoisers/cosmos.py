"""Cosmos: diffusion transformers over video; Cosmos 3 has a text stream beside."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Cosmos3OmniTransformer, CosmosTransformer3DModel
from torch import nn

from denoisers.base import Denoiser, by_rules

_CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": 24,
    "adaln_lora_dim": 8,
    "max_size": (4, 16, 16),
    # the resizing of the mask needs torchvision
    "concat_padding_mask": False,
}


def _predict1() -> nn.Module:
    return CosmosTransformer3DModel(**_CONFIG)


_predict1_inputs = by_rules(_predict1, height=8, width=8, frames=2, text_tokens=8)


def _predict2() -> nn.Module:
    config = {**_CONFIG, "in_channels": 5}
    return CosmosTransformer3DModel(**config, extra_pos_embed_type=None)


def _predict2_inputs() -> dict[str, Any]:
    return {
        **_predict1_inputs(),
        "timestep": torch.ones(2, 1, 2, 1, 1),
        "condition_mask": torch.zeros(2, 1, 2, 8, 8),
    }


def _transfer() -> nn.Module:
    return CosmosTransformer3DModel(
        **_CONFIG,
        extra_pos_embed_type=None,
        use_crossattn_projection=True,
        crossattn_proj_in_channels=20,
        encoder_hidden_states_channels=24,
        img_context_dim_in=12,
        img_context_num_tokens=6,
        img_context_dim_out=32,
    )


def _transfer_inputs() -> dict[str, Any]:
    return {
        **_predict1_inputs(),
        "timestep": torch.tensor([1.0, 1.0]),
        "encoder_hidden_states": (torch.randn(2, 8, 20), torch.randn(2, 6, 12)),
    }


def _cosmos3() -> nn.Module:
    return Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=32,
        intermediate_size=64,
        latent_channel=4,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=1,
        patch_latent_dim=16,
        vocab_size=32,
        rope_axes_dim=(4, 2, 2),
    )


def _cosmos3_inputs() -> dict[str, Any]:
    vision = torch.arange(6, 14)
    return {
        "input_ids": torch.randint(0, 32, (6,)),
        "text_indexes": torch.arange(6),
        "position_ids": torch.arange(14).expand(3, 14).clone(),
        "und_len": 6,
        "sequence_length": 14,
        "vision_tokens": [torch.randn(1, 4, 2, 4, 4)],
        "vision_token_shapes": [(2, 2, 2)],
        "vision_sequence_indexes": vision,
        "vision_mse_loss_indexes": vision,
        "vision_timesteps": torch.full((8,), 1000.0),
        "vision_noisy_frame_indexes": [torch.arange(2)],
    }


DENOISERS = [
    # 2 blocks: self-attention, cross-attention, MLP
    Denoiser("CosmosTransformer3DModel", _predict1, _predict1_inputs, regions=6),
    # a timestep per frame, so every token has its modulation
    Denoiser(
        "CosmosTransformer3DModel-predict2",
        _predict2,
        _predict2_inputs,
        regions=6,
        first=1.0,
        last=0.02,
    ),
    # the two cross-attentions, over text and over the image, share one projection
    Denoiser(
        "CosmosTransformer3DModel-transfer",
        _transfer,
        _transfer_inputs,
        regions=6,
        first=1.0,
        last=0.02,
    ),
    # 2 layers: attention (text causally, video over both), text MLP, video MLP
    Denoiser(
        "Cosmos3OmniTransformer",
        _cosmos3,
        _cosmos3_inputs,
        regions=6,
        latent="vision_tokens",
        timestep="vision_timesteps",
    ),
]
