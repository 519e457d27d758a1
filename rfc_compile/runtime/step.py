"""One call of a graph that leads, placed in a run."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.estimators.step_weights import common_position
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.corrector import Debt
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.sampler_fit import Fit
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import Time, Trajectory
from rfc_compile.schedules.base import Position


@dataclass(eq=False)
class PlacedStep:
    """One call that leads, placed in a run.

    Attributes:
        context: who calls.
        session: whose state it uses.
        arguments: what Dynamo passes.
        trajectory: the run it belongs to.
        branch: the guidance branch it belongs to.
        step: its index.
        time: its timesteps.
        refused: why it did not continue an earlier branch, for a fresh branch.
        fit: how the latent follows from those of the run, its branch's own output
            first; None where that was not looked at.
        leaves: whether its branch continues as a run of its own.
        joins: the run that a branch which leaves joins.

    """

    context: CallContext
    session: Session
    arguments: Sequence[Any]
    trajectory: Trajectory
    branch: GuidanceBranch
    step: int
    time: Time
    refused: str | None = None
    fit: Fit | None = None
    leaves: bool = False
    joins: Trajectory | None = None

    @functools.cached_property
    def positions(self) -> tuple[float, ...] | None:
        """The time of this step and of the kept full steps, newest first.

        None where rows have timesteps that do not move in proportion.
        """
        times = [self.trajectory.times[step] for step in self.branch.state.full_steps]
        return common_position([self.time, *times])

    debt: Debt = field(init=False)

    def __post_init__(self) -> None:
        """What its branch owes before it, with the fit of the step before."""
        follows = self.step == self.branch.step + 1
        self.debt = self.branch.debt.carried_on(self.fit if follows else None)

    @property
    def position(self) -> Position:
        """Where its branch stands, for the schedule."""
        branch, known = self.branch, self.trajectory.timesteps[: self.step]
        kept = branch.state.full_steps
        return Position(
            step=self.step,
            own_step=self.step - branch.first_step,
            last_full=kept[0] if kept else None,
            recorded=len(kept),
            since_full=branch.since_full,
            error=branch.error,
            steps=self.trajectory.steps,
            times=[*known, sum(self.time) / len(self.time)],
            last_interval=kept[0] - kept[1] if len(kept) > 1 else None,
            curvature=branch.curvature,
        )

    @property
    def place(self) -> tuple[Hashable, ...]:
        """All that decides about the step but its signal: ranks must have it alike."""
        run, branch = self.trajectory, self.branch
        return (
            self.step,
            branch.index,
            branch in run.branches,
            len(run.branches),
            len(run.times),
            len(run.decisions),
            run.steps,
            tuple(branch.state.full_steps),
            branch.since_full,
            len(run.changes),
            *sorted(run.varying),
        )

    def run(self, signal: Signal) -> Trajectory:
        """Its run, or a new one where it is another image.

        A branch that leaves its run continues in its own, or joins one. A first step
        once more, with the conditioning, name and weights of a branch that has had it,
        is the first of another image.
        """
        run, branch = self.trajectory, self.branch
        if self.leaves:
            own = run.split_off(branch)
            if self.joins is None:
                return self.session.add(own)
            self.joins.take_over(own)
            return self.joins
        if branch in run.branches or not run.branches:
            return run
        repeated = any(
            other.step == self.step
            and other.conditioning == signal.conditioning
            and other.name == self.context.branch
            and other.state.computed_with == branch.state.computed_with
            for other in run.branches
        )
        if not repeated:
            return run
        branch.index = branch.first_step = 0
        begun = self.session.begin(self.context)
        self.step = 0
        return begun
