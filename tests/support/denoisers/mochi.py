"""Mochi: joint attention of a video and a text stream, norms after the branches."""

from __future__ import annotations

from diffusers import MochiTransformer3DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _mochi() -> nn.Module:
    return MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=32,
        max_sequence_length=16,
    )


_mochi_inputs = by_rules(_mochi, height=8, width=8, frames=2)


DENOISERS = [
    # video MLP, text MLP; the last block drops the text stream; the joint attentions
    # are in several graphs
    Denoiser(
        "MochiTransformer3DModel",
        _mochi,
        _mochi_inputs,
        regions=3,
        graphs=10,
        share=0.5,
        why="the attention gathers every sample's valid tokens, of unknown number",
        first=0.0,
        last=980.0,
    ),
]
