"""Inputs for a model of diffusers, from its signature and its config.

General rules go by the name of an argument and the fields of the config;
`image_inputs` and the like hold what some classes need besides. Floating point inputs
are ones, indices are zeros: the graph depends on shapes only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rfc_compile.errors import OptionError
from rfc_compile.integrations.model_sizes import InputSizes, config_value, is_video

_TEXT_WIDTHS = (
    "caption_channels",
    "text_embed_dim",
    "joint_attention_dim",
    "text_dim",
    "text_hidden_dim",
    "in_text_dim",
    "dit_text_dim",
    "cap_feat_dim",
    "context_in_dim",
    "cross_attention_input_dim",
    "cond_token_dim",
    "encoder_hidden_size",
    "cross_attention_dim",
    "condition_dim",
    "embedding_dim",
    "hidden_size",
)
"""Config fields for the width of the text's embedding, the first that is set."""


Arguments = dict[str, Any]
"""Keyword arguments; None leaves an optional one out."""


@dataclass(frozen=True)
class InputMaker:
    """Makes inputs for one model.

    Attributes:
        config: of the model.
        accepted: names of its arguments; required ones are True.
        sizes: of the inputs.
        dtype: of floating point inputs.

    """

    config: Mapping[str, Any]
    accepted: Mapping[str, bool]
    sizes: InputSizes
    dtype: torch.dtype

    def floats(self, *shape: int) -> Tensor:
        """Ones of this shape."""
        return torch.ones(shape, dtype=self.dtype)

    def per_sample(self, *shape: int) -> Tensor:
        """Ones of shape (B, ...)."""
        return self.floats(self.sizes.batch, *shape)

    def mask(self, *shape: int) -> Tensor:
        """Booleans of shape (B, ...), all True."""
        return torch.ones((self.sizes.batch, *shape), dtype=torch.bool)

    def indices(self, *shape: int) -> Tensor:
        """Zeros of shape (B, ...)."""
        return torch.zeros((self.sizes.batch, *shape), dtype=torch.long)

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of a latent packed by 2 x 2."""
        return self.sizes.height // 2, self.sizes.width // 2

    @property
    def text_width(self) -> int:
        """Width of the text's embedding."""
        width = config_value(self.config, *_TEXT_WIDTHS)
        if not isinstance(width, int):
            raise OptionError("its config does not tell the width of its text")
        return width

    def latent(self, channels: int | None = None) -> Tensor:
        """The latent: tokens, an image (B, C, H, W) or a video (B, C, F, H, W)."""
        if channels is None:
            channels = config_value(self.config, "in_channels", "io_channels")
        if channels is None:
            raise OptionError("its config does not tell the latent's channels")
        sizes, grid = self.sizes, (self.sizes.height, self.sizes.width)
        if {"img_ids", "img_shapes"} & set(self.accepted):
            return self.per_sample(self.patches[0] * self.patches[1], channels)
        if "num_frames" in self.accepted:
            return self.per_sample(sizes.frames * grid[0] * grid[1], channels)
        if is_video(self.config):
            return self.per_sample(channels, sizes.frames, *grid)
        return self.per_sample(channels, *grid)

    def text(self, width: int | None = None) -> Tensor:
        """Embedded text, (B, T, width)."""
        return self.per_sample(self.sizes.text_tokens, width or self.text_width)


def _axes(make: InputMaker) -> int:
    return len(make.config["axes_dims_rope"])


def _where(field: str, *shape: int) -> Callable[[InputMaker], Any]:
    """Made if the config's field is set; its value is the last size."""

    def rule(make: InputMaker) -> Any:
        width = make.config.get(field)
        return make.per_sample(*shape, int(width)) if width else None

    return rule


IMAGE_TOKENS = 257
"""Tokens of an image encoder: 16 x 16 patches and one for the whole."""

RULES: Mapping[str, Callable[[InputMaker], Any]] = {
    "hidden_states": InputMaker.latent,
    "timestep": InputMaker.per_sample,
    "encoder_hidden_states": InputMaker.text,
    "pooled_projections": _where("pooled_projection_dim"),
    "guidance": lambda make: (
        make.per_sample() if make.config.get("guidance_embeds") else None
    ),
    "img_ids": lambda make: torch.zeros(make.patches[0] * make.patches[1], _axes(make)),
    "txt_ids": lambda make: torch.zeros(make.sizes.text_tokens, _axes(make)),
    "img_shapes": lambda make: [[(1, *make.patches)]] * make.sizes.batch,
    "class_labels": lambda make: (
        make.indices() if make.config.get("num_embeds_ada_norm") else None
    ),
    "added_cond_kwargs": lambda make: {
        "resolution": make.per_sample(2),
        "aspect_ratio": make.per_sample(1),
    },
    "original_size": lambda make: make.per_sample(2),
    "target_size": lambda make: make.per_sample(2),
    "crop_coords": lambda make: make.per_sample(2),
    "num_frames": lambda make: make.sizes.frames,
    "height": lambda make: make.sizes.height,
    "width": lambda make: make.sizes.width,
    "encoder_hidden_states_image": _where("image_dim", IMAGE_TOKENS),
    "timestep_r": lambda make: (
        make.per_sample()
        if make.accepted["timestep_r"] or make.config.get("use_meanflow")
        else None
    ),
}
"""What to pass for an argument, by its name; None for an optional one left out."""

RULES_IF_REQUIRED: Mapping[str, Callable[[InputMaker], Any]] = {
    "encoder_attention_mask": lambda make: make.mask(make.sizes.text_tokens),
    "encoder_hidden_states_mask": lambda make: make.mask(make.sizes.text_tokens),
}
"""The same for arguments that are left out wherever the model allows it."""


def make_inputs(
    model: nn.Module, sizes: Mapping[str, int], dtype: torch.dtype
) -> dict[str, Any]:
    """Keyword arguments for one call of the model.

    Args:
        model: of diffusers, with its ``config``.
        sizes: fields of ``InputSizes``; the config or a default tells the others.
        dtype: of floating point inputs.

    Raises:
        OptionError: an argument that no rule knows.

    """
    from rfc_compile.integrations.audio_inputs import AUDIO_RULES
    from rfc_compile.integrations.image_inputs import IMAGE_RULES
    from rfc_compile.integrations.video_inputs import VIDEO_RULES

    families = {**AUDIO_RULES, **IMAGE_RULES, **VIDEO_RULES}
    name = type(model).__name__
    config: dict[str, Any] = {**cast(Any, model).config, "_class_name": name}
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    accepted = {p.name: p.default is p.empty for p in parameters}
    make = InputMaker(config, accepted, InputSizes.resolve(config, sizes), dtype)
    try:
        special = families[name](make) if name in families else {}
        inputs = {}
        for argument, required in accepted.items():
            rule = RULES.get(argument) or (
                RULES_IF_REQUIRED.get(argument) if required else None
            )
            if argument in special:
                inputs[argument] = special[argument]
            elif rule is not None:
                inputs[argument] = rule(make)
            elif required:
                raise OptionError(f"no rule makes its input {argument!r}")
    except (OptionError, KeyError) as error:
        why = f"its config lacks {error}" if isinstance(error, KeyError) else error
        raise OptionError(
            f"{name}: {why}; give package.module:factory that returns (model, inputs)"
        ) from error
    return {argument: x for argument, x in inputs.items() if x is not None}
