"""Inputs of image models of diffusers that the general rules do not make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models import embeddings

from rfc_compile.tools.inspection.input_maker import (
    MASK,
    Arguments,
    ClassRules,
    InputMaker,
    where,
)


def _hidream(make: InputMaker) -> Arguments:
    tokens, batch = min(make.sizes.text_tokens, 128), make.sizes.batch
    t5, llama = make.config["caption_channels"]
    layers = max(make.config["llama_layers"]) + 1
    return {
        "hidden_states": make.shaped("in_channels height width"),
        "timesteps": make.per_sample(),
        "encoder_hidden_states_t5": make.per_sample(tokens, t5),
        "encoder_hidden_states_llama3": make.floats(layers, batch, tokens, llama),
        "pooled_embeds": make.shaped("text_emb_dim"),
        "img_ids": None,
    }


def _hunyuan_dit_rotary(make: InputMaker) -> Any:
    grid = make.grid
    return embeddings.get_2d_rotary_pos_embed(
        make.config["attention_head_dim"], ((0, 0), grid), grid, output_type="pt"
    )


def _joyimage_plus(make: InputMaker) -> Arguments:
    steps = make.config["patch_size"]
    grid = 1, make.sizes.height // steps[1], make.sizes.width // steps[2]
    patches = grid[1] * grid[2], make.config["in_channels"], *steps
    return {
        "hidden_states": make.per_sample(*patches),
        "encoder_hidden_states_mask": make.shaped(MASK),
        "shape_list": [[grid]] * make.sizes.batch,
    }


def _lumina_next_rotary(make: InputMaker) -> Any:
    head = make.config["hidden_size"] // make.config["num_attention_heads"]
    cells = max(make.sizes.height, make.sizes.width)
    return embeddings.get_2d_rotary_pos_embed_lumina(head, cells, cells)


def _omnigen(make: InputMaker) -> Arguments:
    text = make.sizes.text_tokens
    tokens = text + 1 + make.size("grid")  # the timestep is one of them
    return {
        "input_ids": make.indices(text),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": make.indices(tokens, tokens) + 1,
        "position_ids": make.indices(tokens),
    }


def _prior(make: InputMaker) -> Arguments:
    width = make.config["embedding_dim"]
    return {
        "hidden_states": make.per_sample(width),
        "timestep": torch.tensor(1),
        "proj_embedding": make.per_sample(
            make.config.get("embedding_proj_dim") or width
        ),
        "encoder_hidden_states": make.shaped("num_embeddings embedding_dim"),
    }


def _z_image(make: InputMaker) -> Arguments:
    sizes, config = make.sizes, make.config
    image = make.floats(config["in_channels"], 1, sizes.height, sizes.width)
    text = make.floats(sizes.text_tokens, config["cap_feat_dim"])
    return {
        "x": [image.clone() for _ in range(sizes.batch)],
        "t": make.per_sample(),
        "cap_feats": [text.clone() for _ in range(sizes.batch)],
    }


IMAGE_RULES: Mapping[str, ClassRules] = {
    "BriaFibo2Transformer2DModel": {
        "encoder_hidden_states": lambda make: make.per_sample(
            len(make.config["injection_layer_ids"]) + 1,
            make.sizes.text_tokens,
            make.config["cap_feat_dim"],
        )
    },
    "BriaFiboTransformer2DModel": {
        "text_encoder_layers": lambda make: (
            [make.text(make.config["text_encoder_dim"])]
            * (make.config["num_layers"] + make.config["num_single_layers"])
        )
    },
    "ErnieImageTransformer2DModel": {
        "text_bth": "text_tokens text_in_dim",
        "text_lens": lambda make: make.indices() + make.sizes.text_tokens,
    },
    "GlmImageTransformer2DModel": {
        "prior_token_id": "index: grid",
        "prior_token_drop": "mask: grid",
    },
    "HiDreamImageTransformer2DModel": _hidream,
    "HunyuanDiT2DModel": {
        "encoder_hidden_states": "text_tokens cross_attention_dim",
        "text_embedding_mask": MASK,
        "encoder_hidden_states_t5": "text_len_t5 cross_attention_dim_t5",
        "text_embedding_mask_t5": "mask: text_len_t5",
        "image_meta_size": "6",
        "style": "index:",
        "image_rotary_emb": _hunyuan_dit_rotary,
    },
    "HunyuanImageTransformer2DModel": {
        "encoder_hidden_states_2": where("text_embed_2_dim", "128 text_embed_2_dim"),
        "encoder_attention_mask_2": where("text_embed_2_dim", "mask: 128"),
    },
    "JoyImageEditPlusTransformer3DModel": _joyimage_plus,
    "Krea2Transformer2DModel": {
        "hidden_states": "patches in_channels",
        "encoder_hidden_states": "text_tokens num_text_layers text_hidden_dim",
        "position_ids": lambda make: torch.zeros(
            make.size("text_tokens") + make.size("patches"), 3
        ),
    },
    "LuminaNextDiT2DModel": {
        "encoder_mask": MASK,
        "image_rotary_emb": _lumina_next_rotary,
        "cross_attention_kwargs": lambda make: {},
    },
    "NucleusMoEImageTransformer2DModel": {
        "img_shapes": lambda make: [(1, *make.patches)] * make.sizes.batch
    },
    "OmniGenTransformer2DModel": _omnigen,
    "PriorTransformer": _prior,
    "QwenImage21Transformer2DModel": {
        "img_mask": lambda make: torch.cat(
            [~make.shaped(MASK), make.mask(make.size("patches") // 4)],
            dim=1,
        )
    },
    "ZImageTransformer2DModel": _z_image,
}
