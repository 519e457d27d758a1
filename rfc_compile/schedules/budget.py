"""A wanted number of full steps, or speed-up: the threshold is steered to meet it.

    full  <=>  sum of e since the last full step > tau

within the least and the most steps that a cached run has (``Forecast.evenly``).

At every step tau is chosen such that the rest of the run, as it is predicted
(`outlook.py`), has just as many full steps as are left. So another prompt meets the
budget too.

While the number of steps is not known, the threshold is that of the options.
"""

from __future__ import annotations

from dataclasses import replace

from rfc_compile.graph_report import GraphReport
from rfc_compile.schedules.base import (
    CACHED,
    DEFAULT_CACHED_RUN,
    FULL,
    Position,
    Schedule,
    ScheduleOptions,
)
from rfc_compile.schedules.forecast import BranchHistory, Forecast


class Budget(Schedule):
    """Meets ``target_nfc`` or ``target_speedup``, and keeps to ``max_error``.

    Full steps are counted for every CFG branch by itself. A branch that takes part in
    some steps only has its share of ``target_nfc``. Of ``target_speedup`` the cost of a
    cached step is that of the FLOPs outside of regions: what it takes to read the state
    is not counted.
    """

    name = "budget"
    static = False
    reason = "budget"

    def __init__(
        self, options: ScheduleOptions, report: GraphReport | None = None
    ) -> None:
        super().__init__(options, report)
        self._outside = 0.0 if report is None else 1 - report.coverage
        speedup = options.target_speedup
        self._missed = False
        self._wanted = f"target_nfc={options.target_nfc}"
        if speedup is not None:
            self._wanted = f"target_speedup={speedup:g}"
            if speedup * self._outside >= 1:
                self._warn(
                    f"{self._wanted} cannot be met: {self._outside:.1%} of the FLOPs "
                    f"are outside of regions, so {1 / self._outside:.3g} is the most"
                )

    def limit(self, position: Position) -> float:
        """What is left of the threshold."""
        return self.decide(position)[0]

    def decide(self, position: Position) -> tuple[float, str]:
        """The limit, and which rule it comes from."""
        threshold, reason = CACHED, "max_error"
        if self.options.has_target:
            threshold, reason = self._threshold(position)
        bound = self.options.max_error
        if bound is not None and bound < threshold:
            threshold, reason = bound, "max_error"
        return threshold - position.error, reason

    def _threshold(self, position: Position) -> tuple[float, str]:
        course = BranchHistory.at(position)
        if course.steps is None:
            return self._without_length(position)
        final = course.final_full(position, self.options)
        if len(course.own) >= course.steps - final:
            return FULL, self.reason
        outlook = course.outlook(position, self.options)
        target = self._target(course.steps, position.total or course.steps)
        done = sum(decision.full for decision in course.own) + final
        left = target - done
        floor, cap = self._bounds(outlook, left)
        if left > 0 and cap is not None and position.since_full >= cap:
            return FULL, "cap"
        if position.since_full < floor:
            return CACHED, self.reason
        outlook = replace(outlook, cap=cap)
        fewest = done + outlook.full_steps(CACHED)
        if fewest > target and not self._missed:
            self._missed = True
            self._warn(self._why_not(fewest, course.steps))
        threshold = outlook.threshold(left)
        if outlook.measured:
            return threshold, self.reason
        due = outlook.rates[0] * (position.since_full + 1) > threshold
        return FULL if due else CACHED, self.reason

    def _target(self, steps: int, total: int) -> int:
        """Full steps of a branch that takes part in so many steps of ``total``."""
        speedup, nfc = self.options.target_speedup, self.options.target_nfc
        if speedup is None:
            assert nfc is not None
            wanted = nfc * steps / total
        else:
            share = (1 / speedup - self._outside) / (1 - self._outside)
            wanted = steps * max(share, 0.0)
        guarded = self.options.warmup + self.options.final_full
        fewest = 1 if steps == total else guarded
        return min(max(fewest, round(wanted)), steps)

    def _bounds(self, outlook: Forecast, left: int) -> tuple[int, int | None]:
        """Fewest and most cached steps in a row: as told, or near an even spread."""
        if self.options.max_cached_run != "auto":
            return 0, self.options.longest_run
        return (0, None) if left <= 0 else outlook.evenly(left)

    def _without_length(self, position: Position) -> tuple[float, str]:
        threshold = self.options.threshold
        assert threshold is not None, "options fill it in"
        if self.report is not None:
            self.report.note(
                f"{self._wanted}: the number of steps is not known before a run has "
                f"ended; until then threshold={threshold:g} decides. To tell it: "
                "rfc_compile.trajectory(name, num_steps=...)"
            )
        told = self.options.max_cached_run != "auto"
        if not told and position.since_full >= DEFAULT_CACHED_RUN:
            return FULL, "cap"
        return threshold, "threshold"

    def _why_not(self, fewest: int, steps: int) -> str:
        names = ("warmup", "max_cached_run", "final_full", "max_error")
        values = {name: getattr(self.options, name) for name in names}
        given = ", ".join(f"{n}={x}" for n, x in values.items() if x is not None)
        return (
            f"{self._wanted} cannot be met: with {given} at least {fewest} of {steps} "
            "steps are full"
        )

    def _warn(self, text: str) -> None:
        if self.report is not None:
            self.report.warn(text)
