"""One study from its start to its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rfc_compile.config.option_values import integer
from rfc_compile.config.options import Options
from rfc_compile.config.tuned_file import Tuned
from rfc_compile.errors import OptionError
from rfc_compile.tools.measure.reference import Reference
from rfc_compile.tools.tuning.goal import Goal, GoalError
from rfc_compile.tools.tuning.search import Search
from rfc_compile.tools.tuning.space import graph_setting

HELD_OUT: Final = 4
"""Seeds of the finals, which no trial draws."""

OPTIONS_FILE, PLOT_FILE, REPORT_FILE, STUDY_FILE = (
    "rfc.json",
    "pareto.png",
    "report.html",
    "study.jsonl",
)


@dataclass(frozen=True)
class Plan:
    """How a study is done, as `tune` takes it; ``fixed`` are options not searched."""

    seed: int = 0
    seeds: int = 3
    time_limit: float | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    inner: str = "inductor"
    repeats: int = 3
    output: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("seeds", 1), ("repeats", 1)):
            integer(name, getattr(self, name), least)
        if self.time_limit is not None and not self.time_limit > 0:
            raise OptionError(
                f"time_limit={self.time_limit!r} is not allowed; allowed: minutes > 0"
            )
        Options.from_mapping({**self.fixed, "inner": self.inner})
        graph_setting(self.fixed)

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
            drawn=self.reference.target.drawn,
        )

    @property
    def missed(self) -> list[str]:
        """The limits that the best options miss."""
        return self.goal.misses(self.search.best.measured)

    def raise_if_missed(self) -> None:
        """Raise if nothing meets the limits."""
        if self.missed:
            missed = ", ".join(self.missed)
            message = f"nothing meets the limits; the closest misses {missed}"
            raise GoalError(message, self.tuned)
