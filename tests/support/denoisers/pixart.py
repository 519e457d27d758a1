"""PixArt and its relatives: one modulation for all blocks, cross-attention to text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AllegroTransformer3DModel,
    LatteTransformer3DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro
from torch import Tensor, nn

from denoisers.base import Denoiser, by_rules


def _pixart(alpha: bool) -> nn.Module:
    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        sample_size=8,
        use_additional_conditions=alpha,
        caption_channels=16,
    )


def _sigma_inputs() -> dict[str, Any]:
    return {
        **by_rules(lambda: _pixart(alpha=False), text_tokens=6, whole=True)(),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "encoder_attention_mask": _text_mask(),
    }


def _alpha_inputs() -> dict[str, Any]:
    sizes = {
        "resolution": torch.tensor([[64.0, 64.0], [64.0, 64.0]]),
        "aspect_ratio": torch.tensor([[1.0], [1.0]]),
    }
    return {**_sigma_inputs(), "added_cond_kwargs": sizes}


def _text_mask() -> Tensor:
    return torch.tensor([[1] * 6, [1] * 4 + [0] * 2])


def _latte() -> nn.Module:
    return LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        attention_bias=True,
        sample_size=4,
        patch_size=2,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=16,
        video_length=3,
    )


_latte_inputs = by_rules(_latte, text_tokens=6, whole=True)


def _allegro() -> nn.Module:
    return AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        cross_attention_dim=24,
        sample_height=4,
        sample_width=4,
        sample_frames=3,
        caption_channels=16,
    )


def _allegro_inputs() -> dict[str, Any]:
    *freqs, grid_t, grid_h, grid_w = get_3d_rotary_pos_embed_allegro(
        embed_dim=12,
        crops_coords=((0, 0), (2, 2)),
        grid_size=(2, 2),
        temporal_size=3,
        interpolation_scale=(2.2, 2.0, 2.0),
    )
    grids = torch.cartesian_prod(grid_t.long(), grid_h.long(), grid_w.long())
    return {
        "hidden_states": torch.randn(2, 4, 3, 4, 4),
        "encoder_hidden_states": torch.randn(2, 6, 16),
        "timestep": torch.tensor([1000, 1000]),
        "encoder_attention_mask": _text_mask(),
        "image_rotary_emb": (tuple(freqs), tuple(grids.T.reshape(3, 1, -1))),
    }


def _sana(sprint: bool) -> nn.Module:
    return SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=4,
        guidance_embeds=sprint,
        qk_norm="rms_norm_across_heads" if sprint else None,
    )


def _sana_inputs() -> dict[str, Any]:
    return {
        **by_rules(lambda: _sana(sprint=False), text_tokens=6)(),
        "encoder_attention_mask": _text_mask(),
    }


def _sprint_inputs() -> dict[str, Any]:
    return {**_sana_inputs(), "guidance": torch.tensor([0.45, 0.45])}


def _without_sigma(result: Any) -> Any:
    return result[0][:, :4]


DENOISERS = [
    # 2 blocks: attention, cross-attention, MLP
    Denoiser(
        "PixArtTransformer2DModel-alpha",
        lambda: _pixart(alpha=True),
        _alpha_inputs,
        regions=6,
        velocity=_without_sigma,
    ),
    Denoiser(
        "PixArtTransformer2DModel-sigma",
        lambda: _pixart(alpha=False),
        _sigma_inputs,
        regions=6,
        velocity=_without_sigma,
    ),
    # 2 spatial blocks as above, 2 temporal ones without cross-attention
    Denoiser(
        "LatteTransformer3DModel",
        _latte,
        _latte_inputs,
        regions=10,
        velocity=_without_sigma,
    ),
    # 2 blocks: attention, cross-attention, MLP
    Denoiser("AllegroTransformer3DModel", _allegro, _allegro_inputs, regions=6),
    # 2 blocks: linear attention, cross-attention, MLP of convolutions
    Denoiser(
        "SanaTransformer2DModel", lambda: _sana(sprint=False), _sana_inputs, regions=6
    ),
    # guidance by an input, norms on queries and keys
    Denoiser(
        "SanaTransformer2DModel-sprint",
        lambda: _sana(sprint=True),
        _sprint_inputs,
        regions=6,
        first=1.0,
        last=0.02,
    ),
]
