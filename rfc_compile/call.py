"""One call of a graph that leads, placed in a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfc_compile.caller import Caller
from rfc_compile.scopes import Scope
from rfc_compile.trajectories import Branch, Trajectory


@dataclass(frozen=True)
class Call:
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

    caller: Caller
    scope: Scope
    arguments: Sequence[Any]
    trajectory: Trajectory
    branch: Branch
    step: int
    timestep: float
    refused: str | None = None

    @property
    def levels(self) -> tuple[float, ...] | None:
        """The noise levels that its step weights go by, where they are known."""
        full_steps = self.branch.state.full_steps
        return self.trajectory.levels(self.step, self.timestep, full_steps)
