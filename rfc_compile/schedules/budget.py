"""A wanted number of full steps, or speed-up: the threshold is steered to meet it.

    e(s) = a(s) k                a step's error, k steps after the last full one
    full  <=>  sum of e since the last full step > tau

within the least and the most steps that a cached run has (``FLOOR``, ``SLACK``).

At every step tau is chosen such that the rest of the run, as it is predicted, has just
as many full steps as are left. The rates a(s) are those of the trajectory before that
began alike, times how much larger the errors of this one are so far; without one, the
rate of this trajectory's last steps. So another prompt meets the budget too, and with
the same history of calls the decisions are the same: nothing is timed.

While the number of steps is not known, the threshold is that of the options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfc_compile.schedules.base import (
    CACHED,
    DEFAULT_CACHED_RUN,
    FULL,
    Position,
    Schedule,
)

if TYPE_CHECKING:
    from rfc_compile.config import Options
    from rfc_compile.observe import GraphReport
    from rfc_compile.trajectories import Decision

FLOOR, SLACK = 1.15, 1.3
"""Without ``max_cached_run``, a cached run is at least and at most so many times as
long as if the full steps that are left were spread evenly, so runs shorten towards the
end. Errors alone would ask for full steps close together, between which a prediction
reaches less far: its errors grow sooner and ask for more of them. Spread by these two,
images of 14 and 18 full steps are better by 0.9 and 1.4 dB (`python -m benchmarks
matrix`).
"""

RECENT = 4
"""Steps whose rates stand for those to come where no trajectory was seen before."""

TRIALS = 24
"""Thresholds that are tried at most, to find one with the wanted full steps."""


@dataclass(frozen=True)
class Outlook:
    """The steps from the next one on, as predicted, without the ``final_full`` last.

    Attributes:
        rates: for each step, its error if the step before it is full.
        since_full: cached steps since the last full one.
        error: sum of their errors.
        cap: most cached steps in a row, None for no limit.
        last: error of the step before, where a step is judged by that (``lagged``).

    """

    rates: Sequence[float]
    since_full: int
    error: float
    cap: int | None = None
    last: float | None = None

    def full_steps(self, threshold: float) -> int:
        """How many of the steps are full with this threshold."""
        count, since, error, last = 0, self.since_full, self.error, self.last
        for rate in self.rates:
            own = rate * (since + 1)
            beyond = error + (own if last is None else last) > threshold
            if beyond or (self.cap is not None and since >= self.cap):
                count, since, error, own = count + 1, 0, 0.0, 0.0
            else:
                since, error = since + 1, error + own
            last = None if last is None else own
        return count

    def threshold(self, full_steps: int) -> float:
        """One that gives so many full steps, or the nearest to it.

        ``FULL`` or ``CACHED`` where only these do.
        """
        if full_steps >= len(self.rates):
            return FULL
        if full_steps <= self.full_steps(CACHED):
            return CACHED
        longest = self.since_full + len(self.rates)
        low, high = 0.0, self.error + 2 * sum(self.rates) * longest
        # a run of length n at a rate a accumulates a n^2 / 2
        tried = sum(map(math.sqrt, self.rates)) ** 2 / (2 * full_steps**2)
        for _ in range(TRIALS):
            count = self.full_steps(tried)
            if count == full_steps:
                return tried
            if count < full_steps:
                high, tried = tried, (low + tried) / 2
            else:
                low, tried = tried, min(2 * tried, (tried + high) / 2)
        return high


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

    def __init__(self, options: Options, report: GraphReport | None = None) -> None:
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
        own = _of_branch(position.decisions, position.branch)
        earlier = _of_branch(position.earlier, position.branch)
        steps = len(earlier) or position.total
        if steps is None or len(own) >= steps:
            return self._without_length(position)
        target = self._target(steps, position.total or steps)
        used, final = sum(decision.full for decision in own), self.options.final_full
        left, remaining = target - used - final, steps - final - len(own)
        floor, cap = self._bounds(position.since_full, left, remaining)
        if left > 0 and cap is not None and position.since_full >= cap:
            return FULL, "cap"
        if position.since_full < floor:
            return CACHED, self.reason
        rates = _rates(own, earlier, self.options.warmup, steps)
        outlook = Outlook(
            rates=rates[len(own) : steps - final] or [1.0] * remaining,
            since_full=position.since_full,
            error=position.error if rates else _sum_to(position.since_full),
            cap=cap,
            last=self._last_error(own) if rates else None,
        )
        fewest = used + final + outlook.full_steps(CACHED)
        if fewest > target and not self._missed:
            self._missed = True
            self._warn(self._why_not(fewest, steps))
        threshold = outlook.threshold(left)
        if rates:
            return threshold, self.reason
        due = _sum_to(position.since_full + 1) > threshold
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

    def _bounds(
        self, since_full: int, left: int, remaining: int
    ) -> tuple[int, int | None]:
        """Fewest and most cached steps in a row: as told, or near an even spread."""
        if self.options.max_cached_run != "auto":
            return 0, self.options.longest_run
        if left <= 0:
            return 0, None
        even = (since_full + remaining - left) / (left + 1)
        return math.ceil(FLOOR * even), math.ceil(SLACK * even)

    def _last_error(self, own: Sequence[Decision]) -> float | None:
        if self.options.decision == "sync":
            return None
        last = own[-1]
        return 0.0 if last.full or last.statistic is None else last.statistic

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


def _of_branch(decisions: Sequence[Decision], branch: int) -> list[Decision]:
    return [decision for decision in decisions if decision.branch == branch]


def _rates(
    own: Sequence[Decision], earlier: Sequence[Decision], warmup: int, steps: int
) -> list[float]:
    """For each of the steps, its error a step after a full one; empty if unknown."""
    seen = _measured(own, warmup)
    if not earlier:
        recent = [error / k for _, k, error in seen[-RECENT:]]
        return [sum(recent) / len(recent)] * steps if recent else []
    known = {i: error / k for i, k, error in _measured(earlier, warmup)}
    rates, rate = [], next(iter(known.values()), 0.0)
    for i in range(steps):
        rate = known.get(i, rate)
        rates.append(rate)
    expected = sum(rates[i] * k for i, k, _ in seen)
    scale = sum(error for *_, error in seen) / expected if expected > 0 else 1.0
    return [rate * scale for rate in rates]


def _measured(
    decisions: Sequence[Decision], warmup: int
) -> list[tuple[int, int, float]]:
    """Of the steps after warm-up: index, distance from the last full step, error."""
    measured, distance = [], 1
    for i, decision in enumerate(decisions):
        if i >= warmup and decision.statistic is not None:
            measured.append((i, distance, decision.statistic))
        distance = 1 if decision.full else distance + 1
    return measured


def _sum_to(number: int) -> float:
    """1 + 2 + ... + number: the error of a cached run at a rate of 1."""
    return number * (number + 1) / 2
