"""Every form of the step graph against an eager reference with forward hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from capture import Walk, capture
from denoising import LABELS, compiled, small_glyph
from options import MODULES
from torch import Tensor, nn

import rfc_compile
from rfc_compile.tools.measure.glyph_dit import load_glyph_dit, make_scheduler, sample

ESTIMATORS = {
    "reuse": ({"estimator": "reuse"}, reference.reuse),
    "taylor-1": ({"estimator": "taylor", "order": 1}, reference.taylor(1)),
    "taylor-2": ({"estimator": "taylor", "order": 2}, reference.taylor(2)),
    "rfe-1": ({"estimator": "rfe", "order": 1}, reference.rfe(1)),
    "rfe-2": ({"estimator": "rfe", "order": 2}, reference.rfe(2)),
    "subspace-1": ({"order": 1, "ridge": 0.1}, reference.subspace(1, 0.1)),
    "subspace-2": ({"order": 2, "ridge": 0.1}, reference.subspace(2, 0.1)),
    "subspace-3": ({"order": 3, "ridge": 0.3}, reference.subspace(3, 0.3)),
}
FULL_STEPS = [0, 1, 4, 5, 9, 12, 16, 19, 23, 27, 30, 36, 40, 44, 46, 49]
"""Unequal gaps, so that a rule that divides by the wrong gap shows."""
PLAN = [step in FULL_STEPS for step in range(50)]

Step = Callable[[int, Tensor, Tensor], Tensor]


class Positional(nn.Module):
    """A diffusers model called as ``model(x, t, y)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        sampled: Tensor = self.model(x, timestep=t, class_labels=y).sample
        return sampled


@torch.no_grad()
def trajectory(step: Step) -> Tensor:
    """50 DDIM steps in closed loop; all latents, (50, B, C, H, W)."""
    sampler = make_scheduler("ddim", 50)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    latents = []
    for index, t in enumerate(sampler.timesteps):
        v = step(index, x, t.expand(2))
        x = sampler.step(v, t, x).prev_sample
        latents.append(x)
    return torch.stack(latents)


def hooked(model: Any, predict: reference.Predict, plan: list[bool]) -> Step:
    """Steps of a model with the reference's hooks on its modules."""
    modules = [m for b in model.transformer_blocks for m in (b.attn1, b.ff)]
    hooks = reference.HookedReference(modules, predict, plan)
    positional = Positional(model)

    def step(index: int, x: Tensor, t: Tensor) -> Tensor:
        hooks.begin_step()
        found: Tensor = positional(x, t, LABELS)
        return found

    return step


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_all_forms_equal_the_hooked_reference(name: str) -> None:
    """Per-region conditional, hoisted, whole and split graphs, 50 steps each."""
    options, predict = ESTIMATORS[name]
    expected = trajectory(hooked(small_glyph(), predict, PLAN))
    model = Positional(small_glyph())
    call = (torch.randn(2, 3, 32, 32), torch.tensor(980).expand(2), LABELS)
    captured = capture(model, *call, timestep="t", **options)
    found = {}
    for form in ("conditional", "hoist_predicate", "whole", "split"):
        walk = Walk(captured, form)
        found[form] = trajectory(
            lambda index, x, t, walk=walk: walk(x, t, LABELS, full=PLAN[index])[0]
        )
        torch.testing.assert_close(found[form], expected, rtol=0, atol=1e-4)
    assert torch.equal(found["hoist_predicate"], found["conditional"])
    assert torch.equal(found["whole"], found["conditional"])
    assert torch.equal(found["split"], found["conditional"])


@pytest.mark.parametrize(
    "given",
    [
        {"schedule": "mask", "full_steps": FULL_STEPS, "warmup": 1},
        {"schedule": "rcs", "threshold": 0.5},
    ],
    ids=["mask", "rcs"],
)
def test_the_backend_equals_the_hooked_reference(given: dict[str, Any]) -> None:
    """The whole bundled model through torch.compile; rcs hands over its plan."""
    options: dict[str, Any] = {
        **MODULES,
        "ridge": 0.1,
        "corrector": "off",
        "time": "step",
    }
    options |= given
    rfc = compiled(load_glyph_dit(), **options)
    images = sample(rfc, labels=LABELS, seed=5, guidance=1.0)
    plan = [d.full for d in rfc_compile.stats(rfc).decisions]
    assert 5 < sum(plan) < 40, "the run must hold full and cached steps"
    if options["schedule"] == "mask":
        assert plan == PLAN
    step = hooked(load_glyph_dit(), reference.subspace(2, 0.1), plan)
    calls = iter(range(50))

    def denoise(x: Tensor, *, timestep: Tensor, class_labels: Tensor) -> Any:
        class Output:
            sample = step(next(calls), x, timestep)

        return Output

    expected = sample(denoise, labels=LABELS, seed=5, guidance=1.0)
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-3)
    assert (images - expected).abs().mean() < 2e-5
