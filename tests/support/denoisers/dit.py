"""DiT and the blocks that many later models share, and the prior of unCLIP."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiTTransformer2DModel, PriorTransformer, Transformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _dit() -> nn.Module:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=10,
    )


def _transformer2d_dit() -> nn.Module:
    return Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=10,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )


def _labels() -> dict[str, Any]:
    return {
        **by_rules(_dit, whole=True)(),
        "class_labels": torch.tensor([3, 7]),
    }


def _transformer2d_pixart() -> nn.Module:
    return Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=16,
    )


def _caption() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 16),
        "timestep": torch.tensor([1000, 1000]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "encoder_attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
    }


def _prior() -> nn.Module:
    return PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=16,
        num_embeddings=6,
        additional_embeddings=4,
    )


def _prior_inputs() -> dict[str, Any]:
    return {
        **by_rules(_prior)(),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool(),
    }


def _without_sigma(result: Any) -> Any:
    return result[0][:, :4]


DENOISERS = [
    # 2 blocks: attention, MLP
    Denoiser(
        "DiTTransformer2DModel", _dit, _labels, regions=4, velocity=_without_sigma
    ),
    # the same blocks
    Denoiser(
        "Transformer2DModel-dit",
        _transformer2d_dit,
        _labels,
        regions=4,
        velocity=_without_sigma,
    ),
    # 2 blocks: attention, cross-attention, MLP
    Denoiser(
        "Transformer2DModel-pixart",
        _transformer2d_pixart,
        _caption,
        regions=6,
        velocity=_without_sigma,
    ),
    # 2 blocks: attention, MLP; the latent is one token, the timestep another
    Denoiser("PriorTransformer", _prior, _prior_inputs, regions=4),
]
