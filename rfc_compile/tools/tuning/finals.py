"""The settings that are left at the end: other seeds, and times.

Each is compared on seeds that the search has not seen, and timed in turn with the
uncached model. Settings with the same graphs are timed with one compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rfc_compile.config.tuned_file import Measured
from rfc_compile.graph_report import newest_number, reports_of
from rfc_compile.io.json_files import JSON
from rfc_compile.io.schema import made_of
from rfc_compile.report.explain import Explanation, explanation_of
from rfc_compile.tools.measure.reference import Reference
from rfc_compile.tools.measure.trial import (
    Run,
    TimedModel,
    compare,
    compile_model,
    decide_by,
    draw_cached,
    forget_compiled,
)
from rfc_compile.tools.tuning.clock import Clock
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.space import Setting, describe, graph_part, is_static


@dataclass(frozen=True)
class Candidate:
    """A setting, and what kind of schedule it has."""

    kind: str
    setting: Setting


@dataclass(frozen=True)
class Finalist(Candidate):
    """A candidate's numbers, images and decisions on the seeds of the finals."""

    measured: Measured
    runs: tuple[Run, ...]
    explanation: Explanation


@dataclass(frozen=True)
class Times:
    """What `TimedModel.times` gives, as the journal has it."""

    seconds: float
    uncached_seconds: float
    speedup: float
    graph_breaks: int
    recompiles: int


def _times(place: str, value: JSON) -> dict[str, Any]:
    return asdict(made_of(Times, place, value))


@dataclass(frozen=True)
class Finals:
    """Measures settings once more.

    Attributes:
        reference: of seeds that no trial has drawn.
        journal: where times are kept.
        clock: when to stop; the first graphs are drawn in any case, and timed while
            there is time.
        repeats: pairs of runs with and without caching.
        inner: the backend whose graphs are timed.

    """

    reference: Reference
    journal: Journal
    clock: Clock
    repeats: int
    inner: str

    def measure(
        self, chosen: Iterable[Candidate], note: Callable[[str], None]
    ) -> Iterator[Finalist]:
        """Measure candidates, one by one.

        Raises:
            TimeUpError: the time is up, and at least one was measured.
            TargetError: drawing fails.

        """
        groups: dict[str, list[Candidate]] = {}
        for candidate in chosen:
            graph = graph_part(candidate.setting)
            name = f"{sorted(graph.items())} {is_static(candidate.setting)}"
            groups.setdefault(name, []).append(candidate)
        for place, group in enumerate(groups.values()):
            if place:
                self.clock.check()
            yield from self._measure_group(group, note)

    def _measure_group(
        self, group: list[Candidate], note: Callable[[str], None]
    ) -> Iterator[Finalist]:
        """Candidates with the same graphs: first the images of all, then the times."""
        first, target = group[0].setting, self.reference.target
        forget_compiled()
        before = newest_number()
        compiled = compile_model(target.model, "eager", first)
        draw_cached(target, compiled, self.reference.seeds[0])
        drawn = []
        for candidate in group:
            note(describe(candidate.setting))
            decide_by(compiled, candidate.setting)
            drawn.append(compare(self.reference, compiled))
        reports = [r for r in reports_of(compiled) if r.number > before]
        explanation = explanation_of(reports)
        timed: TimedModel | None = None
        for candidate, trial in zip(group, drawn, strict=True):
            key = {
                "times": dict(candidate.setting),
                "seeds": list(self.reference.seeds),
                "inner": self.inner,
            }
            times = self.journal.get(key, _times)
            if times is None and self.clock.is_past():
                times = {}
            elif times is None:
                note(f"time {describe(candidate.setting)}")
                if timed is None:
                    timed = TimedModel(target, first, self.reference.seeds, self.inner)
                timed.decide_by(candidate.setting)
                times = timed.times(self.repeats)
                self.journal.add(key, times)
            measured = replace(trial.measured, **times)
            yield Finalist(
                candidate.kind, candidate.setting, measured, trial.runs, explanation
            )
