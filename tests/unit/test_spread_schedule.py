"""The default schedule: as many full steps as errors ask for, evenly spread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import pytest
import torch
from denoising import compiled, run
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import RATES, STEPS, full_steps, longest_run, simulate

import rfc_compile
from rfc_compile.schedules.forecast import Forecast
from rfc_compile.schedules.spread import BREAK
from rfc_compile.tools.measure.glyph_dit import SCHEDULERS, load_glyph_dit
from rfc_compile.tools.measure.metrics import psnr

THRESHOLDS = st.floats(0.05, 1.5)
SPREAD, RCS = {"schedule": "spread"}, {"schedule": "rcs"}


def lengths(full: Iterable[int]) -> list[int]:
    """Of the cached runs between full steps."""
    return [b - a - 1 for a, b in pairwise(full)]


def test_it_is_the_default() -> None:
    assert rfc_compile.Options().schedule == "spread"


@given(RATES, THRESHOLDS, st.integers(1, 4), st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_while_the_number_of_steps_is_unknown_it_is_rcs(
    rates: list[float], threshold: float, warmup: int, cap: int
) -> None:
    options = {"threshold": threshold, "warmup": warmup, "max_cached_run": cap}
    spread = simulate(rates, **SPREAD, **options)
    assert spread == simulate(rates, **RCS, **options)


@given(RATES, THRESHOLDS, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_guards_hold_and_no_run_errs_by_more_than_twice_the_threshold(
    rates: list[float], threshold: float, warmup: int, final: int
) -> None:
    options = {"threshold": threshold, "warmup": warmup, "final_full": final}
    decisions = simulate(rates, (), STEPS, **options)
    full = full_steps(decisions)
    assert full[:warmup] == list(range(warmup))
    assert full[len(full) - final :] == list(range(STEPS - final, STEPS))
    assert longest_run(decisions) <= 8
    error = 0.0
    for decision in decisions:
        error = 0.0 if decision.full else error + (decision.statistic or 0.0)
        assert error <= BREAK * threshold + 1e-9


@given(RATES, RATES, THRESHOLDS)
@settings(max_examples=40, deadline=None)
def test_no_run_depends_on_the_one_before(
    before: list[float], rates: list[float], threshold: float
) -> None:
    earlier = simulate(before, (), STEPS, threshold=threshold)
    again = simulate(rates, earlier, STEPS, threshold=threshold)
    assert again == simulate(rates, (), STEPS, threshold=threshold)


def test_equal_errors_have_runs_of_equal_length_that_shorten_at_the_end() -> None:
    decisions = simulate([0.03] * STEPS, (), STEPS, threshold=0.35)
    assert full_steps(decisions) == [0, 5, 10, 15, 20, 25, 30, 34, 38, 42, 46, 49]
    assert {d.reason for d in decisions if d.full} == {"warmup", "spread"}


def test_runs_change_less_than_those_of_rcs() -> None:
    """Between full steps close together a prediction reaches less far."""
    bursts = [0.09 if step % 10 < 3 else 0.02 for step in range(STEPS)]
    rcs = simulate(bursts, (), STEPS, **RCS, threshold=0.35)
    spread = simulate(bursts, (), STEPS, **SPREAD, threshold=0.35)
    changes = [
        [abs(b - a) for a, b in pairwise(lengths(full_steps(decisions)))]
        for decisions in (rcs, spread)
    ]
    assert max(changes[1]) < max(changes[0])
    assert sum(changes[1]) < sum(changes[0]) / 2


@given(RATES, st.lists(THRESHOLDS, min_size=2, max_size=2, unique=True))
@settings(max_examples=60, deadline=None)
def test_full_steps_expected_fall_with_the_threshold(
    rates: list[float], thresholds: list[float]
) -> None:
    strict, loose = sorted(thresholds)
    outlook = Forecast(rates, since_full=0, error=0.0, cap=8)
    assert outlook.expected(strict) >= outlook.expected(loose)
    assert len(rates) / 9 - 1e-9 <= outlook.expected(loose) <= len(rates)
    assert replace(outlook, cap=None).expected(0.0) == len(rates)


@given(st.floats(0.001, 0.3), THRESHOLDS)
@settings(max_examples=60, deadline=None)
def test_equal_rates_are_expected_to_have_the_full_steps_of_rcs(
    rate: float, threshold: float
) -> None:
    """Within one, and what rounding every run down to whole steps adds."""
    outlook = Forecast([rate] * STEPS, since_full=0, error=0.0, cap=8)
    counted = outlook.full_steps(threshold)
    expected = outlook.expected(threshold)
    run = STEPS / expected
    assert expected - 1 <= counted <= STEPS // int(run) + 1


def test_an_error_out_of_proportion_is_full_at_once() -> None:
    """In the midst of a run that the spread alone would go on with."""
    rates = [0.02] * STEPS
    start = full_steps(simulate(rates, (), STEPS, threshold=0.35))[3]
    rates[start + 1] = 0.8
    decisions = simulate(rates, (), STEPS, threshold=0.35)
    assert decisions[start + 1].full
    assert decisions[start + 1].reason == "threshold"


def test_larger_errors_have_more_full_steps() -> None:
    counts = [
        len(full_steps(simulate([rate] * STEPS, (), STEPS, threshold=0.35)))
        for rate in (0.01, 0.02, 0.04, 0.08)
    ]
    assert counts == sorted(set(counts))


def test_errors_that_are_no_number_are_no_forecast() -> None:
    rates = [0.02] * STEPS
    rates[9] = float("nan")
    rates[12] = float("inf")
    decisions = simulate(rates, (), STEPS, threshold=0.35)
    assert {9, 12} <= set(full_steps(decisions))


@pytest.mark.slow
def test_images_are_better_than_those_of_rcs_with_more_full_steps() -> None:
    """Over the samplers, the number of steps being told."""
    scores: dict[str, list[tuple[int, float]]] = {"spread": [], "rcs": []}
    models = {
        kind: compiled(load_glyph_dit(), schedule=kind, threshold=0.2)
        for kind in scores
    }
    for sampler in SCHEDULERS:
        labels = torch.tensor([3, 8])
        way = {"labels": labels, "steps": STEPS, "scheduler": sampler}
        reference = run(load_glyph_dit(), seed=1, **way)
        for kind, model in models.items():
            with rfc_compile.trajectory("images", num_steps=STEPS):
                images = run(model, seed=1, **way)
            quality = psnr(images, reference).mean().item()
            scores[kind].append((rfc_compile.stats(model).nfc, quality))
    spread, rcs = (
        (mean(nfc for nfc, _ in own), mean(quality for _, quality in own))
        for own in scores.values()
    )
    assert spread[0] <= rcs[0] - 3
    assert spread[1] >= rcs[1] + 1
