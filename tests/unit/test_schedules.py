"""Which steps are full: exact lists, guards, and what must hold for any errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import ERRORS, STEPS, full_steps, simulate

from rfc_compile import OptionError
from rfc_compile.config.options import Options
from rfc_compile.graph_report import GraphReport
from rfc_compile.schedules.base import FULL, Position, guarded_limit


@pytest.mark.parametrize(
    ("interval", "nfc"), [(3, 18), (4, 14), (5, 11), (6, 10), (7, 8), (8, 8), (9, 7)]
)
def test_taylorseers_interval(interval: int, nfc: int) -> None:
    steps = full_steps(
        [0.1] * STEPS,
        schedule="interval",
        interval=interval,
        warmup=2,
    )
    assert steps == [0, *range(1, STEPS, interval)]
    assert len(steps) == nfc


@pytest.mark.parametrize("interval", [1, 2, 4, 7])
def test_foras_interval(interval: int) -> None:
    steps = full_steps(
        [0.1] * STEPS,
        schedule="interval",
        interval=interval,
        warmup=1,
    )
    assert steps == list(range(0, STEPS, interval))


def test_interval_ignores_the_errors() -> None:
    options = {"schedule": "interval", "interval": 4}
    assert full_steps([9.0] * 20, **options) == full_steps([0.0] * 20, **options)


BY_LEVEL = [[900, 2], [700, 5], [200, 3]]


def falling(steps: int, start: float = 1000.0) -> list[float]:
    return [start * (1 - step / steps) for step in range(steps)]


def by_level(times: list[float], report: Any = None) -> list[int]:
    options = {"schedule": "interval", "interval": BY_LEVEL, "report": report}
    return full_steps([0.1] * len(times), times=times, **options)


@pytest.mark.parametrize("steps", [28, 50, 100, 400])
def test_intervals_by_noise_level_serve_any_number_of_steps(steps: int) -> None:
    times = falling(steps)
    full = by_level(times)  # nobody says how many steps there are
    share = 0.3 / 2 + 0.5 / 5 + 0.2 / 3
    assert len(full) == pytest.approx(share * steps, abs=1.5)
    at = [times[step] for step in full]
    assert sum(t > 700 for t in at) == pytest.approx(0.15 * steps, abs=1.1)
    assert sum(t < 200 for t in at) == pytest.approx(steps / 15, abs=1.1)


def test_with_other_steps_intervals_are_half_as_different() -> None:
    """Geometric means of their own and the average, for ten steps here."""
    options: Any = {"schedule": "interval", "interval": BY_LEVEL}
    times = falling(10)
    assert full_steps([0.1] * 10, 10, times=times, **options) == by_level(times)
    times = falling(1000)
    report = GraphReport(timestep="t")
    found = full_steps([0.1] * 1000, 1000, times=times, report=report, **options)
    at = [times[step] for step in found]
    (note,) = report.notes
    assert note.startswith("interval is for runs of 10 steps, and this one has 1000")
    for high, low, interval in ((1000, 700, 2), (700, 200, 5), (200, 0, 3)):
        count = sum(low <= time < high for time in at)
        expected = (high - low) / math.sqrt(interval * 1000 / 3)
        assert count == pytest.approx(expected, abs=1.1)


def test_a_run_that_begins_late_has_the_intervals_of_its_levels() -> None:
    assert by_level(falling(20, start=640.0)) == [0, 5, 10, 15, 18]


def test_intervals_of_other_timesteps_are_spread_evenly() -> None:
    report = GraphReport(timestep="t")
    full = by_level([t / 1000 for t in falling(30)], report)
    assert full == [0, 4, 7, 10, 14, 17, 20, 24, 27]
    (note,) = report.notes
    assert note == (
        "the run begins at timestep 1, and interval is for timesteps from 900 to 200: "
        "full steps are spread evenly"
    )


def test_intervals_of_a_graph_without_timestep_are_spread_evenly() -> None:
    """Its times are the numbers of the steps, which rise."""
    rising = [[0.0, 2], [0.5, 2], [1.0, 5]]
    options: Any = {"schedule": "interval", "interval": rising}
    report = GraphReport()
    full = full_steps([0.1] * 12, times=range(12), report=report, **options)
    assert (full, len(report.notes)) == ([0, 3, 6, 9], 1)


WRONG: Any = [0, 2.5, "4", [], [3, 4], [[900, 0]], [[900, 2.0]]]
DISORDERED = [[[1, 2], [3, 2], [2, 2]], [[900, 2], [900, 3]], [[math.nan, 2]]]


@pytest.mark.parametrize("interval", [*WRONG, *DISORDERED])
def test_a_wrong_interval_is_refused(interval: Any) -> None:
    with pytest.raises(OptionError, match=r"interval=.* is not allowed; allowed: a wh"):
        Options(schedule="interval", interval=interval)


def test_mask() -> None:
    mask = [0, 1, 5, 13]
    options = {"schedule": "mask", "full_steps": mask}
    assert full_steps([0.1] * 20, warmup=1, **options) == mask
    assert full_steps([0.1] * 20, warmup=3, **options) == [0, 1, 2, 5, 13]


def test_rcs_accumulates_and_starts_again_after_a_full_step() -> None:
    errors = [9.0, 9.0, 0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.0]
    options = {"schedule": "rcs", "threshold": 0.5, "warmup": 2}
    found = simulate(errors, **options)
    assert found == [(0, "warmup"), (1, "warmup"), (4, "threshold"), (7, "threshold")]


def test_rcs_threshold_itself_is_still_cached() -> None:
    options = {"schedule": "rcs", "threshold": 0.5, "warmup": 1}
    assert full_steps([0.0, 0.5, 0.0, 1e-6], **options) == [0, 3]


def test_rcs_is_full_at_nan() -> None:
    options = {"schedule": "rcs", "threshold": 1e9, "warmup": 1}
    assert full_steps([0.0, 0.1, math.nan, 0.1], **options) == [0, 2]


@pytest.mark.parametrize("schedule", ["rcs", "interval", "mask"])
def test_warmup_and_cap_and_final(schedule: str) -> None:
    found = simulate(
        [0.0] * 12,
        steps=12,
        schedule=schedule,
        threshold=1e9,
        interval=1000,
        full_steps=[0],
        warmup=3,
        max_cached_run=4,
        final_full=2,
    )
    assert found == [
        *((step, "warmup") for step in (0, 1, 2)),
        (7, "cap"),
        (10, "final"),
        (11, "final"),
    ]


def test_final_full_needs_the_number_of_steps() -> None:
    options = {"schedule": "interval", "interval": 100}
    assert full_steps([0.0] * 10, final_full=2, warmup=1, **options) == [0]
    assert full_steps([0.0] * 10, steps=10, final_full=0, warmup=1, **options) == [0]


def test_steps_past_the_end_are_ordinary() -> None:
    """A run longer than its num_steps is not all full."""
    options = {"schedule": "interval", "interval": 100}
    steps = full_steps([0.0] * 15, steps=10, final_full=2, warmup=1, **options)
    assert steps == [0, 8, 9]


def test_without_kept_history_a_step_is_full() -> None:
    settings = Options(schedule="interval", warmup=1, inner="eager")
    position = Position(
        step=20,
        own_step=20,
        last_full=None,
        recorded=0,
        since_full=0,
        error=0.0,
        steps=None,
        times=[1 - i / 50 for i in range(21)],
    )
    assert guarded_limit(settings.make_schedule(), position) == (
        FULL,
        "warmup",
    )


def test_a_cap_of_zero_caches_nothing() -> None:
    steps = full_steps([0.0] * 9, schedule="rcs", threshold=9.0, max_cached_run=0)
    assert steps == list(range(9))


@given(ERRORS, st.floats(0, 1), st.integers(1, 5), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_rcs_never_accumulates_more_than_the_threshold(
    errors: list[float], threshold: float, warmup: int, cap: int
) -> None:
    steps = full_steps(
        errors,
        schedule="rcs",
        threshold=threshold,
        warmup=warmup,
        max_cached_run=cap,
    )
    assert steps[:warmup] == list(range(min(warmup, len(errors))))
    for start, end in zip(steps, [*steps[1:], len(errors)], strict=True):
        run = errors[start + 1 : end]
        assert len(run) <= cap
        assert sum(run) <= threshold + 1e-9


@given(st.floats(0, 0.5), st.floats(0, 2), st.floats(0, 2), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_nfc_falls_with_the_threshold(
    error: float, threshold: float, other: float, steps: int
) -> None:
    low, high = sorted((threshold, other))
    counts = [
        len(full_steps([error] * steps, schedule="rcs", threshold=t, warmup=1))
        for t in (low, high)
    ]
    assert counts[0] >= counts[1]


@given(ERRORS, st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_interval_leaves_no_longer_gap(
    errors: list[float], interval: int, warmup: int
) -> None:
    steps = full_steps(
        errors,
        schedule="interval",
        interval=interval,
        warmup=warmup,
    )
    ends = [*steps[1:], len(errors)]
    assert all(e - s <= interval for s, e in zip(steps, ends, strict=True))
