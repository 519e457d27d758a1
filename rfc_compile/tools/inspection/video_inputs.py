"""Inputs of video models of diffusers that the general rules do not make."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers.models import embeddings

from rfc_compile.tools.inspection.input_maker import (
    MASK,
    Arguments,
    ClassRules,
    InputMaker,
    where,
)

_AUDIO_FRAMES = 126
"""Length of the audio latent beside a video of about 5 seconds."""


def _allegro(make: InputMaker) -> Arguments:
    rows, columns = make.grid
    frames = make.sizes.frames // make.config["patch_size_t"]
    *freqs, _, _, _ = embeddings.get_3d_rotary_pos_embed_allegro(
        embed_dim=make.config["attention_head_dim"],
        crops_coords=((0, 0), (rows, columns)),
        grid_size=(rows, columns),
        temporal_size=frames,
    )
    axes = [torch.arange(n) for n in (frames, rows, columns)]
    grid = torch.cartesian_prod(*axes).T.reshape(3, 1, -1)
    return {
        "image_rotary_emb": (tuple(freqs), tuple(grid)),
        "encoder_attention_mask": make.shaped(MASK),
    }


def _cogvideox(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    step = config.get("patch_size_t") or 1
    frames = -(-sizes.frames // step) * step
    shape = (frames, config["in_channels"], sizes.height, sizes.width)
    inputs: Arguments = {"hidden_states": make.per_sample(*shape)}
    if config["use_rotary_positional_embeddings"]:
        grid = make.grid
        inputs["image_rotary_emb"] = embeddings.get_3d_rotary_pos_embed(
            embed_dim=config["attention_head_dim"],
            crops_coords=((0, 0), grid),
            grid_size=grid,
            temporal_size=frames // step,
        )
    if config.get("ofs_embed_dim"):
        inputs["ofs"] = make.floats(1)
    return inputs


def _consisid(make: InputMaker) -> Arguments:
    if not make.config["is_train_face"]:
        return _cogvideox(make)
    image = make.shaped("image_tokens LFE_vit_dim")
    return {
        **_cogvideox(make),
        "id_cond": make.shaped("LFE_id_dim"),
        "id_vit_hidden": [image] * make.config["LFE_num_scale"],
    }


def _cosmos(make: InputMaker) -> Arguments:
    config = make.config
    projected = config.get("use_crossattn_projection")
    width = config["crossattn_proj_in_channels" if projected else "text_embed_dim"]
    inputs: Arguments = {"fps": 16, "encoder_hidden_states": make.text(width)}
    if config["in_channels"] == config["out_channels"] + 1:
        # whether a frame is given is one more channel
        inputs["hidden_states"] = make.latent(config["out_channels"])
        inputs["timestep"] = make.shaped("1 frames 1 1")
        inputs["condition_mask"] = make.shaped("1 frames height width")
    if config.get("concat_padding_mask"):
        inputs["padding_mask"] = make.floats(1, 1, make.sizes.height, make.sizes.width)
    if config.get("img_context_dim_in"):
        image = make.shaped("img_context_num_tokens img_context_dim_in")
        inputs["encoder_hidden_states"] = (inputs["encoder_hidden_states"], image)
    return inputs


def _framepack(make: InputMaker) -> Arguments:
    tokens = make.sizes.text_tokens
    text = make.mask(tokens)
    text[:, tokens // 2 :] = False  # the model cuts off what is padded
    return {
        "encoder_attention_mask": text,
        "image_embeds": make.shaped("image_tokens image_proj_dim"),
        "indices_latents": torch.arange(20, 20 + make.sizes.frames),
        "latents_clean": make.shaped("in_channels 2 height width"),
        "indices_latents_clean": torch.tensor([0, 19]),
        "latents_history_2x": make.shaped("in_channels 2 height width"),
        "indices_latents_history_2x": torch.arange(17, 19),
        "latents_history_4x": make.shaped("in_channels 16 height width"),
        "indices_latents_history_4x": torch.arange(1, 17),
    }


def _kandinsky_5(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    steps = config.get("patch_size") or (1, 2, 2)
    grid = sizes.frames, sizes.height, sizes.width
    # the latent of a video with a visual condition brings it as further channels
    extra = config["in_visual_dim"] + 1 if config.get("visual_cond") else 0
    return {
        "hidden_states": make.per_sample(*grid, config["in_visual_dim"] + extra),
        "pooled_projections": make.shaped("in_text_dim2"),
        "visual_rope_pos": tuple(
            torch.arange(n // step) for n, step in zip(grid, steps, strict=True)
        ),
        "text_rope_pos": torch.arange(sizes.text_tokens),
        "return_dict": False,
    }


def _ltx_2(make: InputMaker) -> Arguments:
    config = make.config
    projected = config.get("use_prompt_embeddings", True)
    own, other = (
        config["caption_channels" if projected else name]
        for name in ("cross_attention_dim", "audio_cross_attention_dim")
    )
    mask = make.shaped(MASK)
    inputs: Arguments = {
        "audio_hidden_states": make.per_sample(
            _AUDIO_FRAMES, config["audio_in_channels"]
        ),
        "encoder_hidden_states": make.text(own),
        "audio_encoder_hidden_states": make.text(other),
        "encoder_attention_mask": mask,
        "audio_encoder_attention_mask": mask,
        "audio_num_frames": _AUDIO_FRAMES,
    }
    if config.get("cross_attn_mod"):
        inputs |= {"sigma": make.per_sample(), "use_cross_timestep": True}
    return inputs


def _with_condition(make: InputMaker) -> torch.Tensor:
    """A video of 2 C + 1 channels: noise, condition, and whether it is given."""
    sizes, channels = make.sizes, 2 * make.config["in_visual_dim"] + 1
    return make.per_sample(sizes.frames, sizes.height, sizes.width, channels)


def _wan_animate(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    grid, size = (sizes.height, sizes.width), config["motion_encoder_size"]
    driven = max(1, sizes.frames - 1)  # the first frame is the reference
    return {
        "hidden_states": make.per_sample(config["in_channels"], driven + 1, *grid),
        "pose_hidden_states": make.per_sample(config["latent_channels"], driven, *grid),
        "face_pixel_values": make.per_sample(3, 4 * driven, size, size),
    }


VIDEO_RULES: Mapping[str, ClassRules] = {
    "AllegroTransformer3DModel": _allegro,
    "AnyFlowTransformer3DModel": {
        "hidden_states": "frames in_channels height width",
        "timestep": "frames",
        "r_timestep": "frames",
    },
    "CogVideoXTransformer3DModel": _cogvideox,
    "ConsisIDTransformer3DModel": _consisid,
    "CosmosTransformer3DModel": _cosmos,
    "EasyAnimateTransformer3DModel": {
        "encoder_hidden_states_t5": where(
            "text_embed_dim_t5", "text_tokens text_embed_dim_t5"
        )
    },
    "HunyuanVideo15Transformer3DModel": {
        "encoder_hidden_states_2": "256 text_embed_2_dim",
        "encoder_attention_mask_2": "mask: 256",
        "image_embeds": "image_tokens image_embed_dim",
    },
    "HunyuanVideoFramepackTransformer3DModel": _framepack,
    "Kandinsky5Transformer3DModel": _kandinsky_5,
    "Kandinsky6SRTransformer3DModel": {"hidden_states": _with_condition},
    "Kandinsky6Transformer3DModel": {
        "hidden_states": _with_condition,
        "pooled_projections": "in_text_dim2",
        "encoder_attention_mask": "mask: 1 1 text_tokens",
        "audio_hidden_states": f"{_AUDIO_FRAMES} in_audio_dim",
    },
    "LTX2VideoTransformer3DModel": _ltx_2,
    "WanAnimateTransformer3DModel": _wan_animate,
    "WanVACETransformer3DModel": {
        "control_hidden_states": lambda make: make.latent(
            make.config["vace_in_channels"]
        )
    },
}
