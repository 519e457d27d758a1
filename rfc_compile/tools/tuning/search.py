"""The search for full steps, on the final images.

    cost     what a full and a cached step take, where a speed-up is wanted
    climb    for every number of full steps that matters: from evenly spread ones, or
             from those that error control takes, whichever is better, as long as
             moving some of them makes the images better
    finals   the best of all: other seeds, and times in turn with the uncached model

Nothing in it is random but the seeds that are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from rfc_compile.config.options import Options
from rfc_compile.tools.measure.pareto import front
from rfc_compile.tools.tuning.climb import Mask, climb, even_mask
from rfc_compile.tools.tuning.clock import TimeUpError
from rfc_compile.tools.tuning.finals import Candidate, Finalist, Finals
from rfc_compile.tools.tuning.goal import Goal, speedup
from rfc_compile.tools.tuning.progress import SearchProgress
from rfc_compile.tools.tuning.space import default_setting
from rfc_compile.tools.tuning.timing import StepCost, step_cost
from rfc_compile.tools.tuning.trials import SHARE, Trials, Tried

SHARES: Final = (0.16, 0.22, 0.28, 0.36, 0.5)
"""Full steps to search at, as shares of all, where no cost is given."""

MARGIN: Final = 1.03
"""The speed-up that is searched for, over the one that is wanted: times vary."""

LEAST: Final = 3
"""Full steps that a searched schedule has at least."""

MOST_FINALS: Final = 6

ROUNDS: Final = 2
"""Times that a search comes nearer to its goal."""

HALVINGS: Final = 8
"""Runs on the way to the tolerance with a number of full steps."""


@dataclass
class Search:
    """One search; `run` fills what the report shows.

    Attributes:
        goal: what is wanted.
        trials: measures full steps.
        finals: measures the best again.
        progress: is told the phases.
        cost: of steps; None where full steps are counted, not timed.
        tried: where climbs began, and where they ended.
        measured: the finals.
        late: whether the time was up before the search was through.

    """

    goal: Goal
    trials: Trials
    finals: Finals
    progress: SearchProgress
    cost: StepCost | None = None
    tried: list[Tried] = field(default_factory=list)
    measured: list[Finalist] = field(default_factory=list)
    late: bool = False

    @property
    def steps(self) -> int:
        """Of a run, for one CFG branch."""
        return self.trials.steps

    @property
    def best(self) -> Finalist:
        """What the goal asks for, or what comes closest to it."""
        return self.measured[self.goal.best([f.measured for f in self.measured])]

    @property
    def nothing_tried(self) -> bool:
        """Whether the time was up before the first trial."""
        return not self.tried

    def run(self) -> None:
        """Search until nothing is to be gained, or the time is up.

        Raises:
            TargetError: nothing can be cached, or drawing fails.

        """
        self.progress.begin("cost")
        self.trials.begin()
        try:
            self._measure_cost()
        except TimeUpError:
            self.late = True
        for _ in range(1 + ROUNDS):
            self.progress.begin("climb")
            self._climb_all(self._counts())
            self._halve_gaps()
            self._measure_finals()
            if self.late or not self._correct_cost():
                return

    def _measure_cost(self) -> None:
        if self.goal.target_speedup is None:
            return
        self.trials.clock.check(SHARE)
        self.trials.close()
        self.cost = step_cost(
            self.trials.reference.target,
            self.trials.graph,
            self.steps,
            self.trials.reference.seeds,
            self.finals.repeats,
            self.finals.inner,
            self.trials.journal,
        )

    def _counts(self) -> list[int]:
        """Numbers of full steps to search at, the fewest first."""
        if self.goal.target_nfc is not None:
            return [max(LEAST, min(self.steps - 1, math.floor(self.goal.target_nfc)))]
        if self.goal.target_speedup is None:
            return sorted({max(LEAST, round(share * self.steps)) for share in SHARES})
        if self.cost is None:
            return []
        most = self.cost.most_nfc(self.goal.target_speedup * MARGIN, self.steps)
        most = min(self.steps - 1, math.floor(most))
        return sorted({max(LEAST, round(0.9 * most)), most}) if most >= LEAST else []

    def _climb_all(self, counts: Sequence[int]) -> None:
        """Climb at each, with its share of the time; none is left out for another."""
        begun = self.trials.clock.share
        for place, count in enumerate(counts, 1):
            self.trials.until = begun + (SHARE - begun) * place / len(counts)
            self._climb(count)

    def _climb(self, count: int) -> None:
        found: list[Tried] = []

        def better(mask: Mask) -> bool:
            tried = self.trials.measure("climbed", mask, found[-1])
            if tried is None or not tried.beats(found[-1]):
                return False
            found.append(tried)
            return True

        try:
            for kind, mask in self._starts(count):
                tried = self.trials.measure(kind, mask)
                assert tried is not None, "it has no rival"
                found.append(tried)
            self.tried += found
            found.sort(key=lambda one: one.psnr)
            climb(found[-1].mask, self.steps, better)
        except TimeUpError:
            self.late = True
        self.tried += [one for one in found[-1:] if one not in self.tried]

    def _starts(self, count: int) -> Iterator[tuple[str, Mask]]:
        """Where to begin: evenly, and with the full steps that error control takes."""
        yield "even", even_mask(self.steps, count)
        tolerance, factor = Options().largest_debt, 4.0
        for _ in range(HALVINGS):
            mask = self.trials.full_steps_of({"tolerance": float(f"{tolerance:.3g}")})
            if len(mask) == count:
                yield "error control", mask
                return
            tolerance *= factor if len(mask) > count else 1 / factor
            factor = math.sqrt(factor) if factor > 1.05 else factor

    def _halve_gaps(self) -> None:
        """For a wanted quality: search between what has it and what just has not."""
        if not self.goal.limits_quality or self.goal.limits_cost:
            return
        for _ in range(ROUNDS):
            known = {len(tried.mask) for tried in self.tried}
            good = {len(t.mask) for t in self.tried if self._keeps_quality(t)}
            enough = min(good, default=self.steps)
            too_few = max((n for n in known if n < enough), default=LEAST)
            if enough - too_few > 1 and not self.late:
                self._climb((enough + too_few) // 2)

    def _keeps_quality(self, tried: Tried) -> bool:
        return self.goal.keeps_quality(tried.measured)

    def _measure_finals(self) -> None:
        self.trials.close()
        self.progress.begin("finals")
        known = [final.setting for final in self.measured]
        candidates = [c for c in self._candidates() if c.setting not in known]
        self.measured += self.finals.measure(candidates, self.progress.note)

    def _candidates(self) -> list[Candidate]:
        """The best, or what is fast if nothing was tried, and the defaults."""
        chosen = [Candidate(t.kind, t.setting) for t in self._promising()]
        graph = self.trials.graph
        if not chosen and self.goal.target_speedup is not None:
            fewest = {"target_nfc": LEAST}
            chosen = [Candidate("fewest", default_setting(graph, fewest))]
        default = default_setting(graph, self.goal.option)
        return [*chosen, Candidate("defaults", default)]

    def _promising(self) -> list[Tried]:
        best: dict[int, Tried] = {}
        for tried in sorted(self.tried, key=lambda one: one.psnr):
            best[len(tried.mask)] = tried
        if self.goal.limits_cost:
            return [*best.values()]
        ahead = [(t, (-t.measured.nfc, t.psnr)) for t in best.values()]
        along = [tried for tried, _ in front(ahead)]
        if self.goal.limits_quality:
            enough = [tried for tried in along if self._keeps_quality(tried)]
            fewest_first = sorted(enough, key=lambda one: one.measured.nfc)
            return fewest_first[: MOST_FINALS - 2] or along[-1:]
        return along[:MOST_FINALS]

    def _correct_cost(self) -> bool:
        """Whether the target is missed, and is to be tried again with truer costs."""
        wanted, cost = self.goal.target_speedup, self.cost
        found = [final.measured for final in self.measured]
        if wanted is None or cost is None:
            return False
        if any(not self.goal.misses(one) for one in found):
            return False
        factor = max(speedup(one) / cost.speedup(one.nfc, self.steps) for one in found)
        self.cost = StepCost(cost.full / factor, cost.cached / factor)
        return True
