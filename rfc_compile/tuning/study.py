"""One study from its start to its files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from rfc_compile.config import Options
from rfc_compile.errors import GoalError, OptionError
from rfc_compile.files import check_writable, replace_file
from rfc_compile.json_files import JSON
from rfc_compile.reference import Reference, draw_reference
from rfc_compile.targets import Target
from rfc_compile.tuned import Tuned
from rfc_compile.tuning.clock import Clock
from rfc_compile.tuning.finals import Finals
from rfc_compile.tuning.goal import Goal
from rfc_compile.tuning.journal import Journal
from rfc_compile.tuning.progress import SearchProgress, showing
from rfc_compile.tuning.search import Search
from rfc_compile.tuning.space import graph_settings
from rfc_compile.tuning.trials import Trials

HELD_OUT: Final = 2
"""Seeds of the finals, which no trial draws."""

OPTIONS_FILE, PLOT_FILE, REPORT_FILE, STUDY_FILE = (
    "rfc.json",
    "pareto.png",
    "report.html",
    "study.jsonl",
)


@dataclass(frozen=True)
class Plan:
    """How a study is done.

    Attributes:
        seed: of the first run.
        seeds: runs that the search compares.
        time_limit: in minutes; None for no limit.
        fixed: options that are not searched.
        inner: the inner backend, whose graphs are timed.
        repeats: pairs of timed runs.
        output: folder for the files; None writes none.
        resume: whether to go on with the study in that folder.

    """

    seed: int = 0
    seeds: int = 3
    time_limit: float | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    inner: str = "inductor"
    repeats: int = 3
    output: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            OptionError: one is not allowed.

        """
        for name, least in (("seed", 0), ("seeds", 1), ("repeats", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise OptionError(
                    f"{name}={value!r} is not allowed; allowed: a whole number >= "
                    f"{least}"
                )
        if self.time_limit is not None and not self.time_limit > 0:
            raise OptionError(
                f"time_limit={self.time_limit!r} is not allowed; allowed: minutes > 0"
            )
        Options.from_mapping({**self.fixed, "inner": self.inner})
        if not graph_settings(self.fixed):
            raise OptionError(
                f"options={dict(self.fixed)!r}: nothing is left to search"
            )

    def search_seeds(self) -> range:
        """Seeds of the trials."""
        return range(self.seed, self.seed + self.seeds)

    def held_out_seeds(self) -> range:
        """Seeds of the finals."""
        return range(self.seed + self.seeds, self.seed + self.seeds + HELD_OUT)


@dataclass(frozen=True)
class Study:
    """A study that is over."""

    goal: Goal
    plan: Plan
    search: Search
    reference: Reference
    seconds: float

    @property
    def tuned(self) -> Tuned:
        """The best options and what they gave."""
        best = self.search.best
        return Tuned(
            options=dict(best.setting),
            measured=best.measured,
            fingerprint=self.reference.target.fingerprint(self.search.steps),
        )

    @property
    def missed(self) -> list[str]:
        """The limits that the best options miss."""
        return self.goal.misses(self.search.best.measured)

    def raise_if_missed(self) -> None:
        """Raise if nothing meets the limits.

        Raises:
            GoalError: it holds what comes closest.

        """
        if self.missed:
            missed = ", ".join(self.missed)
            message = f"nothing meets the limits; the closest misses {missed}"
            raise GoalError(message, self.tuned)


def run_study(target: Target, goal: Goal, plan: Plan, *, show: bool) -> Study:
    """Draw the references, search, and write the files.

    Args:
        target: the model and sampler.
        goal: the limits.
        plan: the rest.
        show: whether to show bars, on the error stream.

    Raises:
        OptionError: the folder cannot be written to, or its study is another one.
        TargetError: nothing can be measured with this model and sampler.

    """
    study_file = None if plan.output is None else plan.output / STUDY_FILE
    if plan.output is not None:
        _check_output(plan.output)
    console = Console(stderr=True, quiet=not show, file=sys.stderr)
    clock = Clock(None if plan.time_limit is None else 60 * plan.time_limit)
    with showing(console) as progress:
        progress.begin("reference")
        searched = _draw(target, plan.search_seeds(), progress)
        held_out = _draw(target, plan.held_out_seeds(), progress)
        journal = Journal.open(study_file, _study(target, plan), resume=plan.resume)
        search = Search(
            goal,
            Trials(searched, journal, clock, progress.note),
            Finals(held_out, journal, clock, plan.repeats, plan.inner),
            plan.fixed,
            progress,
        )
        search.run()
    study = Study(goal, plan, search, held_out, clock.seconds)
    if plan.output is not None:
        _write(study, plan.output)
    return study


def _draw(target: Target, seeds: range, progress: SearchProgress) -> Reference:
    progress.note(f"seeds {seeds.start} to {seeds.stop - 1} without caching")
    return draw_reference(target, seeds)


def _study(target: Target, plan: Plan) -> dict[str, JSON]:
    """What the numbers of a study depend on."""
    facts: dict[str, JSON] = {"target": target.name, **asdict(target.fingerprint())}
    seeds: dict[str, JSON] = {"seed": plan.seed, "seeds": plan.seeds}
    return facts | seeds | {"inner": plan.inner}


def _check_output(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"argument --output: {error}") from error
    for name in (OPTIONS_FILE, PLOT_FILE, REPORT_FILE, STUDY_FILE):
        check_writable(folder / name, "--output")


def _write(study: Study, folder: Path) -> None:
    """The plot and the report; the options, if they meet the limits."""
    from rfc_compile.tuning.plots import pareto_plot
    from rfc_compile.tuning.report import render_report

    plot = pareto_plot(study)
    replace_file(folder / PLOT_FILE, plot)
    replace_file(folder / REPORT_FILE, render_report(study, plot))
    if not study.missed:
        study.tuned.save(folder / OPTIONS_FILE)
