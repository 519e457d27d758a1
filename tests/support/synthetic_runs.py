"""Runs of a schedule on errors that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from rfc_compile import Options
from rfc_compile.schedules.base import Position, guarded_limit
from rfc_compile.schedules.decision import Decision

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
            step, step, since, accumulated, total, 0, tuple(decisions), earlier, total
        )
        limit, reason = guarded_limit(schedule, chosen, position)
        judged = last if chosen.decision == "lagged" else error
        full = not judged <= limit  # NaN is full
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
