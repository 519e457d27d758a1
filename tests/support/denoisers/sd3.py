"""Stable Diffusion 3: joint attention of an image and a text stream."""

from __future__ import annotations

from typing import Any

from diffusers import SD3Transformer2DModel
from torch import nn

from denoisers.base import Denoiser, by_rules


def _sd3(**variant: Any) -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
        **variant,
    )


def _sd35() -> nn.Module:
    return _sd3(dual_attention_layers=(0,), qk_norm="rms_norm")


_sd3_inputs = by_rules(_sd3, text_tokens=10)


DENOISERS = [
    # joint attention, image MLP, text MLP; the last block drops the text stream:
    # attention with one output, image MLP
    Denoiser("SD3Transformer2DModel", _sd3, _sd3_inputs, regions=5),
    # the same, and a second attention over the image in the first block
    Denoiser("SD3Transformer2DModel-sd35", _sd35, _sd3_inputs, regions=6),
]
