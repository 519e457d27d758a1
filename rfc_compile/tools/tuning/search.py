"""The search for full steps, on the final images.

    climb    for every number of full steps that matters: from those of `target_nfc`,
             or those that error control takes, whichever are better, as long as
             moving some of them makes the images better
    finals   the best of all: other seeds, and times in turn with the uncached model

If the finals are slower than their full steps promised, it begins again with fewer.
Nothing in it is random but the seeds that are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from rfc_compile.config.options import Options
from rfc_compile.tools.tuning.climb import Mask, climb
from rfc_compile.tools.tuning.finals import Candidate, Finalist, Finals
from rfc_compile.tools.tuning.goal import Goal, speedup
from rfc_compile.tools.tuning.progress import SearchProgress, TimeUpError
from rfc_compile.tools.tuning.space import default_setting
from rfc_compile.tools.tuning.trials import Trials, Tried

SHARES: Final = (0.16, 0.22, 0.28, 0.36, 0.5)
"""Full steps to search at, as shares of all, where no cost is given."""

KEPT: Final = 0.95
"""Of the speed-up that full steps alone promise, where none was timed yet."""

LEAST: Final = 3
"""Full steps that a searched schedule has at least."""

MOST_FINALS: Final = 6

ROUNDS: Final = (0.6, 0.8, 0.95)
"""Shares of the time by which climbs end; later ones where the goal was missed."""

HALVED: Final = 2
"""Gaps between numbers of full steps that are, for a wanted quality."""

HALVINGS: Final = 8
"""Runs on the way to the tolerance with a number of full steps."""


@dataclass
class Search:
    """One search; `run` fills what the report shows.

    Attributes:
        kept: of the speed-up that full steps alone promise, as the finals measured it.
        tried: where climbs began, and where they ended.
        measured: the finals.
        late: whether the time was up before the search was through.
    """

    goal: Goal
    trials: Trials
    finals: Finals
    progress: SearchProgress
    kept: float = KEPT
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
        """Search until no move helps, or the time is up."""
        self.progress.begin("climb")
        self.trials.begin()
        for end in ROUNDS:
            self._climb_all(self._counts(), end)
            self._halve_gaps()
            self._measure_finals()
            if not self._correct_promise():
                return
            self.progress.begin("climb")

    def _counts(self) -> list[int]:
        """Numbers of full steps to search at, the fewest first."""
        if self.goal.target_nfc is not None:
            return [max(LEAST, min(self.steps - 1, math.floor(self.goal.target_nfc)))]
        if self.goal.target_speedup is None:
            return sorted({max(LEAST, round(share * self.steps)) for share in SHARES})
        most = self.steps * self.kept / self.goal.target_speedup
        most = min(self.steps - 1, math.floor(most))
        return sorted({max(LEAST, round(0.9 * most)), most}) if most >= LEAST else []

    def _climb_all(self, counts: Sequence[int], end: float) -> None:
        """Climb at each until a share of the time; none takes that of another."""
        begun = min(self.trials.clock.share, end)
        for place, count in enumerate(counts, 1):
            self.trials.until = begun + (end - begun) * place / len(counts)
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
        """Where to begin: as by default with so many, and as error control has them."""
        yield "even", self.trials.full_steps_of({"target_nfc": count})
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
        for _ in range(HALVED):
            known = {len(tried.mask) for tried in self.tried}
            good = {len(t.mask) for t in self.tried if self._keeps_quality(t)}
            enough = min(good, default=self.steps)
            too_few = max((n for n in known if n < enough), default=LEAST)
            if enough - too_few > 1:
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
        if self.goal.limits_cost:  # the finals tell what held for these seeds alone
            return sorted(self.tried, key=lambda one: -one.psnr)
        best: dict[int, Tried] = {}
        for tried in sorted(self.tried, key=lambda one: one.psnr):
            best[len(tried.mask)] = tried
        if self.goal.limits_quality:
            enough = [best[n] for n in sorted(best) if self._keeps_quality(best[n])]
            return enough[: MOST_FINALS - 2] or [best[n] for n in sorted(best)[-1:]]
        return [*best.values()][:MOST_FINALS]

    def _correct_promise(self) -> bool:
        """Whether the target is missed, and fewer full steps are to be tried."""
        found = [final.measured for final in self.measured]
        met = any(not self.goal.misses(one) for one in found)
        if self.goal.target_speedup is None or met:
            return False
        before = self._counts()
        self.kept = max(speedup(one) * one.nfc / one.steps for one in found)
        return self._counts() != before
