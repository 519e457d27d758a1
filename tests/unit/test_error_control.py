"""Error control: no cached run owes more than the tolerance, intervals grow slowly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import STEPS, WEIGHTS, full_steps, simulate

from rfc_compile.schedules.base import Curvature
from rfc_compile.schedules.error_control import (
    GROWTH,
    LONGEST_INTERVAL,
    OUTPUT_ERROR,
)
from rfc_compile.schedules.promise import tolerance_for

TOLERANCES = st.floats(1e-6, 0.1)
TIMES = [1000 * (1 - i / STEPS) for i in range(STEPS)]
NOTHING = [0.0] * STEPS


def controlled(weights: Sequence[float], tolerance: float, **given: Any) -> list[int]:
    return full_steps(
        NOTHING, times=TIMES, weights=weights, tolerance=tolerance, **given
    )


@given(st.sampled_from([None, STEPS]), st.sampled_from(["fast", "quality"]))
@settings(deadline=None)
def test_without_a_curvature_full_steps_are_even(
    steps: int | None, preset: str
) -> None:
    found = full_steps(NOTHING, steps, preset=preset)
    even = full_steps(NOTHING, steps, schedule="even", preset=preset)
    assert found[:2] == [0, 1]  # how far the first interval may go is not known
    assert set(found) - {1} <= set(even) | {0}
    assert set(even) - set(found) <= {even[1]}


@given(WEIGHTS, TOLERANCES, st.integers(1, 2))
@settings(max_examples=150, deadline=None)
def test_no_run_owes_more_than_the_tolerance(
    weights: list[float], tolerance: float, order: int
) -> None:
    full = controlled(weights, tolerance, order=order)
    nodes = order + 1
    for i in range(nodes - 1, len(full)):
        at = tuple(TIMES[step] for step in full[max(0, i - order) : i + 1][::-1])
        curvature = Curvature(weights[full[i]], 0.0, at)
        end = full[i + 1] if i + 1 < len(full) else STEPS
        owed = curvature.debt([TIMES[step] for step in range(full[i] + 1, end)])
        assert owed <= tolerance * (1 + 1e-9)


@given(WEIGHTS, TOLERANCES)
@settings(max_examples=150, deadline=None)
def test_intervals_grow_slowly_and_have_a_longest(
    weights: list[float], tolerance: float
) -> None:
    gaps = [b - a for a, b in pairwise(controlled(weights, tolerance))]
    assert max(gaps) <= LONGEST_INTERVAL
    assert gaps[0] == 1
    for before, after in pairwise(gaps):
        assert after <= math.ceil(GROWTH * before)


@pytest.mark.parametrize(("tolerance", "longest"), [(0.02, 3), (0.005, 2)])
def test_without_repayment_no_interval_is_longer_than_an_even_one(
    tolerance: float, longest: int
) -> None:
    for mixed in (False, True):
        found = controlled([1e-12] * STEPS, tolerance, unpaid=mixed)
        gaps = [b - a for a, b in pairwise(found)][4:]
        assert max(gaps) == (longest if mixed else LONGEST_INTERVAL)


@given(WEIGHTS, st.floats(0.004, 0.08), st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_first_interval_is_that_of_an_even_spread(
    weights: list[float], tolerance: float, known: bool
) -> None:
    """Where the noise level is known, whether the number of steps is or not."""
    given_: dict[str, Any] = {
        "steps": STEPS if known else None,
        "noise_level": lambda time: time / 1000,
    }
    found = controlled(weights, tolerance, **given_)
    even = controlled(weights, tolerance, **given_, schedule="even")
    assert found[:2] == even[:2]
    asked = {**given_, "min_psnr": 30}
    even_of_psnr = full_steps(
        NOTHING, times=TIMES, schedule="even", **given_, tolerance=tolerance_for(30)
    )
    careful = full_steps(NOTHING, times=TIMES, weights=weights, **asked)
    assert careful[1] == even_of_psnr[1]


@pytest.mark.parametrize(("steps", "first"), [(28, 2), (STEPS, 4)])
def test_the_first_interval_is_shorter_in_a_short_run(steps: int, first: int) -> None:
    """Of a flow with shift 3; a target of as many full steps begins later."""
    sigmas = [3 * s / (1 + 2 * s) for s in (1 - i / steps for i in range(steps))]
    run: dict[str, Any] = {
        "times": [1000 * sigma for sigma in sigmas],
        "noise_level": lambda time: time / 1000,
        "steps": steps,
    }
    found = full_steps([0.0] * steps, weights=[1e-12] * steps, **run)
    asked = full_steps([0.0] * steps, schedule="even", target_nfc=11, **run)
    assert found[1] == first
    assert asked[1] > first or steps == STEPS


def test_a_straight_line_has_the_longest_intervals() -> None:
    full = controlled([0.0] * STEPS, 0.01)
    assert [b - a for a, b in pairwise(full)] == [1, 2, 3, 5, *[6] * 6]


@given(st.floats(1e-9, 1e-3), TOLERANCES, TOLERANCES)
@settings(max_examples=150, deadline=None)
def test_a_larger_tolerance_has_no_more_full_steps(
    weight: float, one: float, other: float
) -> None:
    strict, loose = sorted((one, other))
    counts = [len(controlled([weight] * STEPS, t)) for t in (strict, loose)]
    assert counts[0] >= counts[1]


@given(st.floats(1e-6, 1e-2), TOLERANCES)
@settings(max_examples=100, deadline=None)
def test_no_prediction_errs_by_more_than_its_bound(
    own_weight: float, tolerance: float
) -> None:
    full = controlled([0.0] * STEPS, tolerance, own_weight=own_weight)
    bound = OUTPUT_ERROR * math.sqrt(tolerance)
    for (before, last), end in zip(pairwise(full), [*full[2:], STEPS], strict=True):
        curvature = Curvature(0.0, own_weight, (TIMES[last], TIMES[before]))
        errors = [curvature.output_error(TIMES[step]) for step in range(last + 1, end)]
        assert all(error <= bound for error in errors)


def test_a_tolerance_of_zero_caches_nothing() -> None:
    assert controlled([1e-3] * STEPS, 0.0) == list(range(STEPS))


def test_the_reason_is_its_name() -> None:
    made = simulate(NOTHING, times=TIMES, weights=[1e-3] * STEPS)
    assert {reason for _, reason in made[1:]} == {"error_control"}
