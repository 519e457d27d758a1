"""JoyImage-Edit: joint blocks over patches of one image or several."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
)
from torch import nn

from denoisers.base import Denoiser, by_rules

_SIZES: dict[str, Any] = {
    "in_channels": 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "text_dim": 16,
    "num_layers": 2,
    "rope_dim_list": [4, 4, 8],
}


def _edit() -> nn.Module:
    return JoyImageEditTransformer3DModel(**_SIZES)


def _edit_inputs() -> dict[str, Any]:
    return {
        **by_rules(_edit, height=1, width=1, frames=1, text_tokens=10, whole=True)(),
        "hidden_states": torch.randn(2, 2, 4, 1, 8, 8),
    }


def _plus() -> nn.Module:
    return JoyImageEditPlusTransformer3DModel(**_SIZES)


def _plus_inputs() -> dict[str, Any]:
    # the target, then references; the second sample is padded
    mask = torch.ones(2, 10)
    mask[1, 7:] = 0
    return {
        "hidden_states": torch.randn(2, 40, 4, 1, 2, 2),
        "timestep": torch.tensor([1000, 1000]),
        "encoder_hidden_states": torch.randn(2, 10, 16),
        "encoder_hidden_states_mask": mask,
        "shape_list": [[(1, 4, 4), (1, 4, 4), (1, 2, 4)], [(1, 4, 4), (1, 4, 4)]],
    }


DENOISERS = [
    # 2 blocks: attention, image MLP, text MLP; the last text MLP is dead code
    Denoiser(
        "JoyImageEditTransformer3DModel",
        _edit,
        _edit_inputs,
        regions=5,
    ),
    # the same
    Denoiser("JoyImageEditPlusTransformer3DModel", _plus, _plus_inputs, regions=5),
]
