"""A full step, then N - 1 cached ones: FORA's and TaylorSeer's schedule.

With ``warmup=1`` full steps are 0, N, 2N, ... (FORA); with ``warmup=2`` they are
0, 1, 1 + N, 1 + 2N, ... (TaylorSeer).
"""

from __future__ import annotations

from rfc_compile.schedules.base import CACHED, FULL, Position, Schedule


class Interval(Schedule):
    """Full iff ``interval - 1`` steps were cached since the last full one."""

    name = "interval"
    static = True

    def decide(self, position: Position) -> tuple[float, str]:
        """Counts cached steps only."""
        due = position.since_full >= self.options.interval - 1
        return FULL if due else CACHED, "interval"
