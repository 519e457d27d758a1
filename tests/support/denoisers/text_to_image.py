"""AuraFlow, Hunyuan-DiT and Lumina-Next: blocks that differ from the common ones."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    HunyuanDiT2DModel,
    LuminaNextDiT2DModel,
)
from diffusers.models.embeddings import (
    get_2d_rotary_pos_embed,
    get_2d_rotary_pos_embed_lumina,
)
from torch import nn

from denoisers.base import Denoiser, by_rules


def _aura_flow() -> nn.Module:
    return AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )


_aura_flow_inputs = by_rules(_aura_flow, text_tokens=6)


def _hunyuan_dit() -> nn.Module:
    return HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        activation_fn="gelu-approximate",
        sample_size=8,
        hidden_size=32,
        num_layers=4,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=16,
        text_len=4,
        text_len_t5=6,
    )


def _hunyuan_dit_inputs() -> dict[str, Any]:
    rotary = get_2d_rotary_pos_embed(16, ((0, 0), (4, 4)), (4, 4), output_type="pt")
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([1000.0, 1000.0]),
        "encoder_hidden_states": torch.randn(2, 4, 16),
        "text_embedding_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "encoder_hidden_states_t5": torch.randn(2, 6, 16),
        "text_embedding_mask_t5": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        "image_meta_size": torch.tensor([[64.0, 64, 64, 64, 0, 0]] * 2),
        "style": torch.tensor([0, 0]),
        "image_rotary_emb": rotary,
    }


def _lumina_next() -> nn.Module:
    return LuminaNextDiT2DModel(
        sample_size=8,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=16,
    )


def _lumina_next_inputs() -> dict[str, Any]:
    return {
        **by_rules(_lumina_next, text_tokens=6)(),
        "encoder_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(8, 16, 16),
    }


def _without_sigma(result: Any) -> Any:
    return result[0][:, :4]


DENOISERS = [
    # 2 joint blocks and 2 single blocks; the add after attention only feeds the MLP,
    # the block's own add starts from its input: each is one region, joint ones have
    # two outputs
    Denoiser(
        "AuraFlowTransformer2DModel",
        _aura_flow,
        _aura_flow_inputs,
        regions=4,
        first=1.0,
        last=0.02,
    ),
    # 4 blocks: attention, cross-attention, MLP; the last starts from a linear layer
    # on the stream and on the first block's result
    Denoiser(
        "HunyuanDiT2DModel",
        _hunyuan_dit,
        _hunyuan_dit_inputs,
        regions=12,
        velocity=_without_sigma,
    ),
    # 2 blocks: attention and cross-attention with one projection, MLP
    Denoiser(
        "LuminaNextDiT2DModel",
        _lumina_next,
        _lumina_next_inputs,
        regions=4,
        first=0.0,
        last=0.98,
        velocity=_without_sigma,
    ),
]
