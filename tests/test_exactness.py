"""What the compiled path computes, against the inner backend and the reference."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from torch import Tensor

import rfc_compile
from rfc_compile.glyph import load_glyph_dit, sample

LABELS = torch.tensor([3, 8])
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


class Stepped:
    """Calls a hooked model as the sampler does, and tells the hooks about steps."""

    def __init__(self, model: Any, hooks: reference.HookedReference) -> None:
        self.model = model
        self.hooks = hooks

    def __call__(self, x: Tensor, **inputs: Tensor) -> Any:
        """One forward."""
        self.hooks.begin_step()
        return self.model(x, **inputs)


def hooked_images(predict: reference.Predict, plan: list[bool]) -> Tensor:
    """Images from the bundled model with the reference's hooks on its modules."""
    model = load_glyph_dit()
    blocks = model.transformer_blocks
    modules = [m for block in blocks for m in (block.attn1, block.ff)]
    hooks = reference.HookedReference(modules, predict, plan)
    images = sample(Stepped(model, hooks), labels=LABELS, seed=5, guidance=1.0)
    hooks.remove()
    return images


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_static_schedule_equals_the_hooked_reference(name: str) -> None:
    """50 steps, unequal gaps, whole full and cached graphs."""
    options, predict = ESTIMATORS[name]
    plan = [step in FULL_STEPS for step in range(50)]
    expected = hooked_images(predict, plan)
    schedule = {"schedule": "mask", "full_steps": FULL_STEPS, "warmup": 1}
    model = torch.compile(
        load_glyph_dit(),
        backend="rfc",
        options={**options, **schedule, "max_cached_run": None, "inner": "eager"},
    )
    images = sample(model, labels=LABELS, seed=5, guidance=1.0)
    assert [d.full for d in rfc_compile.stats(model).decisions] == plan
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-3)
    assert (images - expected).abs().mean() < 2e-5


@pytest.mark.parametrize("name", ["subspace-2", "rfe-1", "taylor-2", "reuse"])
def test_dynamic_schedule_equals_the_hooked_reference(name: str) -> None:
    """50 steps with rcs: probe, then full or cached; the reference gets its plan."""
    options, predict = ESTIMATORS[name]
    model = torch.compile(
        load_glyph_dit(),
        backend="rfc",
        options={**options, "threshold": 0.5, "inner": "eager"},
    )
    images = sample(model, labels=LABELS, seed=5, guidance=1.0)
    plan = [d.full for d in rfc_compile.stats(model).decisions]
    assert 5 < sum(plan) < 40, "the run must hold full and cached steps"
    expected = hooked_images(predict, plan)
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-3)
    assert (images - expected).abs().mean() < 2e-5
