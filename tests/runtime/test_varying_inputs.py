"""Inputs that change at every step, and then jump."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from denoising import compiled, small_glyph
from torch import Tensor, nn

import rfc_compile
from rfc_compile.tools.measure.glyph_dit import initial_noise, make_scheduler


class Controlled(nn.Module):
    """The bundled model with a residual added before its second block (ControlNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = small_glyph(3)
        self.control: Tensor | None = None
        forward = self.model.transformer_blocks[1].forward
        self.model.transformer_blocks[1].forward = lambda x, *given, **named: forward(
            x + self.control, *given, **named
        )

    def forward(self, x: Tensor, timestep: Tensor, control: Tensor) -> Tensor:
        self.control = control
        labels = torch.zeros(len(x), dtype=torch.long)
        result: Tensor = self.model(x, timestep, labels).sample
        return result


@pytest.mark.parametrize("end", [3, 4, 9, 12])
@pytest.mark.parametrize("named", [True, False])
def test_a_control_that_ends_within_a_run_is_seen(end: int, *, named: bool) -> None:
    """Its residuals change at every step, and then they are zero."""

    @torch.no_grad()
    def drawn(model: Any) -> Tensor:
        sampler, x = make_scheduler("ddim", 20), initial_noise(1, 0)
        strength = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(1))
        for step, t in enumerate(sampler.timesteps):
            control = strength * (1 + 0.02 * step) * (step < end)
            x = sampler.step(model(x, t.expand(1), control), t, x).prev_sample
        return x

    model = compiled(Controlled())
    with rfc_compile.trajectory("run", num_steps=20) if named else nullcontext():
        found = drawn(model)
    decisions = rfc_compile.stats(model).decisions
    assert decisions[end].full
    assert decisions[end].reason == "conditioning"
    assert not all(made.full for made in decisions[end:])
    expected = drawn(Controlled())
    assert (found - expected).norm() < 0.1 * expected.norm()
