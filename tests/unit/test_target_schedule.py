"""Evenly spread full steps: as many as are wanted, at even distances."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import STEPS, full_steps, longest_run, simulate

from rfc_compile import Options
from rfc_compile.config.presets import PRESETS


@given(st.integers(1, 120), st.data())
@settings(max_examples=200, deadline=None)
def test_a_number_is_met_exactly_where_the_steps_are_known(
    steps: int, draw: st.DataObject
) -> None:
    wanted = draw.draw(st.integers(1, steps))
    full = full_steps([0.1] * steps, steps, target_nfc=wanted)
    assert len(full) == wanted
    gaps = [b - a for a, b in pairwise([*full, steps])]
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(20, 60), st.integers(2, 5), st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_steps_that_are_full_besides_are_taken_from_the_number_wanted(
    steps: int, forced: int, more: int
) -> None:
    """What is left is spread evenly over the rest of the run."""
    wanted = forced + more
    full = full_steps([0.1] * steps, steps, target_nfc=wanted, warmup=forced)
    assert len(full) == wanted
    gaps = [b - a for a, b in pairwise([*full[forced - 1 :], steps])]
    assert max(gaps) - min(gaps) <= 2


def test_more_full_steps_than_steps_are_all() -> None:
    assert full_steps([0.1] * 10, 10, target_nfc=30) == list(range(10))


@given(
    st.integers(2, 60),
    st.integers(1, 60),
    st.floats(0, 3),
    st.sampled_from([1.0, 1000.0]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_untold_it_is_at_most_the_number_wanted(
    steps: int, wanted: int, shift: float, scale: float, rising: bool
) -> None:
    """Spread over the timesteps, which a sampler may have shifted."""
    rest = [1 - i / steps for i in range(steps)]
    shifted = [(1 + shift) * t / (1 + shift * t) for t in rest]
    times = [scale * (1 - t if rising else t) for t in shifted]
    full = full_steps([0.1] * steps, times=times, target_nfc=wanted)
    assert 1 <= len(full) <= wanted


def test_untold_and_even_timesteps_have_the_number_wanted() -> None:
    assert len(full_steps([0.1] * STEPS, target_nfc=14)) == 14


def test_timesteps_beyond_that_of_the_image_go_on_as_before() -> None:
    """EDM's logarithm of sigma: from 1.1 over 0 down to -1.5."""
    report = Coverage(1.0, [])
    times = [1.1 - 2.6 * i / 27 for i in range(28)]
    full = full_steps([0.1] * 28, times=times, target_nfc=5, report=report)
    gaps = [b - a for a, b in pairwise([*full, 28])]
    assert max(gaps) - min(gaps) <= 1
    assert "exceeded" in report.warnings[0]


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 3), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_what_is_asked_of_all_schedules_comes_first(
    nfc: int, warmup: int, final: int, cap: int
) -> None:
    options = {"warmup": warmup, "final_full": final, "max_cached_run": cap}
    wanted = nfc + warmup + final
    full = full_steps([0.1] * STEPS, STEPS, target_nfc=wanted, **options)
    assert full[:warmup] == list(range(warmup))
    assert full[len(full) - final :] == list(range(STEPS - final, STEPS))
    assert longest_run(full, STEPS) <= cap


@given(st.sampled_from([1.25, 1.5, 2, 3, 5]), st.sampled_from([None, 40]))
def test_a_speedup_needs_no_length(speedup: float, steps: int | None) -> None:
    """One step in so many is full; nothing is outside of regions here."""
    full = full_steps([0.1] * 60, steps, target_speedup=speedup)
    assert len(full) == pytest.approx(60 / speedup, abs=1)
    gaps = {b - a for a, b in pairwise(full)}
    assert max(gaps) - min(gaps) <= 1


@dataclass
class Coverage:
    """The part of a report that the schedule reads."""

    coverage: float
    warnings: list[str]
    timestep: str | None = "t"

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize(
    ("speedup", "coverage", "share"),
    [(2, 0.8, 3 / 8), (3, 0.8, 1 / 6), (4, 0.9, 1 / 6)],
)
def test_a_speedup_counts_what_is_computed_at_every_step(
    speedup: float, coverage: float, share: float
) -> None:
    report = Coverage(coverage, [])
    full = full_steps([0.1] * 80, target_speedup=speedup, report=report)
    assert len(full) == pytest.approx(80 * share, abs=1)
    assert report.warnings == []


