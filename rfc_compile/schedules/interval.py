"""One full step in so many: FORA's and TaylorSeer's schedule, and what tuning finds.

    interval=4                      one step in four
    interval=[[971, 5], [611, 3]]   one step in five once the timestep has passed 971,
                                    in three once it has passed 611

A cached step takes its share, 1 / interval, of the way to the next full one, which is
where the shares since the last one are nearest to 1. So a list that holds what was
found for 50 steps gives just these full steps there, and with other numbers of steps of
the same sampler as many in proportion, at the same noise levels. A run that begins at
a timestep the list knows nothing of gets as many, spread evenly.

With ``warmup=1`` and a number N full steps are 0, N, 2N, ... (FORA); with ``warmup=2``
they are 0, 1, 1 + N, 1 + 2N, ... (TaylorSeer).
"""

from __future__ import annotations

import math
import statistics
from typing import Final

from rfc_compile.schedules.base import (
    CACHED,
    FULL,
    Intervals,
    Position,
    Schedule,
)

FARTHEST: Final = 1.5
"""A run of the list's sampler begins at a timestep that is at most so many times its
largest."""


class Interval(Schedule):
    """Full where the shares of the steps since the last full one make a whole."""

    name = "interval"
    static = True

    def decide(self, position: Position) -> tuple[float, str]:
        """Looks at timesteps only."""
        first = position.times[0]
        given = self.options.interval
        if isinstance(given, int):
            given = ((first, given),)
        elif not knows(given, first):
            self._note_unknown(given, first)
            return self._evenly(position, statistics.mean([n for _, n in given]))
        share, done = 0.0, 0.0
        for time in position.times[len(position.times) - position.since_full - 1 :]:
            share = 1 / _interval_at(given, time)
            done += share
        return (FULL if done + share / 2 >= 1 else CACHED), self.name

    def _evenly(self, position: Position, interval: float) -> tuple[float, str]:
        assert position.last_full is not None, "a branch without history is full"
        now, before = (
            math.floor(step / interval + 1e-9)
            for step in (position.step, position.last_full)
        )
        return (FULL if now != before else CACHED), self.name

    def _note_unknown(self, given: Intervals, first: float) -> None:
        if self.report is not None:
            self.report.note(
                f"the run begins at timestep {first:g}, and interval is for timesteps "
                f"from {given[0][0]:g} to {given[-1][0]:g}: full steps are spread "
                "evenly"
            )


def _interval_at(intervals: Intervals, time: float) -> int:
    """What holds at a timestep."""
    falls = intervals[0][0] >= intervals[-1][0]
    passed = [n for at, n in intervals if (at > time if falls else at < time)]
    return passed[-1] if passed else intervals[0][1]


def knows(intervals: Intervals, first: float) -> bool:
    """Whether a run that begins at this timestep is one that the list is for."""
    start, end = intervals[0][0], intervals[-1][0]
    if start >= end:
        return end <= first <= FARTHEST * start
    return first <= end
