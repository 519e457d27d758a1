"""Pipelines that draw videos and sounds."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderOobleck,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors

from pipelines.base import STEPS, noise
from pipelines.images import GUIDANCE, masks, sizes, texts, without_text


def wan_transformer(channels: int = 4) -> Any:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=channels,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        rope_max_seq_len=32,
    )


def wan_scheduler() -> Any:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


def wan(scheduler: Any = None, **settings: Any) -> Any:
    return without_text(
        WanPipeline,
        transformer=wan_transformer(),
        scheduler=scheduler or wan_scheduler(),
        vae=None,
        **settings,
    )


def wan_call() -> dict[str, Any]:
    frames = {"num_frames": 5, "guidance_scale": GUIDANCE}
    return {**sizes(64), **texts(8, 16), **frames}


def hunyuan_video() -> Any:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 8),
    )
    return without_text(
        HunyuanVideoPipeline,
        "text_encoder_2",
        "tokenizer_2",
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=None,
    )


def hunyuan_video_call() -> dict[str, Any]:
    return {
        **sizes(64),
        "num_frames": 5,
        "prompt_embeds": noise(1, 8, 16),
        "pooled_prompt_embeds": noise(1, 16),
        "prompt_attention_mask": masks(8)["negative_prompt_attention_mask"],
    }


def cogvideox() -> Any:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=16,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=8,
        use_rotary_positional_embeddings=True,
    )
    return without_text(
        CogVideoXPipeline,
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction"),
        vae=None,
    )


def cogvideox_call() -> dict[str, Any]:
    return {
        **sizes(64),
        **texts(8, 16),
        "num_frames": 5,
        "max_sequence_length": 8,
        "guidance_scale": GUIDANCE,
    }


def ltx_transformer() -> Any:
    return LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )


def ltx() -> Any:
    return without_text(
        LTXPipeline,
        transformer=ltx_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=None,
    )


def ltx_call() -> dict[str, Any]:
    return {
        **sizes(128),
        **texts(8, 16),
        **masks(8),
        "num_frames": 9,
        "guidance_scale": GUIDANCE,
    }


def ltx2() -> Any:
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
        rope_double_precision=False,
        rope_type="split",
    )
    connector = {
        f"{stream}_connector_{name}": value
        for stream in ("video", "audio")
        for name, value in (
            ("num_attention_heads", 2),
            ("attention_head_dim", 8),
            ("num_layers", 1),
            ("num_learnable_registers", None),
        )
    }
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=1,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
        **connector,
    )
    vae = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
        decoder_inject_noise=(False, False),
        decoder_layers_per_block=(1, 1),
    )
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        resolution=32,
        latent_channels=2,
        mid_block_add_attention=False,
        mel_bins=8,
    )
    return without_text(
        LTX2Pipeline,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        connectors=connectors,
        vae=vae,
        audio_vae=audio_vae,
        vocoder=None,
    )


def ltx2_call() -> dict[str, Any]:
    """Guidance by a batch of two and a perturbed call."""
    return {
        **sizes(32),
        "prompt_embeds": noise(1, 8, 16, 1),
        "negative_prompt_embeds": noise(1, 8, 16, 1),
        **masks(8),
        "num_frames": 5,
        "guidance_scale": GUIDANCE,
        "stg_scale": 0.5,
        "modality_scale": 1.0,
        "guidance_rescale": 0.0,
        "audio_guidance_scale": GUIDANCE,
        "spatio_temporal_guidance_blocks": [1],
    }


def stable_audio() -> Any:
    transformer = StableAudioDiTModel(
        sample_size=32,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_attention_heads=2,
        out_channels=4,
        cross_attention_dim=16,
        time_proj_dim=16,
        global_states_input_dim=32,
        cross_attention_input_dim=16,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[1, 2],
        decoder_channels=4,
        decoder_input_channels=4,
        audio_channels=2,
        channel_multiples=[1, 1],
        sampling_rate=4,
    )
    return without_text(
        StableAudioPipeline,
        vae=vae,
        projection_model=StableAudioProjectionModel(16, 16, 0, 32),
        transformer=transformer,
        scheduler=EDMDPMSolverMultistepScheduler(
            prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        ),
    )


def stable_audio_call() -> dict[str, Any]:
    embeds = texts(8, 16)
    mask = torch.ones(1, 8, dtype=torch.int64)
    return {
        **embeds,
        "attention_mask": mask,
        "negative_attention_mask": mask,
        "guidance_scale": GUIDANCE,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
