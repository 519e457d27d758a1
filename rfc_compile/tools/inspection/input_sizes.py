"""How large the inputs of a model of diffusers are, where the user does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_IMAGE = {"height": 128, "width": 128}
"""An image of 1024 x 1024 pixels, an eighth of it in the latent."""

_VIDEO = {"height": 60, "width": 104, "frames": 21}
"""A video of 81 frames of 480 x 832 pixels, a quarter and an eighth of it."""

_OF_CLASS = {
    "LTXVideoTransformer3DModel": {"height": 16, "width": 22, "frames": 16},
    "LTX2VideoTransformer3DModel": {"height": 16, "width": 24, "frames": 16},
    "SanaVideoTransformer3DModel": {"height": 30, "width": 52},
    "Kandinsky6SRTransformer3DModel": {"height": 64, "width": 112},
}
"""Latents that are a 32nd (Sana: a 16th) of the video, or in whole windows."""

_TEXT_TOKENS = 512
_AUDIO_FRAMES = 256


@dataclass(frozen=True)
class InputSizes:
    """Sizes of the inputs of one call.

    Attributes:
        batch: samples.
        height, width: of the latent, in its own cells.
        frames: of the latent; of an audio model's, its length.
        text_tokens: of the prompt.
    """

    batch: int
    height: int
    width: int
    frames: int
    text_tokens: int

    @classmethod
    def resolve(cls, config: Mapping[str, Any], given: Mapping[str, int]) -> InputSizes:
        """What is given; else what the config tells; else a usual size."""
        usual = {**_usual(config), **_given(config)}
        limits = _limits(config)
        usual = {key: min(x, limits.get(key, x)) for key, x in usual.items()}
        return cls(**{**usual, **given})


def config_value(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is set; None if none is."""
    return next((config[n] for n in names if config.get(n) is not None), None)


def is_video(config: Mapping[str, Any]) -> bool:
    """Whether the latent has frames."""
    patch = config.get("patch_size")
    return "3D" in str(config.get("_class_name")) or (
        isinstance(patch, list | tuple) and len(patch) == 3
    )


def _usual(config: Mapping[str, Any]) -> dict[str, int]:
    sizes = {"batch": 1, "frames": _AUDIO_FRAMES, "text_tokens": _TEXT_TOKENS}
    sizes |= _VIDEO if is_video(config) else _IMAGE
    return sizes | _OF_CLASS.get(config["_class_name"], {})


def _given(config: Mapping[str, Any]) -> dict[str, int]:
    given = {
        "height": config_value(config, "sample_height", "sample_size"),
        "width": config_value(config, "sample_width", "sample_size"),
        "frames": _frames(config),
        "text_tokens": config_value(
            config, "max_text_seq_length", "max_sequence_length", "text_len"
        ),
    }
    return {key: x for key, x in given.items() if isinstance(x, int)}


def _frames(config: Mapping[str, Any]) -> Any:
    frames = config_value(config, "sample_frames", "video_length")
    ratio = config.get("temporal_compression_ratio")
    if frames is None or ratio is None:
        return frames
    return (frames - 1) // ratio + 1


def _limits(config: Mapping[str, Any]) -> dict[str, int]:
    """The largest sizes that the model's tables of positions allow."""
    patch = config.get("patch_size") or 2
    patch = patch[-1] if isinstance(patch, list | tuple) else patch
    longest = config_value(config, "rope_max_seq_len", "pos_embed_max_size")
    limits = {}
    if longest is not None:
        limits = {"height": longest * patch, "width": longest * patch}
    if config.get("axes_lens"):
        text, height, width = config["axes_lens"]
        # the image's positions in time come after the text's
        limits["text_tokens"] = text * 3 // 4
        limits.update(height=height * patch, width=width * patch)
    if config.get("max_size"):
        limits = dict(
            zip(("frames", "height", "width"), config["max_size"], strict=True)
        )
    return limits
