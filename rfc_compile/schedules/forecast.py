"""The rest of a run, as it is predicted: how large errors get, who needs full steps.

    e(s) = a(s) k                a step's error, k steps after the last full one

The rates a(s) have the form of those of the trajectory before that began alike; without
one, they rise towards the end as those of denoising do (``_rising``). Either is taken
times how much larger the errors of this trajectory are so far, so another prompt has
rates of its own. With the same history of calls they are the same: nothing is timed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rfc_compile.schedules.base import CACHED, FULL, Position, ScheduleOptions
from rfc_compile.schedules.decision import NOTICEABLE, Decision

FLOOR, SLACK = 1.15, 1.3
"""A cached run has at least and at most so many times the length that it had if the
full steps that are left were spread evenly, so runs shorten towards the end. Errors
alone would ask for full steps close together, between which a prediction reaches less
far: its errors grow sooner and ask for more of them.
"""

TRIALS = 24
"""Thresholds that are tried at most, to find one with the wanted full steps."""


@dataclass(frozen=True)
class Forecast:
    """The steps of a branch from the next one on, but for the ``final_full`` last.

    Attributes:
        rates: for each step, its error if the step before it is full.
        since_full: cached steps since the last full one.
        error: sum of their errors.
        measured: whether this trajectory has had errors; else only the form of the
            rates is known.
        last: error of the step before, where a step is judged by that (``lagged``).
        cap: most cached steps in a row, None for no limit.

    """

    rates: Sequence[float]
    since_full: int
    error: float
    measured: bool = True
    last: float | None = None
    cap: int | None = None

    def evenly(self, full_steps: float) -> tuple[int, int]:
        """Least and most cached steps of this run, that many full steps being left."""
        cached = max(self.since_full + len(self.rates) - full_steps, 0)
        even = cached / (full_steps + 1)
        return math.ceil(FLOOR * even), math.ceil(SLACK * even)

    def expected(self, threshold: float) -> float:
        """Full steps that a threshold asks for, were every cached run to reach it.

        A step is a share of a run, whose length its own rate gives, so the number has a
        fraction. Among equal rates it is what ``full_steps`` counts.
        """
        longest = math.inf if self.cap is None else self.cap

        def share(rate: float) -> float:
            # a run of length n at a rate a accumulates a n (n + 1) / 2
            n = (math.sqrt(1 + 8 * threshold / rate) - 1) / 2 if rate > 0 else math.inf
            return 1 / (1 + min(n, longest))

        return sum(map(share, self.rates)) + self.since_full * share(self.rates[0])

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


@dataclass(frozen=True)
class BranchHistory:
    """What one CFG branch has done, in this trajectory and the one that began alike.

    Attributes:
        own: decisions so far.
        earlier: of the trajectory before; empty if there was none.
        total: steps that it will have; None while that is not known.

    """

    own: Sequence[Decision]
    earlier: Sequence[Decision]
    total: int | None

    @classmethod
    def at(cls, position: Position) -> BranchHistory:
        """Of the branch of a position, with what was learnt before."""
        earlier = _of_branch(position.earlier, position.branch)
        own = _of_branch(position.decisions, position.branch)
        return cls(own, earlier, len(earlier) or position.total)

    @classmethod
    def alone(cls, position: Position) -> BranchHistory:
        """Of the branch of a position, as if no trajectory had been before."""
        own = _of_branch(position.decisions, position.branch)
        return cls(own, (), position.told)

    @property
    def steps(self) -> int | None:
        """Its total, None where it goes on for longer."""
        known = self.total is not None and len(self.own) < self.total
        return self.total if known else None

    def final_full(self, position: Position, options: ScheduleOptions) -> int:
        """Steps at the end that are full whatever their errors are.

        Those asked for, or those that looked like another image's in the trajectory
        before (``Trajectory.whole``); where nobody tells the run, the last one also if
        it was not far from it.
        """
        refused = 0
        for decision in reversed(self.earlier):
            far = decision.change is not None and decision.change > NOTICEABLE
            near = far and refused == 0 and position.told is None
            if decision.reason != "discontinuity" and not near:
                break
            refused += 1
        return max(options.final_full, refused)

    def outlook(self, position: Position, options: ScheduleOptions) -> Forecast:
        """The steps from the next one on; the number of steps is known."""
        assert self.steps is not None
        seen = _measured(self.own, options.warmup)
        form = self._form(options.warmup)
        expected = sum(form[step] * distance for step, distance, _ in seen)
        scale = sum(e for *_, e in seen) / expected if expected > 0 else 1.0
        rates = [rate * scale for rate in form]
        return Forecast(
            rates[len(self.own) : self.steps - self.final_full(position, options)],
            position.since_full,
            position.error,
            measured=bool(seen or self.earlier),
            last=self._last_error() if options.decision == "lagged" and seen else None,
            cap=options.longest_run,
        )

    def _form(self, warmup: int) -> Sequence[float]:
        """A rate for every step, up to a factor."""
        assert self.steps is not None
        known = {step: e / k for step, k, e in _measured(self.earlier, warmup)}
        if not known:
            return _rising(self.steps)
        form, rate = [], next(iter(known.values()))
        for step in range(self.steps):
            rate = known.get(step, rate)
            form.append(rate)
        return form

    def _last_error(self) -> float:
        last = self.own[-1]
        return 0.0 if last.full or last.statistic is None else last.statistic


def _of_branch(decisions: Sequence[Decision], branch: int) -> list[Decision]:
    return [decision for decision in decisions if decision.branch == branch]


@functools.lru_cache
def _rising(steps: int) -> tuple[float, ...]:
    """Rates of a run as most are: even for half of it, five times as large at its end.

    Fitted to those of the bundled model in four samplers; MagCache reports the larger
    changes of the last steps for other models.
    """
    return tuple(1 + 4 * (step / steps) ** 4 for step in range(1, steps + 1))


def _measured(
    decisions: Sequence[Decision], warmup: int
) -> list[tuple[int, int, float]]:
    """Of the steps after warm-up: index, distance from the last full step, error."""
    measured, distance = [], 1
    for step, decision in enumerate(decisions):
        error = decision.statistic
        if step >= warmup and error is not None and math.isfinite(error):
            measured.append((step, distance, error))
        distance = 1 if decision.full else distance + 1
    return measured
