"""HunyuanImage: a token refiner, joint blocks, single blocks; one text or two."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import HunyuanImageTransformer2DModel
from torch import nn

from denoisers.base import Denoiser


def _image(glyphs: int | None, *, refiner: bool = False) -> nn.Module:
    return HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        patch_size=(1, 1, 1) if refiner else (1, 1),
        guidance_embeds=refiner,
        text_embed_dim=16,
        text_embed_2_dim=glyphs,
        rope_axes_dim=(4, 4, 8) if refiner else (8, 8),
        use_meanflow=refiner,
    )


def _inputs() -> dict[str, Any]:
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 7:] = 0
    return {
        "hidden_states": torch.randn(2, 4, 6, 6),
        "timestep": torch.tensor([1000.0, 1000.0]),
        "encoder_hidden_states": torch.randn(2, 10, 16),
        "encoder_attention_mask": mask,
    }


def _glyph_inputs() -> dict[str, Any]:
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    return {
        **_inputs(),
        "encoder_hidden_states_2": torch.randn(2, 6, 12),
        "encoder_attention_mask_2": mask,
    }


def _refiner_inputs() -> dict[str, Any]:
    return {
        **_inputs(),
        "hidden_states": torch.randn(2, 4, 2, 4, 4),
        "timestep_r": torch.tensor([920.0, 920.0]),
        "guidance": torch.tensor([3500.0, 3500.0]),
    }


DENOISERS = [
    # 2 text refiners: attention, MLP; 2 joint blocks: attention, image MLP, text MLP;
    # 2 single blocks
    Denoiser(
        "HunyuanImageTransformer2DModel",
        partial(_image, None),
        _inputs,
        regions=12,
    ),
    # the same for 5-D latents, with the next timestep as a second input
    Denoiser(
        "HunyuanImageTransformer2DModel-refiner",
        partial(_image, None, refiner=True),
        _refiner_inputs,
        regions=12,
        also=("timestep_r",),
    ),
    # the same; the joint blocks share a graph, the single ones have one each, for the
    # strides of their inputs differ
    Denoiser(
        "HunyuanImageTransformer2DModel-glyphs",
        partial(_image, 12),
        _glyph_inputs,
        regions=9,
        graphs=8,
        why="it sorts the text by its masks",
    ),
]
