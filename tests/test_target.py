"""Budgets: a wanted number of full steps is met, whatever prompt and sampler."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rfc_compile
from rfc_compile import BudgetWarning, Options
from rfc_compile.schedules import Position, guarded_limit
from rfc_compile.schedules.budget import Outlook
from rfc_compile.trajectories import Decision
from tests.denoising import compiled, guided_steps, run, small_glyph

STEPS = 50
RATES = st.lists(st.floats(0.001, 0.3), min_size=STEPS, max_size=STEPS)


def simulate(
    rates: Sequence[float],
    earlier: Sequence[Decision] = (),
    total: int | None = None,
    **options: Any,
) -> list[Decision]:
    """A run whose errors are ``rates`` times the distance from the last full step."""
    chosen = Options(inner="eager", **options)
    schedule = chosen.make_schedule()
    decisions: list[Decision] = []
    since, accumulated, last = 0, 0.0, 0.0
    for step, rate in enumerate(rates):
        error = rate * (since + 1)
        position = Position(
            step, step, since, accumulated, total, 0, tuple(decisions), earlier
        )
        limit, reason = guarded_limit(schedule, chosen, position)
        judged = last if chosen.decision == "lagged" else error
        full = judged > limit
        decisions.append(Decision(step, 0, float(-step), full, reason, error))
        since = 0 if full else since + 1
        last = 0.0 if full else error
        accumulated = 0.0 if full else accumulated + error
    return decisions


def full_steps(decisions: Sequence[Decision]) -> list[int]:
    return [decision.step for decision in decisions if decision.full]


def longest_run(decisions: Sequence[Decision]) -> int:
    ends = [*full_steps(decisions), len(decisions)]
    return max(b - a - 1 for a, b in pairwise(ends))


@given(
    RATES,
    RATES,
    st.integers(8, 30),
    st.sampled_from(["sync", "lagged"]),
    st.integers(0, 3),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_run_after_any_other_meets_the_budget(
    before: list[float],
    rates: list[float],
    nfc: int,
    decision: str,
    final: int,
    warmup: int,
) -> None:
    options = {
        "target_nfc": nfc,
        "decision": decision,
        "final_full": final,
        "warmup": warmup,
    }
    earlier = simulate(before, **options)
    decisions = simulate(rates, earlier, STEPS, **options)
    steps = full_steps(decisions)
    assert len(steps) == nfc
    assert steps[:warmup] == list(range(warmup))
    assert steps[nfc - final :] == list(range(STEPS - final, STEPS))


@given(RATES, st.integers(8, 30))
@settings(max_examples=30, deadline=None)
def test_the_first_run_meets_it_if_its_length_is_told(
    rates: list[float], nfc: int
) -> None:
    assert len(full_steps(simulate(rates, (), STEPS, target_nfc=nfc))) == nfc


@given(RATES, st.integers(3, 30), st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_what_is_asked_of_all_schedules_comes_first(
    rates: list[float], nfc: int, cap: int, final: int
) -> None:
    """Nearest to the target that the guards allow."""
    options = {"max_cached_run": cap, "final_full": final, "target_nfc": nfc + final}
    options["warmup"] = 2
    earlier = simulate(rates, **options)
    decisions = simulate(rates, earlier, STEPS, **options)
    assert longest_run(decisions) <= cap
    fewest = 2 + (STEPS - 2 - final) // (cap + 1) + final
    assert len(full_steps(decisions)) == max(nfc + final, fewest)


@given(RATES, st.integers(8, 25), st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_no_run_errs_by_more_than_max_error(
    rates: list[float], nfc: int, bound: float
) -> None:
    decisions = simulate(rates, (), STEPS, target_nfc=nfc, max_error=bound)
    error = 0.0
    for decision in decisions:
        error = 0.0 if decision.full else error + (decision.statistic or 0.0)
        assert error <= bound + 1e-9
    assert len(full_steps(decisions)) >= nfc


def test_full_steps_go_where_the_errors_are() -> None:
    """At four times the rate a cached run is half as long."""
    rates = [0.02] * 25 + [0.08] * 25
    earlier = simulate(rates, target_nfc=14, warmup=2)
    decisions = simulate(rates, earlier, STEPS, target_nfc=14, warmup=2)
    steps = full_steps(decisions)[2:]
    assert len([s for s in steps if s >= 25]) == 8
    assert len([s for s in steps if s < 25]) == 4


def test_a_run_with_larger_errors_is_not_spent_at_once() -> None:
    earlier = simulate([0.02] * STEPS, target_nfc=14)
    same = full_steps(simulate([0.02] * STEPS, earlier, STEPS, target_nfc=14))
    larger = full_steps(simulate([0.06] * STEPS, earlier, STEPS, target_nfc=14))
    assert max(abs(a - b) for a, b in zip(same, larger, strict=True)) <= 3


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(0, 5), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_threshold_gives_the_full_steps_it_is_chosen_for(
    rates: list[float], since: int, wanted: int
) -> None:
    """Unless the count jumps past it, and then to a neighbour."""
    outlook = Outlook(rates, since, error=0.1 * since)
    threshold = outlook.threshold(wanted)
    if math.isinf(threshold):
        extreme = len(rates) if threshold < 0 else 0
        assert outlook.full_steps(threshold) == extreme
        return
    least = outlook.full_steps(threshold * 1.001 + 1e-6)
    most = outlook.full_steps(threshold * 0.999 - 1e-6)
    assert least <= wanted <= most


def test_twenty_steps_have_their_share_of_the_full_steps() -> None:
    """A branch of 10 of the 50 steps."""
    decisions = simulate([0.05] * 10, (), 10, target_nfc=10)
    assert all(d.full for d in decisions)
    schedule = Options(inner="eager", target_nfc=15).make_schedule()
    half = [Decision(25 + i, 1, 0.0, i % 3 == 0, "", 0.1) for i in range(25)]
    position = Position(2, 2, 0, 0.0, 50, 1, half[:2], half)
    assert schedule.limit(position) < math.inf


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
        counts = []
        for seed in range(2):
            draw(model, seed, steps=steps, scheduler=scheduler)
            counts.append(rfc_compile.stats(model).nfc)
        assert counts[1] == 8
        assert counts[0] != 8


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
    model = compiled(small_glyph(1), target_nfc=4, max_cached_run=3)
    draw(model, 0)
    with pytest.warns(BudgetWarning, match=r"max_cached_run=3.* at least 5 of 20") as w:
        draw(model, 1)
    assert len(w) == 1
    assert rfc_compile.stats(model).nfc == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error", BudgetWarning)
        draw(model, 2)


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
from tests.test_target import draw
from tests.denoising import compiled, small_glyph
model = compiled(small_glyph(1), target_nfc=8)
for seed in range(2):
    draw(model, seed)
    print([d.step for d in rfc_compile.stats(model).decisions if d.full])
"""


def test_the_same_calls_give_the_same_decisions() -> None:
    """In another process, too."""
    root = Path(__file__).resolve().parent.parent
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
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
