"""Inputs for a model of diffusers, from its signature and its config.

General rules go by the name of an argument and the fields of the config;
`image_inputs` and the like hold what some classes need besides. Floating point inputs
are ones, indices are zeros: the graph depends on shapes only.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from rfc_compile.errors import OptionError
from rfc_compile.tools.inspection.input_maker import (
    MASK,
    Arguments,
    ClassRules,
    InputMaker,
    Rule,
    where,
)
from rfc_compile.tools.inspection.input_sizes import InputSizes


def _axes(make: InputMaker) -> int:
    return len(make.config["axes_dims_rope"])


RULES: Mapping[str, Rule] = {
    "hidden_states": InputMaker.latent,
    "timestep": "",
    "encoder_hidden_states": InputMaker.text,
    "pooled_projections": where("pooled_projection_dim", "pooled_projection_dim"),
    "guidance": where("guidance_embeds", ""),
    "img_ids": lambda make: torch.zeros(make.size("patches"), _axes(make)),
    "txt_ids": lambda make: torch.zeros(make.sizes.text_tokens, _axes(make)),
    "img_shapes": lambda make: [[(1, *make.patches)]] * make.sizes.batch,
    "class_labels": where("num_embeds_ada_norm", "index:"),
    "added_cond_kwargs": lambda make: {
        "resolution": make.per_sample(2),
        "aspect_ratio": make.per_sample(1),
    },
    **dict.fromkeys(("original_size", "target_size", "crop_coords"), "2"),
    "num_frames": lambda make: make.sizes.frames,
    "height": lambda make: make.sizes.height,
    "width": lambda make: make.sizes.width,
    "encoder_hidden_states_image": where("image_dim", "image_tokens image_dim"),
    "timestep_r": lambda make: (
        make.per_sample()
        if make.accepted["timestep_r"] or make.config.get("use_meanflow")
        else None
    ),
}
"""What to pass for an argument, by its name."""

RULES_IF_REQUIRED: Mapping[str, Rule] = {
    "encoder_attention_mask": MASK,
    "encoder_hidden_states_mask": MASK,
}
"""The same for arguments that are left out wherever the model allows it."""


def make_inputs(
    model: nn.Module, sizes: Mapping[str, int], dtype: torch.dtype
) -> dict[str, Any]:
    """Keyword arguments for one call of a model of diffusers.

    ``sizes`` are fields of ``InputSizes``; the config or a default tells the others.
    """
    from rfc_compile.tools.inspection.audio_inputs import AUDIO_RULES
    from rfc_compile.tools.inspection.image_inputs import IMAGE_RULES
    from rfc_compile.tools.inspection.video_inputs import VIDEO_RULES

    families: dict[str, ClassRules] = {**AUDIO_RULES, **IMAGE_RULES, **VIDEO_RULES}
    name = type(model).__name__
    config: dict[str, Any] = {**cast(Any, model).config, "_class_name": name}
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    accepted = {p.name: p.default is p.empty for p in parameters}
    make = InputMaker(config, accepted, InputSizes.resolve(config, sizes), dtype)
    special = families.get(name, {})
    try:
        inputs = special(make) if callable(special) else _by_rules(special, make)
        for argument, required in accepted.items():
            rule = RULES.get(argument)
            if rule is None and required:
                rule = RULES_IF_REQUIRED.get(argument)
            if argument in inputs:
                continue
            if rule is not None:
                inputs |= _by_rules({argument: rule}, make)
            elif required:
                raise OptionError(f"no rule makes its input {argument!r}")
    except (OptionError, KeyError) as error:
        why = f"its config lacks {error}" if isinstance(error, KeyError) else error
        raise OptionError(
            f"{name}: {why}; give package.module:factory that returns (model, inputs)"
        ) from error
    given = {argument: inputs.get(argument) for argument in accepted}
    return {argument: x for argument, x in given.items() if x is not None}


def _by_rules(rules: Mapping[str, Rule], make: InputMaker) -> Arguments:
    return {
        argument: make.shaped(rule) if isinstance(rule, str) else rule(make)
        for argument, rule in rules.items()
    }
