"""One call of a graph that leads, placed in a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.base import Position

MANY_FIRST_STEPS = 4
"""Branches that may begin alike, as runs that are interleaved by hand do."""


@dataclass(frozen=True)
class PlacedStep:
    """One call that leads, placed in a trajectory.

    Attributes:
        caller: who calls.
        scope: whose state it uses.
        arguments: what Dynamo passes.
        trajectory: the run it is taken to belong to.
        branch: the CFG branch it is taken to belong to.
        step: its index.
        timestep: the value of its timestep input.
        refused: why it did not continue an earlier branch, for a fresh branch.

    """

    caller: CallContext
    session: Session
    arguments: Sequence[Any]
    trajectory: Trajectory
    branch: GuidanceBranch
    step: int
    timestep: float
    refused: str | None = None

    @property
    def levels(self) -> tuple[float, ...] | None:
        """The noise levels that its step weights go by, where they are known."""
        full_steps = self.branch.state.full_steps
        return self.trajectory.levels(self.step, self.timestep, full_steps)

    @property
    def position(self) -> Position:
        """Where its branch stands, for the schedule."""
        branch, total = self.branch, self.session.total(self.trajectory)
        told = self.trajectory.num_steps or self.trajectory.announced
        return Position(
            step=self.step - branch.first_step,
            recorded=len(branch.state.full_steps),
            since_full=branch.since_full,
            error=branch.error,
            total=None if total is None else total - branch.first_step,
            branch=branch.index,
            decisions=self.trajectory.decisions,
            earlier=self.session.earlier(self.trajectory),
            told=None if told is None else told - branch.first_step,
        )

    def run(self, signal: Signal | None) -> Trajectory:
        """Its trajectory, or a new one if it repeats the first step once more.

        Two CFG branches differ in their name, conditioning or weights: the first
        timestep again with the same is the first step of another image, as in runs of
        one step.
        """
        known = self.trajectory.branches
        fresh = self.branch not in known
        if signal is None or not fresh or self.step > 0:
            return self.trajectory
        weights = self.branch.state.computed_with
        repeated = any(
            branch.conditioning == signal.conditioning
            and branch.name == self.caller.branch
            and branch.state.computed_with == weights
            for branch in known
        )
        if not repeated or len(known) < MANY_FIRST_STEPS:
            return self.trajectory
        self.branch.index = 0
        return self.session.begin(self.caller)