@pytest.mark.parametrize(
    ("speedup", "coverage", "reached"),
    [(6, 0.8, 3.75), (4, 0.8, 3.33), (2.5, 0.6, 1.92)],
)
def test_a_speedup_with_too_few_full_steps_is_told(
    speedup: float, coverage: float, reached: float
) -> None:
    """Two of 28 full steps are no image: a model compiled block by block had those."""
    report = Coverage(coverage, [])
    full = full_steps([0.1] * STEPS, target_speedup=speedup, report=report)
    assert len(full) == pytest.approx(STEPS / speedup / 2, abs=1)
    (text,) = report.warnings
    assert f"target_speedup={speedup:g} is not reached" in text
    assert text.endswith(f"a speed-up of {reached:g}")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_how_many_of_50(preset: str) -> None:
    wanted = Options(preset=preset).even_steps
    known = full_steps([0.1] * STEPS, STEPS, schedule="even", preset=preset)
    unknown = full_steps([0.1] * STEPS, schedule="even", preset=preset)
    assert len(known) == len(unknown) == wanted
    more = full_steps([0.1] * 200, 200, schedule="even", preset=preset)
    assert len(more) == 2 * wanted  # as the root of the number of steps


@given(
    st.integers(2, 120),
    st.data(),
    st.floats(0.3, 8),
    st.sampled_from([1.0, 1000.0]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_by_noise_level_a_number_is_met_exactly(
    steps: int, draw: st.DataObject, shift: float, scale: float, rising: bool
) -> None:
    """Of any flow: the same full steps on any scale, either way round."""
    wanted = draw.draw(st.integers(1, steps))
    rest = [1 - i / steps for i in range(steps)]
    noise = [shift * t / (1 + (shift - 1) * t) for t in rest]
    full = full_steps(
        [0.1] * steps,
        steps,
        times=[scale * (1 - u if rising else u) for u in noise],
        noise_level=lambda t: 1 - t / scale if rising else t / scale,
        target_nfc=wanted,
    )
    assert len(full) == wanted
    plain = full_steps(
        [0.1] * steps, steps, times=noise, noise_level=lambda t: t, target_nfc=wanted
    )
    assert sum(abs(a - b) for a, b in zip(full, plain, strict=True)) <= 2  # rounding


@given(st.integers(3, 20))
@settings(max_examples=50, deadline=None)
def test_by_noise_level_they_lie_where_outputs_bend(wanted: int) -> None:
    """At about the same noise levels, however the sampler shifts its timesteps."""
    found = []
    for shift in (1.0, 3.0, 7.0):
        rest = [1 - i / 200 for i in range(200)]
        noise = [shift * t / (1 + (shift - 1) * t) for t in rest]
        full = full_steps(
            [0.1] * 200, 200, times=noise, noise_level=lambda t: t, target_nfc=wanted
        )
        found.append([noise[step] for step in full])
    for levels in zip(*found, strict=True):
        assert max(levels) - min(levels) < 0.06


@pytest.mark.parametrize("steps", [None, 50])
def test_by_noise_level_the_number_of_steps_need_not_be_known(
    steps: int | None,
) -> None:
    times = [1 - i / 50 for i in range(50)]
    given_: dict[str, Any] = {"times": times, "noise_level": lambda t: t}
    found = full_steps([0.1] * 50, steps, target_nfc=12, **given_)
    assert len(found) == 12


def test_the_reason_is_its_name() -> None:
    made = simulate([0.1] * STEPS, STEPS, target_nfc=5)
    assert [reason for _, reason in made] == ["warmup"] + ["even"] * 4
    given_: dict[str, Any] = {"times": [1 - i / STEPS for i in range(STEPS)]}
    made = simulate(
        [0.1] * STEPS, target_nfc=5, noise_level=lambda time: time, **given_
    )
    assert [reason for _, reason in made] == ["warmup"] + ["noise_level"] * 4
