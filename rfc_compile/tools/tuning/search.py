"""The search, from many cheap trials to few dear ones.

    cost        what a full and a cached step take, for each granularity
    screen      estimators and orders, on one seed, with full steps evenly spread
    schedules   of the best ones: intervals, masks (calibrated), thresholds; for every
                number of full steps that matters, on one seed; the best kinds on all
    finals      the best of all: other seeds, and times in turn with the uncached model

Nothing in it is random but the seeds that are drawn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rfc_compile.tools.measure.pareto import front
from rfc_compile.tools.tuning.calibration import calibrate
from rfc_compile.tools.tuning.clock import TimeUpError
from rfc_compile.tools.tuning.finals import Candidate, Finalist, Finals
from rfc_compile.tools.tuning.goal import Goal, speedup
from rfc_compile.tools.tuning.masks import best_masks
from rfc_compile.tools.tuning.progress import SearchProgress
from rfc_compile.tools.tuning.space import (
    Setting,
    by_granularity,
    default_graph,
    default_setting,
    dynamic_settings,
    even_setting,
    graph_part,
    graph_settings,
    interval_settings,
    mask_setting,
    scheduled,
)
from rfc_compile.tools.tuning.threshold import fit_threshold
from rfc_compile.tools.tuning.timing import StepCost, step_cost
from rfc_compile.tools.tuning.trials import SHARE, Trials, Tried

SHARES: Final = (0.16, 0.22, 0.28, 0.36, 0.5)
"""Full steps to search at, as shares of all, where no cost is given."""

MARGIN: Final = 1.03
"""The speed-up that is searched for, over the one that is wanted: times vary."""

LEAST: Final = 3
"""Full steps that a searched schedule has at least."""

KEPT_ESTIMATORS: Final = 3
"""Estimators with orders that are screened at every granularity."""

KEPT_KINDS: Final = 3
"""Kinds of schedule that are drawn with all seeds, at each number of full steps."""

MOST_FINALS: Final = 7

ROUNDS: Final = 2
"""Times that a search comes nearer to its goal."""


@dataclass
class Search:
    """One search; `run` fills what the report shows.

    Attributes:
        goal: what is wanted.
        trials: measures settings.
        finals: measures the best again.
        fixed: options that are not searched.
        progress: is told the phases.
        costs: of steps, by granularity.
        screened: estimators and orders, on one seed.
        tried: every schedule, on one seed.
        points: the best schedules, on all seeds.
        measured: the finals.
        late: whether the time was up before the search was through.

    """

    goal: Goal
    trials: Trials
    finals: Finals
    fixed: Setting
    progress: SearchProgress
    costs: dict[str, StepCost] = field(default_factory=dict)
    screened: list[Tried] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    points: list[Tried] = field(default_factory=list)
    measured: list[Finalist] = field(default_factory=list)
    late: bool = False
    _masks: list[dict[int, tuple[int, ...]]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Of a run, for one CFG branch."""
        return self.trials.steps

    @property
    def best(self) -> Finalist:
        """What the goal asks for, or what comes closest to it."""
        return self.measured[self.goal.best([f.measured for f in self.measured])]

    def run(self) -> None:
        """Search until nothing is to be gained, or the time is up.

        Raises:
            TargetError: nothing can be cached, or drawing fails.

        """
        self.progress.begin("cost")
        self.trials.begin(default_graph(self.fixed))
        self.trials.close()
        graphs: list[dict[str, Any]] = []
        try:
            self._measure_costs()
            self.progress.begin("screen")
            graphs = self._screen()
            self.progress.begin("schedules")
            self._calibrate(graphs)
            for graph in graphs:
                self._search_schedules(graph, self._counts(graph))
            self._halve_gaps(graphs)
        except TimeUpError:
            self.late = True
        self._measure_finals()
        for _ in range(ROUNDS):
            if self.late or not self._correct_costs():
                return
            try:
                self.progress.begin("schedules")
                for graph in graphs:
                    self._search_schedules(graph, self._counts(graph))
            except TimeUpError:
                self.late = True
            self._measure_finals()

    @property
    def nothing_tried(self) -> bool:
        """Whether the time was up before the first trial."""
        return not (self.screened or self.tried)

    def predicted(self, tried: Tried) -> float:
        """The speed-up of a setting, as far as full steps and their costs tell."""
        cost = self.costs[tried.setting["granularity"]]
        return cost.speedup(tried.measured.nfc, self.steps)

    def _measure_costs(self) -> None:
        """What steps cost, as long as half of the time is left to try them.

        Raises:
            TimeUpError: the time for all trials is up.

        """
        if self.goal.target_nfc is not None:  # full steps are counted, not timed
            return
        self.trials.clock.check(SHARE)
        for granularity, graph in by_granularity(graph_settings(self.fixed)).items():
            if self.costs and self.trials.clock.is_past(0.5):
                return
            self.progress.note(f"granularity {granularity}")
            self.costs[granularity] = step_cost(
                self.trials.reference.target,
                graph,
                self.steps,
                self.trials.reference.seeds,
                self.finals.repeats,
                self.finals.inner,
                self.trials.journal,
            )

    def _counts(self, graph: Setting) -> list[int]:
        """Numbers of full steps to search at with these graphs, the fewest first."""
        if self.goal.target_nfc is not None:
            return [max(LEAST, min(self.steps - 1, math.floor(self.goal.target_nfc)))]
        if self.goal.target_speedup is None:
            return sorted({max(LEAST, round(share * self.steps)) for share in SHARES})
        cost = self.costs[graph["granularity"]]
        most = cost.most_nfc(self.goal.target_speedup * MARGIN, self.steps)
        if most < LEAST:
            return []
        most = min(self.steps - 1, math.floor(most))
        return sorted({max(LEAST, round(0.9 * most)), most})

    def _screen(self) -> list[dict[str, Any]]:
        """The default graphs, then the best ones of every granularity.

        Of granularities whose costs are known, where costs matter.
        """
        graphs = [
            graph
            for graph in graph_settings(self.fixed)
            if not self.costs or graph["granularity"] in self.costs
        ]
        graphs = [graph for graph in graphs if self._counts(graph)]
        if not graphs:
            return []
        default = graphs[0]
        first = [g for g in graphs if g["granularity"] == default["granularity"]]
        self._try_evenly(first)
        kept = [t.setting for t in _by_quality(self.screened)[:KEPT_ESTIMATORS]]
        names = [(g["estimator"], g["order"]) for g in (default, *kept)]
        others = [g for g in graphs if (g["estimator"], g["order"]) in names]
        self._try_evenly([graph for graph in others if graph not in first])
        best = by_granularity(
            graph_part(tried.setting) for tried in _by_quality(self.screened)
        )
        return [default, *(graph for graph in best.values() if graph != default)]

    def _try_evenly(self, graphs: Iterable[Setting]) -> None:
        for graph in graphs:
            counts = self._counts(graph)
            count = counts[len(counts) // 2]
            setting = {**graph, **even_setting(self.steps, count)}
            self.screened += self._one_seed("even mask", setting, count)

    def _calibrate(self, graphs: Sequence[Setting]) -> None:
        """Find masks for every number of full steps, with the best of the graphs."""
        counts = [count for graph in graphs for count in self._counts(graph)]
        if not counts:
            return
        best = graph_part(_by_quality(self.screened)[0].setting)
        farthest = min(self.steps - 1, math.ceil(1.3 * self.steps / min(counts)))
        tables = calibrate(self.trials, best, range(2, farthest + 1))
        self._masks = [best_masks(costs, self.steps) for costs in tables]

    def _search_schedules(self, graph: Setting, counts: Sequence[int]) -> None:
        """Every kind of schedule at these numbers of full steps."""
        for count in counts:
            found = [*self._static(graph, count), *self._dynamic(graph, count)]
            self.tried += found
            best: dict[str, Tried] = {}
            for tried in _by_quality(found):
                best.setdefault(tried.kind, tried)
            for tried in itertools.islice(best.values(), KEPT_KINDS):
                again = self.trials.measure(tried.kind, tried.setting, count)
                self.points += [] if again is None else [again]

    def _static(self, graph: Setting, count: int) -> Iterator[Tried]:
        settings = [("even mask", even_setting(self.steps, count))]
        settings += [("interval", s) for s in interval_settings(self.steps, count)]
        settings += [
            ("optimum mask", mask_setting(masks[count]))
            for masks in self._masks
            if count in masks
        ]
        for kind, setting in settings:
            whole = scheduled(graph, setting, self.fixed)
            if whole:
                yield from self._one_seed(kind, whole, count)

    def _dynamic(self, graph: Setting, count: int) -> Iterator[Tried]:
        for setting in dynamic_settings(self.steps, count):
            whole = scheduled(graph, setting, self.fixed)
            tried = fit_threshold(self.trials, whole, count) if whole else None
            if tried is not None:
                yield tried

    def _one_seed(self, kind: str, setting: Setting, count: int) -> list[Tried]:
        seeds = self.trials.reference.seeds[:1]
        tried = self.trials.measure(kind, setting, count, seeds)
        return [] if tried is None else [tried]

    def _halve_gaps(self, graphs: Sequence[Setting]) -> None:
        """For a wanted quality: search between what has it and what just has not."""
        if not self.goal.limits_quality or self.goal.limits_cost:
            return
        for _, graph in itertools.product(range(ROUNDS), graphs):
            own = [t for t in self.points if graph_part(t.setting) == graph]
            known = {round(t.measured.nfc) for t in own}
            good = [t.measured.nfc for t in own if self.goal.keeps_quality(t.measured)]
            enough = math.ceil(min(good, default=self.steps))
            too_few = max((n for n in known if n < enough), default=LEAST)
            between = (enough + too_few) // 2
            if too_few < between < enough:
                self._search_schedules(graph, [between])

    def _measure_finals(self) -> None:
        self.trials.close()
        self.progress.begin("finals")
        known = [final.setting for final in self.measured]
        chosen = [c for c in self._chosen() if c.setting not in known]
        try:
            for final in self.finals.measure(chosen, self.progress.note):
                self.measured.append(final)
        except TimeUpError:
            self.late = True

    def _chosen(self) -> list[Candidate]:
        """What is measured again, the most promising first, the defaults last."""
        points = self.points or self.tried
        candidates = [Candidate(t.kind, t.setting) for t in self._promising(points)]
        if not candidates and not self.late:  # no number of full steps is few enough
            fewest = even_setting(self.steps, LEAST)
            candidates = [
                Candidate("even mask", scheduled(graph, fewest, self.fixed))
                for graph in by_granularity(graph_settings(self.fixed)).values()
                if scheduled(graph, fewest, self.fixed)
            ]
        return [
            *candidates,
            Candidate("defaults", default_setting(self.fixed, self.goal.option)),
        ]

    def _promising(self, points: Sequence[Tried]) -> list[Tried]:
        if self.goal.limits_cost:
            best: dict[Any, Tried] = {}
            for tried in _by_quality(points):
                place = tried.setting["granularity"], round(tried.measured.nfc)
                best.setdefault(place, tried)
            return [*best.values()][:MOST_FINALS]
        best_first = front((t, (self.predicted(t), t.measured.psnr)) for t in points)
        along = [tried for tried, _ in best_first]
        if self.goal.limits_quality:
            enough = [t for t in along if self.goal.keeps_quality(t.measured)]
            return [*reversed(enough)][: MOST_FINALS - 2] or along[:1]
        gaps = max(1, len(along) - 1) / (MOST_FINALS - 1)
        places = sorted({round(i * gaps) for i in range(MOST_FINALS)})
        return [along[i] for i in places if i < len(along)]

    def _correct_costs(self) -> bool:
        """Whether the target is missed, and is to be tried again with truer costs."""
        wanted = self.goal.target_speedup
        found = [final.measured for final in self.measured]
        if wanted is None or any(not self.goal.misses(one) for one in found):
            return False
        for granularity, cost in self.costs.items():
            own = [
                speedup(f.measured) / cost.speedup(f.measured.nfc, self.steps)
                for f in self.measured
                if f.setting["granularity"] == granularity
            ]
            if own:
                factor = max(own)
                self.costs[granularity] = StepCost(
                    cost.full / factor, cost.cached / factor
                )
        return True


def _by_quality(tried: Iterable[Tried]) -> list[Tried]:
    return sorted(tried, key=lambda one: -one.measured.psnr)
