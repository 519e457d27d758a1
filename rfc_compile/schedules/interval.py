"""One full step in so many: FORA's and TaylorSeer's schedule, and what tuning finds.

    interval=4                      one step in four
    interval=[[971, 5], [611, 3]]   one step in five once the timestep has passed 971,
                                    in three once it has passed 611

With a list every step takes its share, 1 / interval, of the way to the next full one. A
list that tuning found for 50 steps gives just these full steps there. With another
number of steps of the same sampler, what is best at a noise level is so by half: an
interval is then the geometric mean of the list's own and its average, and full steps
grow with the root of the steps, as by default. A run that begins at a timestep that the
list knows nothing of has the list's average all along.

With ``warmup=1`` and a number N full steps are 0, N, 2N, ... (FORA); with ``warmup=2``
they are 0, 1, 1 + N, 1 + 2N, ... (TaylorSeer).
"""

from __future__ import annotations

import math
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
    """Full at a fixed distance, or where the shares of the steps make a whole."""

    name = "interval"
    static = True

    def decide(self, position: Position) -> tuple[float, str]:
        """Looks at timesteps only."""
        given = self.options.interval
        assert given is not None, "this schedule has one"
        if isinstance(given, int):
            due = position.since_full >= given - 1
            return (FULL if due else CACHED), self.name
        assert position.last_full is not None, "a branch without history is full"
        shares = self._shares(given, position)[1:]
        now, before = (
            math.floor(sum(shares[:step]) + 1e-9)
            for step in (position.step, position.last_full)
        )
        return (FULL if now != before else CACHED), self.name

    def _shares(self, given: Intervals, position: Position) -> list[float]:
        """Of every step so far, the first among them."""
        found_for, steps = sum(n for _, n in given), position.steps
        if self.untimed or not knows(given, position.times[0]):
            self._note(
                f"the run begins at timestep {position.times[0]:g}, and interval is "
                f"for timesteps from {given[0][0]:g} to {given[-1][0]:g}: full steps "
                "are spread evenly"
            )
            return [len(given) / found_for] * len(position.times)
        own = [_interval_at(given, time) for time in position.times]
        if steps is None or steps == found_for:
            return [1 / n for n in own]
        self._note(
            f"interval is for runs of {found_for} steps, and this one has {steps}: its "
            "intervals are half as different"
        )
        return [math.sqrt(len(given) / (n * steps)) for n in own]

    def _note(self, text: str) -> None:
        if self.report is not None:
            self.report.note(text)


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
