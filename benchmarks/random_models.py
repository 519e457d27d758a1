"""Models with random weights that several benchmarks time, and inputs for them."""

from collections.abc import Iterator
from typing import Any, Final

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from rfc_compile.tools.inspection.model_inputs import make_inputs

CHANGE: Final = 0.02
"""Of the latent from call to call, relative to its size."""
CALLS: Final = 1000
"""Of a run, which has to be named: no sampler moves its latent."""
_SMALL: Final = {"height": 8, "width": 8, "text_tokens": 8}


def tiny_flux(layers: int, single_layers: int) -> nn.Module:
    """A FLUX of a tiny width."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=layers,
        num_single_layers=single_layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return model.eval().requires_grad_(False)


def inputs_of(model: Any, batch: int) -> dict[str, Tensor]:
    """Arguments of one call; small ones, if the config does not tell their size."""
    sizes = {} if "sample_size" in model.config else _SMALL
    made = make_inputs(model, {"batch": batch, **sizes}, torch.float32)
    return {name: value.to(model.device) for name, value in made.items()}


def moving_inputs(
    model: Any, batch: int, first: float = 1000.0
) -> Iterator[dict[str, Tensor]]:
    """Of the calls of one run from a timestep on: the latent moves on a line."""
    fixed = inputs_of(model, batch)
    generator, shape = torch.Generator().manual_seed(0), fixed["hidden_states"].shape
    start, direction = (
        torch.randn(shape, generator=generator).to(model.device) for _ in range(2)
    )
    for k in range(CALLS):
        timestep = torch.full((batch,), first * (1 - k / CALLS), device=model.device)
        latent = start + k * CHANGE * direction
        yield {**fixed, "hidden_states": latent, "timestep": timestep}
