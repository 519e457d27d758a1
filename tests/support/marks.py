"""Which cases run when: by `make quick`, by `make test`, or by `make nightly` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def cases(names: Iterable[str], often: Collection[str], mark: Any) -> list[Any]:
    """Parameters of a test; those that are not run ``often`` get the mark."""
    return [name if name in often else pytest.param(name, marks=mark) for name in names]


FEW = ("Block", "CrossBlock", "Joint", "LongSkip", "Mixed", "Packed")
"""Models of the zoo that `make quick` takes."""

ARCHITECTURES = {
    "DiTTransformer2DModel": "class labels in the norms",
    "PixArtTransformer2DModel-alpha": "one modulation for all blocks, cross-attention",
    "SanaTransformer2DModel": "linear attention, convolutions in the MLP",
    "SD3Transformer2DModel": "two streams, the last block drops one",
    "FluxTransformer2DModel": "two streams, then one; attention beside the MLP",
    "QwenImageTransformer2DModel": "two streams to the end",
    "Lumina2Transformer2DModel": "refiners of text and image before the stack",
    "ZImageTransformer2DModel": "lists of images and texts",
    "HunyuanDiT2DModel": "long skips from the first half to the second",
    "CogVideoXTransformer3DModel": "video, two streams in one sequence",
    "LTXVideoTransformer3DModel": "a table of modulations, cross-attention",
    "WanTransformer3DModel": "video, cross-attention without a gate",
    "StableAudioDiTModel": "audio, the timestep as a token",
}
"""Denoisers that run end to end at every push, and what is special about each."""

PIPELINES = {
    "DiTPipeline": "guidance in a batch of two",
    "FluxPipeline": "guidance as a number that the model takes",
    "QwenImagePipeline": "two calls a step",
    "ZImagePipeline": "lists of latents",
    "LTXPipeline": "video",
    "StableAudioPipeline": "audio, a solver with noise",
    "Lumina2Pipeline-truncated": "two calls a step, then one",
    "StableDiffusion3Pipeline-halved": "a batch of two, then of one",
    "StableDiffusion3Pipeline-skip-layers": "a third call, by a graph of its own",
    "PixArtSigmaPipeline-heun": "a solver that calls the model twice a step",
    "StableDiffusion3Img2ImgPipeline": "a run that starts in the middle",
    "WanPipeline-per-token": "a timestep for every token",
}
"""Pipelines that run at every push, and how each calls its denoiser."""
