"""Wan-Animate: Wan's blocks, driven by a pose and a face video."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from diffusers import WanAnimate2Transformer3DModel, WanAnimateTransformer3DModel
from diffusers.models.transformers import transformer_wan_animate_2
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from denoisers.base import Denoiser, by_rules


def _animate() -> nn.Module:
    return WanAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=12,
        latent_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        image_dim=16,
        added_kv_proj_dim=24,
        rope_max_seq_len=32,
        motion_encoder_channel_sizes={"4": 2, "8": 2, "16": 2},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=8,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=1,
    )


def _animate_inputs() -> dict[str, Any]:
    return {
        **by_rules(_animate, batch=1, height=8, width=8, frames=3, whole=True)(),
        "encoder_hidden_states_image": torch.randn(1, 10, 16),
    }


def _noisy_channels(result: Any) -> Tensor:
    """The model's latent comes with 8 channels of conditioning, which do not move."""
    sample: Tensor = result[0]
    return torch.cat([sample, torch.zeros_like(sample).repeat(1, 2, 1, 1, 1)], dim=1)


def _animate_2() -> nn.Module:
    model = WanAnimate2Transformer3DModel(
        text_len=16,
        in_dim=12,
        dim=24,
        ffn_dim=64,
        freq_dim=32,
        text_dim=16,
        out_dim=4,
        num_heads=2,
        num_layers=2,
        use_img_emb=False,
    )
    # what the first call makes: the rotations of the reference and of the video, and
    # the mask, in code that Dynamo cannot trace
    model._rope_freqs((1, 0, 4), torch.device("cpu"))
    model._rope_freqs((0, 0, 0), torch.device("cpu"))
    with mock.patch.object(transformer_wan_animate_2, "create_block_mask", _block_mask):
        model.block_masks[2, 16] = model.create_mask(2, 16, torch.device("cpu"))
    return model


def _block_mask(*arguments: Any, _compile: bool, **options: Any) -> BlockMask:
    """The mask without compiling the code that makes it, which takes half a minute."""
    return create_block_mask(*arguments, **options)


def _animate_2_inputs() -> dict[str, Any]:
    # one pass over the reference video would have filled the cache
    cache = WanAnimate2KVCache(2)
    for layer in cache.layer_caches:
        layer.store(torch.randn(1, 32, 2, 12), torch.randn(1, 32, 2, 12))
    return {
        "hidden_states": [torch.randn(4, 3, 8, 8)],
        "timestep": torch.tensor([1000.0]),
        "encoder_hidden_states": [torch.randn(12, 16)],
        "condition_latents": [torch.randn(8, 3, 8, 8)],
        "kv_cache": cache,
        "kv_cache_mode": "cached",
        "seq_len": 48,
        "reference_grid_sizes": torch.tensor([[2, 4, 4]]),
        "origin_len": 5,
        "origin_area": [64, 64],
    }


DENOISERS = [
    # 2 blocks: self-attention, cross-attention, MLP, attention over the face video
    Denoiser(
        "WanAnimateTransformer3DModel",
        _animate,
        _animate_inputs,
        regions=8,
        share=0.9,
        why="the encoder of the face video does not depend on the latent",
        velocity=_noisy_channels,
    ),
    # cross-attention, MLP: 2 blocks that share a graph; their self-attentions are in
    # several graphs
    Denoiser(
        "WanAnimate2Transformer3DModel",
        _animate_2,
        _animate_2_inputs,
        regions=2,
        graphs=5,
        share=0.1,
        why="the self-attention, over the long cache, is cut into several graphs",
    ),
]
