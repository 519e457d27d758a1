"""Factories for `rfc-compile check`: a quick target, and those that must fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from denoising import small_glyph
from torch import Tensor, nn

from rfc_compile.tools.measure import glyph_dit

STEPS = 14
Sample = Callable[[nn.Module, int], Tensor]


def draw(model: nn.Module, seed: int) -> Tensor:
    """One image, by most of the samplers' settings left alone."""
    return glyph_dit.sample(
        model, labels=torch.tensor([seed % 10]), seed=seed, steps=STEPS, guidance=1.0
    )


def small() -> tuple[nn.Module, Sample]:
    """The bundled model's first two blocks."""
    return small_glyph(), draw


class Noisy(nn.Module):
    """A model that the backend refuses: its forward draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = small_glyph()

    def forward(self, x: Tensor, **inputs: Tensor) -> object:
        torch.manual_seed(0)
        return self.inside(x + 0 * torch.randn_like(x), **inputs)


def refused() -> tuple[nn.Module, Sample]:
    """A model that runs uncached."""
    return Noisy(), draw


def never_calls() -> tuple[nn.Module, Sample]:
    """A sampler that draws without the model."""
    return small_glyph(), lambda model, seed: torch.full((1, 3, 32, 32), 0.5)


def not_repeatable() -> tuple[nn.Module, Sample]:
    """A sampler that does not take its noise from the seed."""
    draws = itertools.count()
    return small_glyph(), lambda model, seed: draw(model, next(draws))


def not_finite() -> tuple[nn.Module, Sample]:
    """A model that gives NaN."""
    return small_glyph(), lambda model, seed: draw(model, seed) * torch.nan


def finite_uncached() -> tuple[nn.Module, Sample]:
    """Images that are NaN in one pixel if the model is compiled."""
    model = small_glyph()

    def spoilt(given: nn.Module, seed: int) -> Tensor:
        images = draw(given, seed)
        if given is not model:
            images[..., 0, 0] = torch.nan
        return images

    return model, spoilt


def no_tensor() -> tuple[nn.Module, Sample]:
    """A sampler that returns a list."""
    return small_glyph(), lambda model, seed: [draw(model, seed)]  # type: ignore[return-value]


def no_pair() -> nn.Module:
    """A factory that returns no sampler."""
    return small_glyph()
