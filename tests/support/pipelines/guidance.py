"""Ways of calling the transformer: guidance, solvers of higher order, given images."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxInpaintPipeline,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LTXImageToVideoPipeline,
    StableDiffusion3Img2ImgPipeline,
    WanImageToVideoPipeline,
)

from pipelines import images, joint, videos
from pipelines.base import STEPS, Case, noise, tiny_vae
from pipelines.images import without_text

HALF = STEPS // 2
SOLVED = 8
"""Steps of a solver that calls the model twice per step, but for the last."""


def dropped(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> Any:
    """A callback that turns guidance off at half the steps, for two calls per step."""
    if step == HALF - 1:
        pipe._guidance_scale = 1.0
    return given


def halved(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> Any:
    """The same for a batch of two: diffusers' recipe for guidance in an interval."""
    if step == HALF - 1:
        pipe._guidance_scale = 0.0
        for name in ("prompt_embeds", "pooled_prompt_embeds"):
            given[name] = given[name][-1:]
    return given


def qwen_short_negative() -> dict[str, Any]:
    """A negative prompt of another length than the prompt."""
    return {**joint.qwen_call(), "negative_prompt_embeds": noise(1, 5, 32)}


def sd3_halved() -> dict[str, Any]:
    return {
        **joint.sd3_call(),
        "callback_on_step_end": halved,
        "callback_on_step_end_tensor_inputs": [
            "latents",
            "prompt_embeds",
            "pooled_prompt_embeds",
        ],
    }


def sd3_skip_layers() -> dict[str, Any]:
    return {
        **joint.sd3_call(),
        "skip_guidance_layers": [1],
        "skip_layer_guidance_scale": 0.5,
        "skip_layer_guidance_stop": 0.8,
    }


def solved(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "num_inference_steps": SOLVED}


def picture() -> dict[str, Any]:
    """An image to start from, and as many steps as leave ``STEPS`` of them to do."""
    return {"image": torch.rand(1, 3, 64, 64), "num_inference_steps": 20}


def sd3_from_image() -> Any:
    return without_text(
        StableDiffusion3Img2ImgPipeline,
        *joint.SD3_TEXT,
        transformer=joint.sd3_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(levels=4),
    )


def flux_inpaint() -> Any:
    return without_text(
        FluxInpaintPipeline,
        *joint.FLUX_TEXT,
        transformer=joint.flux_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_vae(levels=4),
    )


def inpaint() -> dict[str, Any]:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    return {**joint.flux_call(), **picture(), "mask_image": mask}


def wan_from_image() -> Any:
    """Wan 2.2 TI2V: one timestep per token, 0 for those of the first frame."""
    return without_text(
        WanImageToVideoPipeline,
        transformer=videos.wan_transformer(16),
        scheduler=videos.wan_scheduler(),
        vae=AutoencoderKLWan(
            base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1
        ),
        expand_timesteps=True,
    )


def ltx_from_image() -> Any:
    """LTX: one timestep per token, 0 for those of the first frame."""
    levels, stages = 4, 5
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(4,) * levels,
        decoder_block_out_channels=(4,) * levels,
        layers_per_block=(1,) * stages,
        decoder_layers_per_block=(1,) * stages,
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * stages,
        encoder_causal=True,
    )
    vae.use_framewise_encoding = False
    return without_text(
        LTXImageToVideoPipeline,
        transformer=videos.ltx_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
    )


def with_image(call: dict[str, Any]) -> dict[str, Any]:
    size = call["height"]
    return {**call, "image": torch.rand(1, 3, size, size)}


_CASES = [
    # two calls per step, of which the second is left out in the second half
    Case(
        "WanPipeline-dropped",
        videos.wan,
        lambda: {**videos.wan_call(), "callback_on_step_end": dropped},
        (STEPS, HALF),
    ),
    Case(
        "Lumina2Pipeline-truncated",
        images.lumina2,
        lambda: {**images.lumina2_call(), "cfg_trunc_ratio": 0.5},
        (STEPS, HALF),
    ),
    # a batch of two, then of one: calls of other shapes continue the run
    Case(
        "StableDiffusion3Pipeline-halved", joint.sd3, sd3_halved, (range(HALF, STEPS),)
    ),
    # calls of unequal shapes have trajectories of their own; this is the last's
    Case("QwenImagePipeline-short-negative", joint.qwen, qwen_short_negative),
    # a third call per step, through a graph of its own
    Case("StableDiffusion3Pipeline-skip-layers", joint.sd3, sd3_skip_layers),
    Case("LTX2Pipeline-perturbed", videos.ltx2, videos.ltx2_call),
    # solvers
    Case(
        "PixArtSigmaPipeline-heun",
        lambda: images.pixart(HeunDiscreteScheduler(prediction_type="v_prediction")),
        lambda: solved(images.pixart_call()),
        (2 * SOLVED - 1,),
    ),
    Case(
        "PixArtSigmaPipeline-kdpm2",
        lambda: images.pixart(KDPM2DiscreteScheduler(prediction_type="v_prediction")),
        lambda: solved(images.pixart_call()),
        (2 * SOLVED - 1,),
    ),
    Case(
        "WanPipeline-heun",
        lambda: videos.wan(scheduler=FlowMatchHeunDiscreteScheduler(shift=3.0)),
        lambda: solved(videos.wan_call()),
        (2 * SOLVED - 1, 2 * SOLVED - 1),
    ),
    # starts in the middle
    Case(
        "StableDiffusion3Img2ImgPipeline",
        sd3_from_image,
        lambda: {**joint.sd3_call(), **picture()},
    ),
    Case("FluxInpaintPipeline", flux_inpaint, inpaint),
    # timesteps per token
    Case(
        "WanPipeline-per-token",
        lambda: videos.wan(expand_timesteps=True),
        videos.wan_call,
        (STEPS, STEPS),
    ),
    Case(
        "WanImageToVideoPipeline-per-token",
        wan_from_image,
        lambda: with_image(videos.wan_call()),
        (STEPS, STEPS),
    ),
    Case(
        "LTXImageToVideoPipeline",
        ltx_from_image,
        lambda: with_image(videos.ltx_call()),
    ),
]

ALL = {case.name: case for case in _CASES}
