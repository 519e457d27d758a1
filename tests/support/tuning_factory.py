"""A small model with its sampler, as a user's factory gives them to `tune`."""

from __future__ import annotations

import torch
from denoising import small_glyph
from torch import Tensor, nn

from rfc_compile.tools.measure import glyph_dit

STEPS = 16
SPEC = "tuning_factory:make"
FIXED = {
    "estimator": "taylor",
    "order": 1,
    "granularity": "stack",
    "min_coverage": 0.0,
    "time": "step",
}
"""Options that leave only schedules to search."""


def sample(model: nn.Module, seed: int) -> Tensor:
    """One image (1, 3, 32, 32) in [-1, 1], without guidance."""
    label = torch.tensor([3])
    return glyph_dit.sample(model, labels=label, seed=seed, steps=STEPS, guidance=1.0)


def make() -> tuple[nn.Module, object]:
    """The bundled model's first blocks, and how it is sampled."""
    return small_glyph(), sample
