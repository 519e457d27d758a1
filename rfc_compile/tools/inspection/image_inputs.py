"""Inputs of image models of diffusers that the general rules do not make."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from diffusers.models import embeddings

from rfc_compile.tools.inspection.input_maker import Arguments, InputMaker


def _bria_fibo(make: InputMaker) -> Arguments:
    config = make.config
    blocks = config["num_layers"] + config["num_single_layers"]
    return {"text_encoder_layers": [make.text(config["text_encoder_dim"])] * blocks}


def _bria_fibo_2(make: InputMaker) -> Arguments:
    injected = len(make.config["injection_layer_ids"])
    shape = injected + 1, make.sizes.text_tokens, make.config["cap_feat_dim"]
    return {"encoder_hidden_states": make.per_sample(*shape)}


def _ernie_image(make: InputMaker) -> Arguments:
    tokens = make.sizes.text_tokens
    return {
        "text_bth": make.per_sample(tokens, make.config["text_in_dim"]),
        "text_lens": torch.full((make.sizes.batch,), tokens),
    }


def _glm_image(make: InputMaker) -> Arguments:
    patch = make.config["patch_size"]
    tokens = (make.sizes.height // patch) * (make.sizes.width // patch)
    return {
        "prior_token_id": make.indices(tokens),
        "prior_token_drop": make.mask(tokens),
    }


def _hidream(make: InputMaker) -> Arguments:
    config, tokens = make.config, min(make.sizes.text_tokens, 128)
    t5, llama = config["caption_channels"]
    layers = max(config["llama_layers"]) + 1
    image = config["in_channels"], make.sizes.height, make.sizes.width
    return {
        "hidden_states": make.per_sample(*image),
        "timesteps": make.per_sample(),
        "encoder_hidden_states_t5": make.per_sample(tokens, t5),
        "encoder_hidden_states_llama3": make.floats(
            layers, make.sizes.batch, tokens, llama
        ),
        "pooled_embeds": make.per_sample(config["text_emb_dim"]),
        "img_ids": None,
    }


def _hunyuan_dit(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    grid = sizes.height // config["patch_size"], sizes.width // config["patch_size"]
    rotary = embeddings.get_2d_rotary_pos_embed(
        config["attention_head_dim"], ((0, 0), grid), grid, output_type="pt"
    )
    t5 = config["text_len_t5"]
    return {
        "encoder_hidden_states": make.text(config["cross_attention_dim"]),
        "text_embedding_mask": make.mask(sizes.text_tokens),
        "encoder_hidden_states_t5": make.per_sample(
            t5, config["cross_attention_dim_t5"]
        ),
        "text_embedding_mask_t5": make.mask(t5),
        "image_meta_size": make.per_sample(6),
        "style": make.indices(),
        "image_rotary_emb": rotary,
    }


def _hunyuan_image(make: InputMaker) -> Arguments:
    width = make.config.get("text_embed_2_dim")
    if not width:
        return {}
    return {
        "encoder_hidden_states_2": make.per_sample(128, width),
        "encoder_attention_mask_2": make.mask(128),
    }


def _joyimage_plus(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    steps = config["patch_size"]
    grid = 1, sizes.height // steps[1], sizes.width // steps[2]
    patches = grid[1] * grid[2], config["in_channels"], *steps
    return {
        "hidden_states": make.per_sample(*patches),
        "encoder_hidden_states_mask": make.mask(sizes.text_tokens),
        "shape_list": [[grid]] * sizes.batch,
    }


def _krea_2(make: InputMaker) -> Arguments:
    config, tokens = make.config, make.sizes.text_tokens
    rows, columns = make.patches
    return {
        "hidden_states": make.per_sample(rows * columns, config["in_channels"]),
        "encoder_hidden_states": make.per_sample(
            tokens, config["num_text_layers"], config["text_hidden_dim"]
        ),
        "position_ids": torch.zeros(tokens + rows * columns, 3),
    }


def _lumina_next(make: InputMaker) -> Arguments:
    head = make.config["hidden_size"] // make.config["num_attention_heads"]
    cells = max(make.sizes.height, make.sizes.width)
    rotary = embeddings.get_2d_rotary_pos_embed_lumina(head, cells, cells)
    return {
        "encoder_mask": make.mask(make.sizes.text_tokens),
        "image_rotary_emb": rotary,
        "cross_attention_kwargs": {},
    }


def _nucleus(make: InputMaker) -> Arguments:
    return {"img_shapes": [(1, *make.patches)] * make.sizes.batch}


def _omnigen(make: InputMaker) -> Arguments:
    patch, text = make.config["patch_size"], make.sizes.text_tokens
    image = (make.sizes.height // patch) * (make.sizes.width // patch)
    tokens = text + 1 + image  # the timestep is one of them
    return {
        "input_ids": make.indices(text),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": make.indices(tokens, tokens) + 1,
        "position_ids": make.indices(tokens),
    }


def _prior(make: InputMaker) -> Arguments:
    config = make.config
    width = config["embedding_dim"]
    return {
        "hidden_states": make.per_sample(width),
        "timestep": torch.tensor(1),
        "proj_embedding": make.per_sample(config.get("embedding_proj_dim") or width),
        "encoder_hidden_states": make.per_sample(config["num_embeddings"], width),
    }


def _qwen_image_21(make: InputMaker) -> Arguments:
    rows, columns = make.patches
    text = make.mask(make.sizes.text_tokens).logical_not()
    slots = make.mask(rows * columns // 4)
    return {"img_mask": torch.cat([text, slots], dim=1)}


def _z_image(make: InputMaker) -> Arguments:
    sizes, config = make.sizes, make.config
    image = make.floats(config["in_channels"], 1, sizes.height, sizes.width)
    text = make.floats(sizes.text_tokens, config["cap_feat_dim"])
    return {
        "x": [image.clone() for _ in range(sizes.batch)],
        "t": make.per_sample(),
        "cap_feats": [text.clone() for _ in range(sizes.batch)],
    }


IMAGE_RULES: Mapping[str, Callable[[InputMaker], Arguments]] = {
    "BriaFibo2Transformer2DModel": _bria_fibo_2,
    "BriaFiboTransformer2DModel": _bria_fibo,
    "ErnieImageTransformer2DModel": _ernie_image,
    "GlmImageTransformer2DModel": _glm_image,
    "HiDreamImageTransformer2DModel": _hidream,
    "HunyuanDiT2DModel": _hunyuan_dit,
    "HunyuanImageTransformer2DModel": _hunyuan_image,
    "JoyImageEditPlusTransformer3DModel": _joyimage_plus,
    "Krea2Transformer2DModel": _krea_2,
    "LuminaNextDiT2DModel": _lumina_next,
    "NucleusMoEImageTransformer2DModel": _nucleus,
    "OmniGenTransformer2DModel": _omnigen,
    "PriorTransformer": _prior,
    "QwenImage21Transformer2DModel": _qwen_image_21,
    "ZImageTransformer2DModel": _z_image,
}
