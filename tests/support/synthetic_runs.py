"""Runs of a schedule on errors, timesteps and curvatures that are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from rfc_compile import Options
from rfc_compile.schedules.base import (
    CACHED,
    FULL,
    Curvature,
    Position,
    Process,
    guarded_limit,
)

STEPS = 50
ERRORS = st.lists(st.floats(0, 0.5), min_size=1, max_size=40)
WEIGHTS = st.lists(st.floats(1e-6, 1e-2), min_size=STEPS, max_size=STEPS)

Made = tuple[int, str]


def simulate(
    errors: Sequence[float],
    steps: int | None = None,
    *,
    times: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    own_weight: float = 0.0,
    unpaid: bool = False,
    noise_level: Callable[[float], float] | None = None,
    report: Any = None,
    **options: Any,
) -> list[Made]:
    """The full steps of a run and why each was full.

    ``errors`` are the signals of the steps, ``times`` their timesteps (falling from 1
    to 0 if not given). A full step measures a curvature of the weight that ``weights``
    has for it and of ``own_weight``, as soon as predictions have their nodes.
    ``unpaid`` is that of every curvature. ``noise_level`` is that of a
    timestep, where the sampler tells it.
    """
    chosen = Options(inner="eager", **options)
    schedule = chosen.make_schedule(report)
    process = None if noise_level is None else Process(noise_level, lambda a, b: (1, 1))
    known = (
        [1 - i / len(errors) for i in range(len(errors))] if times is None else times
    )
    full: list[Made] = []
    since, accumulated, curvature = 0, 0.0, None
    for step, error in enumerate(errors):
        last = [made for made, _ in reversed(full)]
        kept = last[: chosen.nodes]
        position = Position(
            step=step,
            own_step=step,
            last_full=kept[0] if kept else None,
            recorded=len(kept),
            since_full=since,
            error=accumulated,
            steps=steps,
            times=known[: step + 1],
            last_interval=kept[0] - kept[1] if len(kept) > 1 else None,
            curvature=curvature,
            computed=len(full),
            process=process,
        )
        limit, reason = guarded_limit(schedule, position)
        if schedule.static:
            assert limit in (FULL, CACHED)
        if error <= limit:
            since, accumulated = since + 1, accumulated + error
            continue
        full.append((step, reason))
        since, accumulated = 0, 0.0
        if weights is not None and len(full) >= chosen.nodes:
            nodes = tuple(known[made] for made in [step, *last][: chosen.nodes])
            curvature = Curvature(weights[step], own_weight, nodes, unpaid)
    return full


def full_steps(errors: Sequence[float], *given: Any, **options: Any) -> list[int]:
    """Their indices."""
    return [step for step, _ in simulate(errors, *given, **options)]


def longest_run(full: Sequence[int], steps: int) -> int:
    """The most cached steps in a row."""
    return max(b - a - 1 for a, b in pairwise([*full, steps]))
