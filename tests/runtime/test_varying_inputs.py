"""Inputs that change at every step, and then jump."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from denoising import compiled, small_glyph
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime.call_context import branch
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)


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

    def forward(
        self, x: Tensor, timestep: Tensor, control: Tensor, labels: Tensor
    ) -> Tensor:
        self.control = control
        result: Tensor = self.model(x, timestep, labels).sample
        return result


@pytest.mark.parametrize("end", [3, 4, 9, 12])
@pytest.mark.parametrize("named", [True, False])
def test_a_control_that_ends_within_a_run_is_seen(end: int, *, named: bool) -> None:
    """Its residuals change at every step, and then they are zero."""

    @torch.no_grad()
    def drawn(model: Any) -> Tensor:
        sampler, x = make_scheduler("ddim", 20), initial_noise(1, 0)
        label = torch.zeros(1, dtype=torch.long)
        strength = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(1))
        for step, t in enumerate(sampler.timesteps):
            control = strength * (1 + 0.02 * step) * (step < end)
            x = sampler.step(model(x, t.expand(1), control, label), t, x).prev_sample
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


@torch.no_grad()
def guided(model: Any, *, named: bool = False) -> Tensor:
    """An image with two calls a step, under one control that always changes."""
    sampler, x = make_scheduler("ddim", 20), initial_noise(1, 0)
    ends = torch.randn(2, 1, 64, 128, generator=torch.Generator().manual_seed(1)) / 2
    for step, t in enumerate(sampler.timesteps):
        angle = torch.tensor(step / 10)
        control = ends[0] * angle.cos() + ends[1] * angle.sin()
        outputs = []
        for label, name in ((3, "cond"), (EMPTY_CLASS, "uncond")):
            with branch(name) if named else nullcontext():
                outputs.append(model(x, t.expand(1), control, torch.tensor([label])))
        wanted, empty = outputs
        x = sampler.step(empty + 2 * (wanted - empty), t, x).prev_sample
    return x


def test_a_control_under_named_branches_is_learnt() -> None:
    """What varies shows beside the last call of the same branch, not of the other."""
    model = compiled(Controlled(), schedule="interval", interval=2)
    with rfc_compile.trajectory("run", num_steps=20):
        guided(model, named=True)
    full = [made.full for made in rfc_compile.stats(model).decisions]
    assert len(full) == 40
    assert sum(full) < 28


def test_the_same_noise_again_does_not_go_on_with_an_old_step() -> None:
    """Branches left at the first steps, where the control was not known to vary."""
    model = compiled(Controlled())
    assert torch.equal(guided(model), guided(model))
    assert len(rfc_compile.stats(model).decisions) == 40
