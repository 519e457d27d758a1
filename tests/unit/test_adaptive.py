"""Adaptive samplers show in their timesteps; those of diffusers are none."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
from diffusers import SchedulerMixin

from rfc_compile.runtime.run_notes import is_adaptive

STAGES = 0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1
"""Of a step of Dormand and Prince."""


def every_scheduler() -> list[type[Any]]:
    found = [getattr(diffusers, name) for name in dir(diffusers)]
    return [
        kind
        for kind in found
        if inspect.isclass(kind)
        and issubclass(kind, SchedulerMixin)
        and "set_timesteps" in dir(kind)
        and not kind.__name__.startswith("Flax")
    ]


def timesteps_of(kind: type[Any], steps: int) -> list[float] | None:
    """Those of a run; None where the scheduler needs more than a number of steps."""
    try:
        scheduler = kind()
        scheduler.set_timesteps(steps)
        return [float(t) for t in scheduler.timesteps]
    except (TypeError, ValueError, ImportError, KeyError):
        return None


@pytest.mark.parametrize("steps", [8, 20, 28, 50])
def test_no_scheduler_of_diffusers_is_adaptive(steps: int) -> None:
    runs = {kind.__name__: timesteps_of(kind, steps) for kind in every_scheduler()}
    known = {name: times for name, times in runs.items() if times is not None}
    assert len(known) > 20
    assert [name for name, times in known.items() if is_adaptive(times)] == []


@pytest.mark.parametrize("sizes", [[0.05, 0.1, 0.1], [0.02, 0.1, 0.3, 0.2]])
def test_a_run_of_an_adaptive_solver(sizes: list[float]) -> None:
    times, at = [0.0], 0.0
    for size in sizes:
        times += [at + stage * size for stage in STAGES[1:]]
        at += size
    assert is_adaptive(times)
    assert not is_adaptive(times[:4])
