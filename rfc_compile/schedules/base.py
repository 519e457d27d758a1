"""When to compute in full: every schedule answers with a limit on the step's error.

A step is full iff the error that its signal reports exceeds the limit, so ``-inf``
means full and ``inf`` means cached whatever the input does. A static schedule gives
only those two and needs to look at nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rfc_compile.graph_report import GraphReport
from rfc_compile.schedules.decision import Decision

FULL, CACHED = -math.inf, math.inf

DEFAULT_CACHED_RUN = 8
"""Most cached steps in a row where ``max_cached_run`` is ``"auto"`` and no number of
full steps is wanted."""


@dataclass(frozen=True)
class Position:
    """Where a trajectory stands before a step.

    Attributes:
        step: steps done so far, so the index of this one.
        recorded: full steps whose values are kept and may be used.
        since_full: cached steps since the last full one.
        error: sum of the errors of those cached steps.
        total: steps of the whole trajectory, None while not known.
        branch: index of the CFG branch.
        decisions: of this trajectory so far, all branches.
        earlier: of the trajectory before that began alike, if there was one.
        told: how many steps ``rfc_compile.trajectory`` or a pipeline say there are, the
            latter about; None where neither does.

    """

    step: int
    recorded: int
    since_full: int
    error: float
    total: int | None
    branch: int = 0
    decisions: Sequence[Decision] = ()
    earlier: Sequence[Decision] = ()
    told: int | None = None


class ScheduleOptions(Protocol):
    """The options that schedules read (``rfc_compile.Options``)."""

    @property
    def interval(self) -> int:
        """One full step in this many."""

    @property
    def full_steps(self) -> tuple[int, ...]:
        """Indices of the full steps."""

    @property
    def warmup(self) -> int:
        """Full steps at the start."""

    @property
    def final_full(self) -> int:
        """Full steps at the end."""

    @property
    def decision(self) -> str:
        """``sync`` or ``lagged``: whose errors are gone by."""

    @property
    def max_cached_run(self) -> int | Literal["auto"] | None:
        """As given; ``longest_run`` in steps."""

    @property
    def threshold(self) -> float | None:
        """Accumulated relative prediction error."""

    @property
    def target_nfc(self) -> int | None:
        """Full steps wanted."""

    @property
    def target_speedup(self) -> float | None:
        """Speed-up wanted."""

    @property
    def max_error(self) -> float | None:
        """Largest accumulated error."""

    @property
    def has_target(self) -> bool:
        """Whether a number of full steps, or a speed-up, is wanted."""

    @property
    def longest_run(self) -> int | None:
        """Most cached steps in a row, None for no limit."""


class Schedule(ABC):
    """Decides between full and cached.

    Attributes:
        name: the value of the option ``schedule`` and the reason it gives.
        static: whether every limit is ``FULL`` or ``CACHED``.
        reason: what ``stats`` calls a full step that this schedule asked for.

    """

    name: str
    static: bool
    reason: str

    def __init__(
        self, options: ScheduleOptions, report: GraphReport | None = None
    ) -> None:
        self.options = options
        self.report = report

    @abstractmethod
    def limit(self, position: Position) -> float:
        """Largest error of this step with which it may be cached."""

    def decide(self, position: Position) -> tuple[float, str]:
        """The limit, and what ``stats`` calls a full step beyond it."""
        return self.limit(position), self.reason


def guarded_limit(
    schedule: Schedule, options: ScheduleOptions, position: Position
) -> tuple[float, str]:
    """The schedule's limit behind the guards that hold for all, and the reason."""
    if position.recorded == 0 or position.step < options.warmup:
        return FULL, "warmup"
    total = position.total
    if total is not None and total - options.final_full <= position.step < total:
        return FULL, "final"
    cap = options.longest_run
    if cap is not None and position.since_full >= cap:
        return FULL, "cap"
    return schedule.decide(position)
