"""Guidance in calls of its own: all branches of a step are full or cached together.

Guidance multiplies the difference of two outputs. Where both are predicted from the
same steps their errors cancel; where one is full and the other is not, they do not.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import rfc_compile
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.metrics import psnr

MODEL = MODELS["glyph-dit"]
OPTIONS = {"inner": "eager"}
STEPS = 20


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    options = {**OPTIONS, "tolerance": 0.03}
    return torch.compile(MODEL.load(), backend="rfc", dynamic=False, options=options)  # type: ignore[return-value]


def drawn(model: torch.nn.Module, *, separate: bool) -> Tensor:
    return MODEL.sample(
        model,
        MODEL.conditions(1),
        seed=3,
        scheduler="ddim",
        steps=STEPS,
        guidance=4.0,
        separate=separate,
    )


@pytest.mark.parametrize("named", [True, False], ids=["named", "by the fit"])
def test_separate_calls_are_decided_as_one_batch(
    model: torch.nn.Module, named: bool
) -> None:
    images, full = {}, {}
    plain = drawn(MODEL.load(), separate=True)
    for separate in (False, True):
        rfc_compile.reset(model)
        name = f"run {separate}"
        run = rfc_compile.trajectory(name, num_steps=STEPS) if named else nullcontext()
        with run:
            images[separate] = drawn(model, separate=separate)
        known = rfc_compile.stats(model)
        assert known is not None
        full[separate] = [d.step for d in known.decisions if d.full]
    assert full[True] == [step for step in full[False] for _ in range(2)]
    assert 2 < len(full[False]) < STEPS
    close = {separate: psnr(image, plain).item() for separate, image in images.items()}
    assert close[True] == pytest.approx(close[False], abs=1.5)


@pytest.mark.parametrize("schedule", ["rcs", "even", "error_control"])
def test_every_schedule_decides_once_a_step(schedule: str) -> None:
    options = {**OPTIONS, "schedule": schedule}
    compiled = torch.compile(
        MODEL.load(), backend="rfc", dynamic=False, options=options
    )
    with rfc_compile.trajectory("image", num_steps=STEPS):
        drawn(compiled, separate=True)  # type: ignore[arg-type]
    known = rfc_compile.stats(compiled)
    assert known is not None
    by_step: dict[int, set[bool]] = {}
    for decision in known.decisions:
        by_step.setdefault(decision.step, set()).add(decision.full)
    assert len(known.decisions) == 2 * STEPS
    assert all(len(decided) == 1 for decided in by_step.values())
    assert {True} in by_step.values()
    assert {False} in by_step.values()
