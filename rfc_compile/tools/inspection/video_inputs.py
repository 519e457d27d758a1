"""Inputs of video models of diffusers that the general rules do not make."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from diffusers.models import embeddings

from rfc_compile.tools.inspection.input_maker import IMAGE_TOKENS, Arguments, InputMaker

_AUDIO_FRAMES = 126
"""Length of the audio latent beside a video of about 5 seconds."""


def _allegro(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    rows, columns = (n // config["patch_size"] for n in (sizes.height, sizes.width))
    frames = sizes.frames // config["patch_size_t"]
    *freqs, _, _, _ = embeddings.get_3d_rotary_pos_embed_allegro(
        embed_dim=config["attention_head_dim"],
        crops_coords=((0, 0), (rows, columns)),
        grid_size=(rows, columns),
        temporal_size=frames,
    )
    axes = [torch.arange(n) for n in (frames, rows, columns)]
    grid = torch.cartesian_prod(*axes).T.reshape(3, 1, -1)
    return {
        "image_rotary_emb": (tuple(freqs), tuple(grid)),
        "encoder_attention_mask": make.mask(sizes.text_tokens),
    }


def _anyflow(make: InputMaker) -> Arguments:
    frames, channels = make.sizes.frames, make.config["in_channels"]
    grid = make.sizes.height, make.sizes.width
    return {
        "hidden_states": make.per_sample(frames, channels, *grid),
        "timestep": make.per_sample(frames),
        "r_timestep": make.per_sample(frames),
    }


def _cogvideox(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    step = config.get("patch_size_t") or 1
    frames = -(-sizes.frames // step) * step
    shape = (frames, config["in_channels"], sizes.height, sizes.width)
    inputs: Arguments = {"hidden_states": make.per_sample(*shape)}
    if config["use_rotary_positional_embeddings"]:
        grid = sizes.height // config["patch_size"], sizes.width // config["patch_size"]
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
    config = make.config
    if not config["is_train_face"]:
        return _cogvideox(make)
    scales = config["LFE_num_scale"]
    image = make.per_sample(IMAGE_TOKENS, config["LFE_vit_dim"])
    return {
        **_cogvideox(make),
        "id_cond": make.per_sample(config["LFE_id_dim"]),
        "id_vit_hidden": [image] * scales,
    }


def _cosmos(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    projected = config.get("use_crossattn_projection")
    text = make.text(
        config["crossattn_proj_in_channels" if projected else "text_embed_dim"]
    )
    inputs: Arguments = {"fps": 16, "encoder_hidden_states": text}
    channels, out = config["in_channels"], config["out_channels"]
    grid = sizes.frames, sizes.height, sizes.width
    if channels == out + 1:  # whether a frame is given is one more channel
        inputs["hidden_states"] = make.latent(out)
        inputs["timestep"] = make.per_sample(1, sizes.frames, 1, 1)
        inputs["condition_mask"] = make.per_sample(1, *grid)
    if config.get("concat_padding_mask"):
        inputs["padding_mask"] = make.floats(1, 1, *grid[1:])
    if config.get("img_context_dim_in"):
        image = make.per_sample(
            config["img_context_num_tokens"], config["img_context_dim_in"]
        )
        inputs["encoder_hidden_states"] = (text, image)
    return inputs


def _easyanimate(make: InputMaker) -> Arguments:
    width = make.config.get("text_embed_dim_t5")
    return {"encoder_hidden_states_t5": make.text(width)} if width else {}


def _framepack(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes

    def clean(frames: int) -> torch.Tensor:
        return make.per_sample(config["in_channels"], frames, sizes.height, sizes.width)

    text = make.mask(sizes.text_tokens)
    text[:, sizes.text_tokens // 2 :] = False  # the model cuts off what is padded
    return {
        "encoder_attention_mask": text,
        "image_embeds": make.per_sample(IMAGE_TOKENS, config["image_proj_dim"]),
        "indices_latents": torch.arange(20, 20 + sizes.frames),
        "latents_clean": clean(2),
        "indices_latents_clean": torch.tensor([0, 19]),
        "latents_history_2x": clean(2),
        "indices_latents_history_2x": torch.arange(17, 19),
        "latents_history_4x": clean(16),
        "indices_latents_history_4x": torch.arange(1, 17),
    }


def _hunyuan_video_15(make: InputMaker) -> Arguments:
    config, glyphs = make.config, 256
    return {
        "encoder_hidden_states_2": make.per_sample(glyphs, config["text_embed_2_dim"]),
        "encoder_attention_mask_2": make.mask(glyphs),
        "image_embeds": make.per_sample(IMAGE_TOKENS, config["image_embed_dim"]),
    }


def _kandinsky_5(make: InputMaker) -> Arguments:
    config, sizes = make.config, make.sizes
    steps = config.get("patch_size") or (1, 2, 2)
    grid = sizes.frames, sizes.height, sizes.width
    # the latent of a video with a visual condition brings it as further channels
    extra = config["in_visual_dim"] + 1 if config.get("visual_cond") else 0
    return {
        "hidden_states": make.per_sample(*grid, config["in_visual_dim"] + extra),
        "pooled_projections": make.per_sample(config["in_text_dim2"]),
        "visual_rope_pos": tuple(
            torch.arange(n // step) for n, step in zip(grid, steps, strict=True)
        ),
        "text_rope_pos": torch.arange(sizes.text_tokens),
        "return_dict": False,
    }


def _kandinsky_6(make: InputMaker) -> Arguments:
    config, tokens = make.config, make.sizes.text_tokens
    return {
        "hidden_states": _with_condition(make),
        "pooled_projections": make.per_sample(config["in_text_dim2"]),
        "encoder_attention_mask": make.mask(1, 1, tokens),
        "audio_hidden_states": make.per_sample(_AUDIO_FRAMES, config["in_audio_dim"]),
    }


def _kandinsky_6_upscaler(make: InputMaker) -> Arguments:
    return {"hidden_states": _with_condition(make)}


def _ltx_2(make: InputMaker) -> Arguments:
    config, frames = make.config, _AUDIO_FRAMES
    projected = config.get("use_prompt_embeddings", True)
    own = "caption_channels" if projected else "cross_attention_dim"
    other = "caption_channels" if projected else "audio_cross_attention_dim"
    mask = make.mask(make.sizes.text_tokens)
    inputs: Arguments = {
        "audio_hidden_states": make.per_sample(frames, config["audio_in_channels"]),
        "encoder_hidden_states": make.text(config[own]),
        "audio_encoder_hidden_states": make.text(config[other]),
        "encoder_attention_mask": mask,
        "audio_encoder_attention_mask": mask,
        "audio_num_frames": frames,
    }
    if config.get("cross_attn_mod"):
        inputs |= {"sigma": make.per_sample(), "use_cross_timestep": True}
    return inputs


def _vace(make: InputMaker) -> Arguments:
    return {"control_hidden_states": make.latent(make.config["vace_in_channels"])}


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


VIDEO_RULES: Mapping[str, Callable[[InputMaker], Arguments]] = {
    "AllegroTransformer3DModel": _allegro,
    "AnyFlowTransformer3DModel": _anyflow,
    "CogVideoXTransformer3DModel": _cogvideox,
    "ConsisIDTransformer3DModel": _consisid,
    "CosmosTransformer3DModel": _cosmos,
    "EasyAnimateTransformer3DModel": _easyanimate,
    "HunyuanVideo15Transformer3DModel": _hunyuan_video_15,
    "HunyuanVideoFramepackTransformer3DModel": _framepack,
    "Kandinsky5Transformer3DModel": _kandinsky_5,
    "Kandinsky6SRTransformer3DModel": _kandinsky_6_upscaler,
    "Kandinsky6Transformer3DModel": _kandinsky_6,
    "LTX2VideoTransformer3DModel": _ltx_2,
    "WanAnimateTransformer3DModel": _wan_animate,
    "WanVACETransformer3DModel": _vace,
}
