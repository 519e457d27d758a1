"""Pipelines of diffusers, one case per pipeline."""

from __future__ import annotations

from pipelines import images, joint, videos
from pipelines.base import STEPS, Case

TWO = (STEPS, STEPS)
"""Guidance by two calls per step: the prompt, then the negative prompt."""

_CASES = [
    Case("DiTPipeline", images.dit, images.dit_call),
    Case("PixArtSigmaPipeline", images.pixart, images.pixart_call),
    Case("StableDiffusion3Pipeline", joint.sd3, joint.sd3_call),
    Case("FluxPipeline", joint.flux, joint.flux_call),
    Case("Flux2Pipeline", joint.flux2, joint.flux2_call),
    Case("QwenImagePipeline", joint.qwen, joint.qwen_call, TWO),
    Case("SanaPipeline", images.sana, images.sana_call),
    Case("Lumina2Pipeline", images.lumina2, images.lumina2_call, TWO),
    Case("ZImagePipeline", images.z_image, images.z_image_call),
    Case("ChromaPipeline", joint.chroma, joint.chroma_call, TWO),
    Case("WanPipeline", videos.wan, videos.wan_call, TWO),
    Case("HunyuanVideoPipeline", videos.hunyuan_video, videos.hunyuan_video_call),
    Case("CogVideoXPipeline", videos.cogvideox, videos.cogvideox_call),
    Case("LTXPipeline", videos.ltx, videos.ltx_call),
    Case("StableAudioPipeline", videos.stable_audio, videos.stable_audio_call),
]

ALL = {case.name: case for case in _CASES}
