"""Budgets: a wanted number of full steps is met, whatever prompt and sampler."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from denoising import compiled, guided_steps, run, small_glyph
from paths import ROOT, SUPPORT
from torch import Tensor

import rfc_compile
from rfc_compile import BudgetWarning
from rfc_compile.tools.measure.glyph_dit import load_glyph_dit, sample


def draw(
    denoise: Any, seed: int, *, steps: int = 20, scheduler: str = "ddim"
) -> Tensor:
    """Two images; of a prompt that depends on the seed."""
    labels = torch.tensor([seed % 10, (seed + 5) % 10])
    return run(denoise, seed=seed, labels=labels, steps=steps, scheduler=scheduler)


@pytest.mark.parametrize(
    ("scheduler", "steps", "nfc"),
    [
        ("ddim", 50, 8),
        ("ddim", 20, 8),
        ("dpmpp_2m", 50, 14),
        ("dpmpp_2m", 20, 10),
        ("euler", 50, 18),
        ("euler", 50, 11),
    ],
)
def test_the_second_run_of_a_model_meets_the_target(
    scheduler: str, steps: int, nfc: int
) -> None:
    model = compiled(small_glyph(1), target_nfc=nfc)
    for seed in range(2):
        draw(model, seed, steps=steps, scheduler=scheduler)
    stats = rfc_compile.stats(model)
    assert (stats.nfc, stats.steps) == (nfc, steps)
    reasons = {d.reason for d in stats.decisions if d.full}
    assert reasons <= {"warmup", "budget", "cap"}
    assert not rfc_compile.explain(model).fallbacks


def test_with_the_length_told_the_first_run_meets_it() -> None:
    model = compiled(small_glyph(1), target_nfc=9)
    with rfc_compile.trajectory("told", num_steps=30):
        draw(model, 0, steps=30)
    assert rfc_compile.stats(model).nfc == 9
    assert not rfc_compile.explain(model).notes


@pytest.mark.parametrize(("scheduler", "nfc"), [("euler", 5), ("unipc", 4)])
def test_a_last_step_that_moves_the_latent_far_is_one_of_a_told_run(
    scheduler: str, nfc: int
) -> None:
    """Of few steps the last one removes all noise that is left: a large part of it."""
    model = compiled(load_glyph_dit(), target_nfc=nfc)
    for seed in (3000, 7000):
        with rfc_compile.trajectory("told", num_steps=20):
            sample(
                model,
                labels=torch.arange(8),
                seed=seed,
                scheduler=scheduler,
                steps=20,
                guidance=1.0,
            )
        stats = rfc_compile.stats(model)
        assert (stats.nfc, stats.steps) == (nfc, 20)


@pytest.mark.parametrize("scheduler", ["unipc", "dpmpp_2m"])
def test_a_last_step_that_moves_the_latent_far_counts_in_an_untold_run(
    scheduler: str,
) -> None:
    """Whether it is recognised or taken for another image: it is full, and the last."""
    model = compiled(load_glyph_dit(), target_nfc=4)
    labels = torch.arange(8)
    for run_, seed in enumerate((3000, 7000, 5000)):
        sample(
            model, labels=labels, seed=seed, scheduler=scheduler, steps=20, guidance=1.0
        )
        stats = rfc_compile.stats(model)
        assert stats.steps == 20
        assert stats.decisions[-1].full
        assert run_ == 0 or stats.nfc == 4


def test_before_the_length_is_known_the_threshold_decides() -> None:
    model = compiled(small_glyph(1), target_nfc=9, threshold=0.3)
    draw(model, 0, steps=20)
    first = rfc_compile.stats(model).decisions
    (note,) = rfc_compile.explain(model).notes
    assert "target_nfc=9: the number of steps is not known" in note
    assert "threshold=0.3 decides" in note
    plain = compiled(small_glyph(1), threshold=0.3)
    draw(plain, 0)
    assert [d.full for d in first] == [
        d.full for d in rfc_compile.stats(plain).decisions
    ]
    assert "threshold" in {d.reason for d in first if d.full}


def test_another_sampler_is_learnt_anew() -> None:
    model = compiled(small_glyph(1), target_nfc=8)
    for scheduler, steps in (("ddim", 40), ("euler", 24)):
        counts, reasons = [], []
        for seed in range(2):
            draw(model, seed, steps=steps, scheduler=scheduler)
            counts.append(rfc_compile.stats(model).nfc)
            reasons.append({d.reason for d in rfc_compile.stats(model).decisions})
        assert counts[1] == 8
        assert "threshold" in reasons[0] - reasons[1]  # it decides until all is known


def test_every_branch_has_the_budget() -> None:
    """Guidance by two calls a step."""
    model = compiled(small_glyph(1), target_nfc=7, decision="lagged")
    for seed in range(2):
        list(guided_steps(model, seed=seed))
    decisions = rfc_compile.stats(model).decisions
    full = [[d.branch for d in decisions if d.full].count(b) for b in (0, 1)]
    assert full == [7, 7]


@pytest.mark.parametrize("estimator", ["reuse", "taylor", "rfe", "subspace"])
def test_whatever_the_estimator(estimator: str) -> None:
    model = compiled(small_glyph(1), target_nfc=7, estimator=estimator)
    for seed in range(2):
        draw(model, seed)
    assert rfc_compile.stats(model).nfc == 7


def test_blocks_that_are_compiled_one_by_one() -> None:
    """The first one decides for the others."""
    model = small_glyph(2)
    blocks: Any = model.transformer_blocks
    for block in blocks:
        block.compile(backend="rfc", options={"inner": "eager", "target_nfc": 7})
    for seed in range(2):
        draw(model, seed)
    stats = rfc_compile.stats(model)
    assert (stats.nfc, stats.steps) == (7, 20)


def test_a_speedup_counts_what_is_outside_of_regions() -> None:
    model = compiled(small_glyph(1), target_speedup=3)
    for seed in range(2):
        draw(model, seed, steps=40)
    outside = 1 - rfc_compile.explain(model).coverage
    nfc = rfc_compile.stats(model).nfc
    speedups = [40 / (n + (40 - n) * outside) for n in (nfc - 0.5, nfc + 0.5)]
    assert speedups[0] >= 3 >= speedups[1]
    assert nfc < 40 / 3


def test_a_speedup_beyond_the_flops_outside_is_told() -> None:
    model = compiled(small_glyph(1), target_speedup=1000)
    with pytest.warns(BudgetWarning, match="target_speedup=1000 cannot be met: .*%"):
        draw(model, 0, steps=4)
    assert any("target_speedup" in note for note in rfc_compile.explain(model).notes)


def test_guards_that_forbid_the_target_are_told_once() -> None:
    model = compiled(small_glyph(1), target_nfc=9, max_cached_run=3)
    draw(model, 0, steps=40)
    says = r"max_cached_run=3.* at least 10 of 40"
    with pytest.warns(BudgetWarning, match=says) as warned:
        draw(model, 1, steps=40)
    assert len(warned) == 1
    assert rfc_compile.stats(model).nfc == 10
    with warnings.catch_warnings():
        warnings.simplefilter("error", BudgetWarning)
        draw(model, 2, steps=40)


def test_max_error_in_place_of_a_threshold() -> None:
    runs = []
    for options in ({"max_error": 0.2}, {"threshold": 0.2}):
        model = compiled(small_glyph(1), **options)
        draw(model, 0)
        runs.append([d.full for d in rfc_compile.stats(model).decisions])
        reasons = {d.reason for d in rfc_compile.stats(model).decisions if d.full}
        assert next(iter(options)) in reasons
    assert runs[0] == runs[1]


PROGRAM = """
import torch, rfc_compile
from tests.runtime.test_target import draw
from denoising import compiled, small_glyph
model = compiled(small_glyph(1), target_nfc=8)
for seed in range(2):
    draw(model, seed)
    print([d.step for d in rfc_compile.stats(model).decisions if d.full])
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
    model = compiled(small_glyph(1), target_nfc=8)
    lines = []
    for seed in range(2):
        draw(model, seed)
        steps = [d.step for d in rfc_compile.stats(model).decisions if d.full]
        lines.append(str(steps))
    assert found.stdout.splitlines() == lines
    assert len(set(lines)) == 2


def test_a_reset_forgets_what_was_learnt() -> None:
    model = compiled(small_glyph(1), target_nfc=8)
    draw(model, 0)
    rfc_compile.reset(model)
    draw(model, 1)
    reasons = {d.reason for d in rfc_compile.stats(model).decisions if d.full}
    assert "budget" not in reasons
    draw(model, 2)
    assert rfc_compile.stats(model).nfc == 8


def test_full_steps_that_max_error_forces_are_told_once() -> None:
    model = compiled(small_glyph(1), target_nfc=3, max_error=0.05)
    with rfc_compile.trajectory("strict", num_steps=20):
        with pytest.warns(BudgetWarning, match=r"target_nfc=3.*max_error=0.05") as w:
            draw(model, 0)
        assert len(w) == 1
    assert rfc_compile.stats(model).nfc > 3
