"""One stream of text and image tokens: Lumina 2, OmniGen, Z-Image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    Lumina2Transformer2DModel,
    OmniGenTransformer2DModel,
    ZImageTransformer2DModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules


def _lumina2() -> nn.Module:
    return Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(32, 16, 16),
        cap_feat_dim=16,
    )


_lumina2_inputs = by_rules(_lumina2, text_tokens=8)


def _z_image() -> nn.Module:
    model = ZImageTransformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 4],
        axes_lens=[128, 16, 16],
    )
    # the table that the first call makes, in code that Dynamo cannot trace
    model.rope_embedder(torch.zeros(1, 3, dtype=torch.int32))
    return model


def _z_image_inputs() -> dict[str, Any]:
    return {
        **by_rules(_z_image, height=8, width=8, text_tokens=8)(),
        "cap_feats": [torch.randn(8, 16), torch.randn(20, 16)],
    }


def _omnigen() -> nn.Module:
    return OmniGenTransformer2DModel(
        in_channels=4,
        patch_size=2,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        num_layers=2,
        pad_token_id=0,
        vocab_size=64,
        rope_scaling={"short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
        pos_embed_max_size=8,
        time_step_dim=32,
    )


def _omnigen_inputs() -> dict[str, Any]:
    # 8 tokens of text and a 4 x 4 input image, the timestep, 16 of the image
    tokens = 8 + 4 + 1 + 16
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.zeros(2),
        "input_ids": torch.randint(0, 64, (2, 12)),
        "input_img_latents": [torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)],
        "input_image_sizes": {0: [[6, 10]], 1: [[2, 6]]},
        "attention_mask": torch.ones(2, tokens, tokens, dtype=torch.long).tril(),
        "position_ids": torch.arange(tokens).repeat(2, 1),
    }


DENOISERS = [
    # attention, MLP in each of 2 context refiners, 2 noise refiners, 2 joint blocks
    Denoiser(
        "Lumina2Transformer2DModel",
        _lumina2,
        _lumina2_inputs,
        regions=12,
        graphs=2,
        why="the caption lengths become Python numbers before the refiners",
        first=0.0,
        last=0.98,
    ),
    # 2 blocks: attention, MLP
    Denoiser(
        "OmniGenTransformer2DModel",
        _omnigen,
        _omnigen_inputs,
        regions=4,
        graphs=2,
        why="the length of the longest sequence chooses the RoPE factors",
        first=0.0,
        last=0.98,
    ),
    # attention, MLP in each of 2 noise refiners, 2 context refiners, 2 joint blocks
    Denoiser(
        "ZImageTransformer2DModel",
        _z_image,
        _z_image_inputs,
        regions=12,
        latent="x",
        timestep="t",
        first=0.0,
        last=0.98,
    ),
]
