"""Relational cache scheduling with its full steps spread evenly: the default.

    sum of e since the last full step > threshold      asks for a full step (rcs)

tells how many full steps the rest of a run needs, as its errors are predicted
(`outlook.py`). Where they are is not left to the errors alone: a cached run is nearly
as long as if those full steps were spread evenly (``Forecast.evenly``). It ends sooner
if its errors exceed ``BREAK`` thresholds, so what cannot be foreseen is never cached
over. Where nobody tells the number of steps, this is ``rcs``: what was learnt from
earlier runs is left aside, so an image never depends on those drawn before it.

What it gives in place of ``rcs`` is measured by `python -m benchmarks presets`.
"""

from __future__ import annotations

from rfc_compile.schedules.base import FULL, Position, Schedule
from rfc_compile.schedules.forecast import BranchHistory

BREAK = 2.0
"""A cached run's errors are at most this many times the threshold."""


class Spread(Schedule):
    """The threshold says how many steps are full, an even spread which ones."""

    name = "spread"
    static = False
    reason = "threshold"

    def limit(self, position: Position) -> float:
        """What is left of the threshold, or twice of it, or nothing."""
        return self.decide(position)[0]

    def decide(self, position: Position) -> tuple[float, str]:
        """The limit, and whether the threshold or the spread asks for a full step."""
        threshold = self.options.threshold
        assert threshold is not None, "options fill it in"
        if position.told is None:
            return threshold - position.error, self.reason
        course = BranchHistory.alone(position)
        if course.steps is not None:
            outlook = course.outlook(position, self.options)
            if outlook.measured and outlook.rates:
                full = outlook.expected(threshold)
                least, most = outlook.evenly(full)
                if position.since_full >= most:
                    return FULL, self.name
                if position.since_full < least:
                    threshold *= BREAK
        return threshold - position.error, self.reason
