"""A small model with its sampler, as a user's factory gives them to `tune`."""

from __future__ import annotations

import torch
from denoising import small_glyph
from torch import Tensor, nn

from rfc_compile import glyph

STEPS = 12
SPEC = "tuning_factory:make"
FIXED = {
    "estimator": "taylor",
    "order": 1,
    "granularity": "stack",
    "min_coverage": 0.0,
}
"""Options that leave only schedules to search."""


def sample(model: nn.Module, seed: int) -> Tensor:
    """Two images (2, 3, 32, 32) in [-1, 1]."""
    return glyph.sample(model, labels=torch.tensor([3, 8]), seed=2 * seed, steps=STEPS)


def make() -> tuple[nn.Module, object]:
    """The bundled model's first blocks, and how it is sampled."""
    return small_glyph(), sample
