"""CogVideoX and ConsisID: two streams, one MLP for both; faces by cross-attention."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel, ConsisIDTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import nn

from denoisers.base import Denoiser, by_rules

_COMMON: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 16,
    "num_layers": 2,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 5,
    "max_text_seq_length": 6,
}


def _cogvideox() -> nn.Module:
    return CogVideoXTransformer3DModel(**_COMMON)


_cogvideox_inputs = by_rules(_cogvideox, whole=True)


def _cogvideox15() -> nn.Module:
    return CogVideoXTransformer3DModel(
        **_COMMON,
        ofs_embed_dim=16,
        patch_size_t=2,
        use_rotary_positional_embeddings=True,
    )


def _cogvideox15_inputs() -> dict[str, Any]:
    rotary = get_3d_rotary_pos_embed(
        embed_dim=16,
        crops_coords=None,
        grid_size=(2, 2),
        temporal_size=2,
        grid_type="slice",
        max_size=(2, 2),
    )
    return {
        **_cogvideox_inputs(),
        "hidden_states": torch.randn(2, 4, 4, 4, 4),
        "ofs": torch.tensor([2.0]),
        "image_rotary_emb": rotary,
    }


def _consisid() -> nn.Module:
    return ConsisIDTransformer3DModel(
        **{**_COMMON, "num_attention_heads": 3},
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        cross_attn_interval=1,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=16,
        LFE_vit_dim=16,
        LFE_depth=2,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=4,
        LFE_output_dim=32,
        LFE_ff_mult=2,
        LFE_num_scale=2,
    )


def _consisid_inputs() -> dict[str, Any]:
    rotary = get_3d_rotary_pos_embed(
        embed_dim=16, crops_coords=((0, 0), (2, 2)), grid_size=(2, 2), temporal_size=2
    )
    return {
        **_cogvideox_inputs(),
        "image_rotary_emb": rotary,
        "id_cond": torch.randn(2, 16),
        "id_vit_hidden": [torch.randn(2, 5, 16), torch.randn(2, 5, 16)],
    }


DENOISERS = [
    # 2 blocks: joint attention, one MLP for both streams
    Denoiser("CogVideoXTransformer3DModel", _cogvideox, _cogvideox_inputs, regions=4),
    # patches over time, rotary positions, an embedded offset
    Denoiser(
        "CogVideoXTransformer3DModel-1.5", _cogvideox15, _cogvideox15_inputs, regions=4
    ),
    # 2 blocks: joint attention, MLP, cross-attention to the face; before them 2 layers
    # make the face's tokens: attention, MLP, but the first attention adds to learned
    # queries and the face's vector, which hold no sequence of the input
    Denoiser("ConsisIDTransformer3DModel", _consisid, _consisid_inputs, regions=9),
]
