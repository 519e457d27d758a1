"""Inputs for a model of diffusers, from its signature and its config.

General rules go by the name of an argument and the fields of the config;
`image_inputs` and the like hold what some classes need besides. Floating point inputs
are ones, indices are zeros: the graph depends on shapes only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from rfc_compile.errors import OptionError
from rfc_compile.tools.inspection.input_maker import (
    IMAGE_TOKENS,
    InputMaker,
)
from rfc_compile.tools.inspection.input_sizes import InputSizes


def _axes(make: InputMaker) -> int:
    return len(make.config["axes_dims_rope"])


def _where(field: str, *shape: int) -> Callable[[InputMaker], Any]:
    """Made if the config's field is set; its value is the last size."""

    def rule(make: InputMaker) -> Any:
        width = make.config.get(field)
        return make.per_sample(*shape, int(width)) if width else None

    return rule


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
    from rfc_compile.tools.inspection.audio_inputs import AUDIO_RULES
    from rfc_compile.tools.inspection.image_inputs import IMAGE_RULES
    from rfc_compile.tools.inspection.video_inputs import VIDEO_RULES

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
