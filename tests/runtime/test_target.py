"""Targets: a wanted number of full steps is met, whatever prompt and sampler."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from denoising import compiled, guided_steps, run, small_glyph
from models import Stack, build, timesteps, tokens
from paths import ROOT, SUPPORT
from torch import Tensor

import rfc_compile
from rfc_compile import BudgetWarning
from rfc_compile.runtime.call_context import begin_run
from rfc_compile.runtime.run_boundaries import end_run
from rfc_compile.tools.measure.glyph_dit import load_glyph_dit, sample


def draw(
    denoise: Any, seed: int, *, steps: int = 20, scheduler: str = "ddim"
) -> Tensor:
    """Two images; of a prompt that depends on the seed."""
    labels = torch.tensor([seed % 10, (seed + 5) % 10])
    return run(denoise, seed=seed, labels=labels, steps=steps, scheduler=scheduler)


def full_steps(model: Any) -> list[int]:
    return [d.step for d in rfc_compile.stats(model).decisions if d.full]


CASES = [
    ("ddim", 50, 8),
    ("ddim", 20, 8),
    ("dpmpp_2m", 50, 14),
    ("dpmpp_2m", 20, 10),
    ("euler", 50, 18),
    ("euler", 50, 11),
    ("unipc", 30, 9),
]


@pytest.mark.parametrize("source", ["by trajectory", "by a pipeline"])
def test_with_the_length_known_every_run_meets_it(source: str) -> None:
    model = compiled(small_glyph(1), target_nfc=9)
    for seed, (scheduler, steps, _) in enumerate(CASES):
        if source == "by trajectory":
            with rfc_compile.trajectory("named", num_steps=steps):
                draw(model, seed, steps=steps, scheduler=scheduler)
        else:
            number = begin_run(steps)
            draw(model, seed, steps=steps, scheduler=scheduler)
            end_run(number)
        stats = rfc_compile.stats(model)
        assert (stats.nfc, stats.steps) == (9, steps)
        reasons = {d.reason for d in stats.decisions if d.full}
        assert reasons == {"noise_level", "new_run" if seed else "warmup"}
        gaps = [b - a for a, b in pairwise(full_steps(model))]
        assert max(gaps) <= 2.5 * steps / 9
    assert not rfc_compile.explain(model).uncached_reasons


@pytest.mark.parametrize(("scheduler", "steps", "nfc"), CASES)
def test_untold_it_is_spread_over_the_timesteps(
    scheduler: str, steps: int, nfc: int
) -> None:
    """The first run like the second: at most so many, none left out for long."""
    model = compiled(small_glyph(1), target_nfc=nfc)
    found = []
    for seed in range(2):
        draw(model, seed, steps=steps, scheduler=scheduler)
        stats = rfc_compile.stats(model)
        assert stats.steps == steps
        found.append(full_steps(model))
    assert found[0] == found[1]
    assert nfc - 2 <= len(found[0]) <= nfc
    assert not rfc_compile.explain(model).uncached_reasons


@pytest.mark.parametrize(("scheduler", "nfc"), [("euler", 5), ("unipc", 4)])
def test_a_last_step_that_moves_the_latent_far_is_one_of_its_run(
    scheduler: str, nfc: int
) -> None:
    """Of few steps the last one removes all noise that is left: a large part of it."""
    model = compiled(load_glyph_dit(), target_nfc=nfc)
    settings: dict[str, Any] = {"scheduler": scheduler, "steps": 20, "guidance": 1.0}
    labels = torch.arange(8)
    for seed in (3000, 7000):
        with rfc_compile.trajectory("named", num_steps=20):
            sample(model, labels=labels, seed=seed, **settings)
        stats = rfc_compile.stats(model)
        assert (stats.nfc, stats.steps) == (nfc, 20)
        sample(model, labels=labels, seed=seed, **settings)
        stats = rfc_compile.stats(model)
        assert stats.steps == 20
        assert 1 < stats.nfc <= nfc


def test_every_branch_has_the_target() -> None:
    """Guidance by two calls a step."""
    model = compiled(small_glyph(1), target_nfc=7)
    for seed in range(2):
        with rfc_compile.trajectory("two calls", num_steps=20):
            list(guided_steps(model, seed=seed))
        decisions = rfc_compile.stats(model).decisions
        full = [[d.branch for d in decisions if d.full].count(b) for b in (0, 1)]
        assert full == [7, 7]


@pytest.mark.parametrize("estimator", ["reuse", "taylor", "rfe", "subspace"])
def test_whatever_the_estimator(estimator: str) -> None:
    model = compiled(small_glyph(1), target_nfc=7, estimator=estimator)
    with rfc_compile.trajectory("named", num_steps=20):
        draw(model, 0)
    assert rfc_compile.stats(model).nfc == 7


def test_blocks_that_are_compiled_one_by_one() -> None:
    """The first one decides for the others."""
    model = small_glyph(2)
    blocks: Any = model.transformer_blocks
    for block in blocks:
        block.compile(backend="rfc", options={"inner": "eager", "target_nfc": 7})
    with rfc_compile.trajectory("named", num_steps=20):
        draw(model, 0)
    stats = rfc_compile.stats(model)
    assert (stats.nfc, stats.steps) == (7, 20)


def test_a_speedup_needs_no_length_and_counts_what_is_outside_of_regions() -> None:
    model = compiled(small_glyph(1), target_speedup=3)
    for seed in range(2):
        draw(model, seed, steps=40)
        outside = 1 - rfc_compile.explain(model).coverage
        nfc = rfc_compile.stats(model).nfc
        speedups = [40 / (n + (40 - n) * outside) for n in (nfc - 1, nfc + 1)]
        assert speedups[0] >= 3 >= speedups[1]
        assert nfc < 40 / 3


def test_a_speedup_beyond_the_flops_outside_is_told() -> None:
    model = compiled(small_glyph(1), target_speedup=1000)
    with pytest.warns(BudgetWarning, match="target_speedup=1000 is not reached: .*%"):
        draw(model, 0, steps=4)
    assert any("target_speedup" in note for note in rfc_compile.explain(model).notes)


def test_guards_come_before_the_target() -> None:
    model = compiled(small_glyph(1), target_nfc=9, max_cached_run=3)
    with rfc_compile.trajectory("named", num_steps=40):
        draw(model, 0, steps=40)
    decisions = rfc_compile.stats(model).decisions
    assert "cap" in {d.reason for d in decisions if d.full}
    gaps = [b - a for a, b in pairwise(full_steps(model))]
    assert max(gaps) == 4
    assert rfc_compile.stats(model).nfc > 9


PROGRAM = """
import torch, rfc_compile
from tests.runtime.test_target import draw, full_steps
from denoising import compiled, small_glyph
for options in ({"target_nfc": 8}, {"tolerance": 0.01}):
    model = compiled(small_glyph(1), **options)
    draw(model, 0)
    print(full_steps(model))
"""


def test_the_same_calls_give_the_same_decisions() -> None:
    """In another process, too."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
    )
    lines = []
    for options in ({"target_nfc": 8}, {"tolerance": 0.01}):
        model = compiled(small_glyph(1), **options)
        draw(model, 0)
        lines.append(str(full_steps(model)))
    assert found.stdout.splitlines() == lines
    assert len(set(lines)) == 2


def test_timesteps_that_differ_by_rounding_are_the_same() -> None:
    """A line through two full steps at them would go anywhere (KDPM2's stages)."""

    @torch.no_grad()
    def staged(apart: float) -> Tensor:
        options = {"schedule": "mask", "full_steps": [0, 1, 2, 9, 10, 19, 20]}
        model, x = compiled(build(Stack), **options), tokens()
        with rfc_compile.trajectory("staged", num_steps=40):
            for step in range(20):
                for rounding in (apart, 0.0):
                    x = x - 0.02 * model(x, timesteps(1000 - 50 * step + rounding))
        return x

    torch.testing.assert_close(staged(6e-5), staged(0.0), rtol=0, atol=1e-4)
