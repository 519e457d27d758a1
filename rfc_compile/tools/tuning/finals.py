"""The settings that are left at the end: other seeds, and times.

Each is compared on seeds that the search has not seen, and timed in turn with the
uncached model. All have the same graphs, which are compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from rfc_compile.config.tuned_file import Measured
from rfc_compile.graph_report import newest_number, reports_of
from rfc_compile.io.schema import made_of
from rfc_compile.report.explain import Explanation, explanation_of
from rfc_compile.tools.measure.reference import Reference
from rfc_compile.tools.measure.trial import (
    Run,
    TimedModel,
    Times,
    compare,
    compile_model,
    decide_by,
    draw_cached,
    forget_compiled,
)
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.progress import Clock
from rfc_compile.tools.tuning.space import Setting, describe


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
class Finals:
    """Measures settings once more, on seeds that no trial has drawn.

    ``repeats`` pairs of runs are timed, with the graphs of the backend ``inner``.
    """

    reference: Reference
    journal: Journal
    clock: Clock
    repeats: int
    inner: str

    def measure(
        self, chosen: Sequence[Candidate], note: Callable[[str], None]
    ) -> list[Finalist]:
        """Measure candidates: first the images of all, then, while there is time, how
        long they take.
        """
        if not chosen:
            return []
        first, target = chosen[0].setting, self.reference.target
        forget_compiled()
        before = newest_number()
        compiled = compile_model(target.model, "eager", first)
        draw_cached(target, compiled, self.reference.seeds[0])
        drawn = []
        for candidate in chosen:
            note(describe(candidate.setting))
            decide_by(compiled, candidate.setting)
            drawn.append(compare(self.reference, compiled))
        reports = [r for r in reports_of(compiled) if r.number > before]
        explanation = explanation_of(reports)
        found = []
        for candidate, times, trial in zip(
            chosen, self._times(chosen, note), drawn, strict=True
        ):
            measured = trial.measured
            if times is not None:
                measured = replace(measured, **asdict(times))
            about = candidate.kind, candidate.setting, measured
            found.append(Finalist(*about, trial.runs, explanation))
        return found

    def _times(
        self, chosen: Sequence[Candidate], note: Callable[[str], None]
    ) -> Iterator[Times | None]:
        """Of each candidate; None where the time is up."""
        timed: TimedModel | None = None
        for candidate in chosen:
            setting, seeds = candidate.setting, self.reference.seeds
            key = {"times": dict(setting), "seeds": list(seeds), "inner": self.inner}
            times = self.journal.get(key, partial(made_of, Times))
            if times is None and not self.clock.is_past():
                note(f"time {describe(setting)}")
                if timed is None:
                    timed = TimedModel(
                        self.reference.target, setting, seeds, self.inner
                    )
                timed.decide_by(setting)
                times = timed.times(self.repeats)
                self.journal.add(key, asdict(times))
            yield times
